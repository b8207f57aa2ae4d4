from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from converters import arrays

ARRAYS = npst.arrays(
    st.sampled_from(["float32", "int8", "int64", "bool"]), npst.array_shapes(min_dims=0, min_side=0, max_side=4)
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.dictionaries(st.just("in:0"), ARRAYS, min_size=1), min_size=1, max_size=4), st.booleans())
def test_samples_come_back(tmp_path_factory, samples, compress: bool) -> None:
    path = tmp_path_factory.mktemp("arrays") / "samples.npz"
    arrays.write_arrays(path, arrays.named(samples, "input"), compress=compress)

    read = arrays.read_samples(path, "input", ["in:0"], len(samples))

    for want, got in zip(samples, read, strict=True):
        assert got["in:0"].dtype == want["in:0"].dtype
        np.testing.assert_array_equal(got["in:0"], want["in:0"])


def test_same_arrays_give_same_bytes(tmp_path: Path) -> None:
    content = {"0/input/x": np.arange(6, dtype=np.float32).reshape(2, 3)}
    arrays.write_arrays(tmp_path / "a.npz", content, compress=True)
    arrays.write_arrays(tmp_path / "b.npz", content, compress=True)

    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_all_inputs_in_the_order_of_samples(tmp_path: Path) -> None:
    samples = [{"x": np.array([index])} for index in range(12)]
    arrays.write_arrays(tmp_path / "a.npz", {**arrays.named(samples, "input"), "0/output/y": np.zeros(1)})

    assert [int(sample["x"][0]) for sample in arrays.read_all_inputs(tmp_path / "a.npz")] == list(range(12))


def test_text_is_written_without_objects(tmp_path) -> None:
    labels = np.array([[b"cat", b"", "Größe".encode()]], object)
    path = tmp_path / "samples.npz"

    arrays.write_arrays(path, arrays.named([{"label": labels}], "output"))

    got = arrays.read_samples(path, "output", ["label"], 1)[0]["label"]
    assert got.dtype.kind == "S"
    assert got.tolist() == labels.tolist()
