import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from converters.data import images
from converters.data.columns import example, training_arrays
from converters.data.fitting import samples_of
from converters.data.read import read_columns
from converters.data.settings import DataSettings
from converters.errors import DataError
from edge_agent.documents.tensors import Datatype, TensorSpec

HEIGHT, WIDTH = 6, 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of colour images, 6 high and 4 wide, whose three channels differ."""
    for name, red in (("cat", 10), ("dog", 200)):
        (tmp_path / name).mkdir()
        for index in range(3):
            pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            pixels[..., 0], pixels[..., 1], pixels[..., 2] = red, index, 255
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    return tmp_path


def fitted(folder: Path, shape: tuple[int, ...], datatype: Datatype = "FP32", **settings):
    columns = read_columns(DataSettings(path=str(folder), **settings))
    return samples_of(columns, [TensorSpec("image", datatype, shape)])


@pytest.mark.parametrize("shape", [(-1, HEIGHT, WIDTH, 3), (1, -1, -1, 3), (HEIGHT, WIDTH, 3)])
def test_channels_last(folder: Path, shape: tuple[int, ...]) -> None:
    samples = fitted(folder, shape)

    image = samples.inputs[0]["image"]
    assert image.dtype == np.float32
    assert TensorSpec("image", "FP32", shape).accepts(image.shape)
    assert samples.targets is not None
    red = (10, 200)[int(samples.targets[0])]
    np.testing.assert_allclose(image.reshape(HEIGHT, WIDTH, 3)[0, 0, [0, 2]], [red / 255, 1], rtol=1e-6)


@pytest.mark.parametrize("shape", [(-1, 3, HEIGHT, WIDTH), (1, 3, -1, -1), (3, HEIGHT, WIDTH)])
def test_channels_first(folder: Path, shape: tuple[int, ...]) -> None:
    image = fitted(folder, shape).inputs[0]["image"]

    assert TensorSpec("image", "FP32", shape).accepts(image.shape)
    np.testing.assert_array_equal(image.reshape(3, HEIGHT, WIDTH)[2], 1)


def test_integers_get_the_pixels_as_they_are(folder: Path) -> None:
    image = fitted(folder, (1, HEIGHT, WIDTH, 3), "UINT8").inputs[0]["image"]

    assert image.dtype == np.uint8
    assert image[0, 0, 0, 2] == 255
    with pytest.raises(DataError, match="255, which int8 cannot hold"):
        fitted(folder, (1, HEIGHT, WIDTH, 3), "INT8")


def test_scale_says_otherwise(folder: Path) -> None:
    assert fitted(folder, (1, HEIGHT, WIDTH, 3), scale=1.0).inputs[0]["image"].max() == 255
    assert fitted(folder, (1, HEIGHT, WIDTH, 3), "INT8", scale=0.25).inputs[0]["image"].max() == 64


@pytest.mark.parametrize("shape", [(1, HEIGHT, WIDTH, 1), (-1, 1, HEIGHT, WIDTH), (-1, HEIGHT, WIDTH)])
def test_gray_by_the_models_channels(folder: Path, shape: tuple[int, ...]) -> None:
    samples = fitted(folder, shape, "UINT8")

    with Image.open(folder / "cat" / "0.png") as image:
        want = np.asarray(image.convert("L"))
    assert any(np.array_equal(sample["image"].reshape(HEIGHT, WIDTH), want) for sample in samples.inputs)
    assert TensorSpec("image", "UINT8", shape).accepts(samples.inputs[0]["image"].shape)


def test_resized_to_the_models_size_as_pillow_does(tmp_path: Path) -> None:
    picture = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4)
    picture.save(tmp_path / "a.png")

    got = fitted(tmp_path, (1, 3, 5, 1), "UINT8").inputs[0]["image"][0, :, :, 0]

    np.testing.assert_array_equal(got, np.asarray(picture.resize((5, 3), Image.Resampling.BILINEAR)))


def test_images_of_many_sizes_need_a_size_where_the_model_takes_any(tmp_path: Path) -> None:
    Image.new("RGB", (8, 4)).save(tmp_path / "a.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"differ in size .* say to which height and width"):
        fitted(tmp_path, (1, -1, -1, 3))

    assert fitted(tmp_path, (1, -1, -1, 3), height=5, width=7).inputs[0]["image"].shape == (1, 5, 7, 3)


@pytest.mark.parametrize(
    ("shape", "settings", "said"),
    [
        ((1, 8, 8, 3), {"height": 9}, "takes a height of 8 pixels, the settings say 9"),
        ((1, 8, 8, 3), {"color": "gray"}, "takes 3 channels, which images in gray do not have"),
        ((1, 64), {}, "holds no image with 1 or 3 channels"),
        ((1, 8, 8, 4), {}, "holds no image with 1 or 3 channels"),
        ((2, 8, 8, 3), {}, "holds no image with 1 or 3 channels"),
    ],
)
def test_inputs_that_images_do_not_fit(folder: Path, shape: tuple[int, ...], settings, said: str) -> None:
    with pytest.raises(DataError, match=said):
        fitted(folder, shape, **settings)


def test_text_and_several_inputs_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="takes text"):
        fitted(folder, (1, 8, 8, 3), "BYTES")
    columns = read_columns(DataSettings(path=str(folder)))
    with pytest.raises(DataError, match="feeds one input, the model takes a, b"):
        samples_of(columns, [TensorSpec(name, "FP32", (1, 8, 8, 3)) for name in "ab"])
    with pytest.raises(DataError, match="feeds one input"):
        training_arrays(columns, ["a", "b"])


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 255, (32, 32, 3), np.uint8)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", ["png", "jpeg", "bmp", "webp", "gif", "tiff", "ppm"])
def test_kinds_of_images_and_damaged_ones(tmp_path: Path, suffix: str) -> None:
    content = encoded(suffix)
    (tmp_path / f"good.{suffix}").write_bytes(content)
    assert fitted(tmp_path, (1, 32, 32, 3), "UINT8").inputs[0]["image"].any()

    for damaged in (b"", b"hello", content[: len(content) // 2]):
        (tmp_path / f"good.{suffix}").write_bytes(damaged)
        with pytest.raises(DataError, match=rf"good\.{suffix} is not an image, or damaged") as caught:
            fitted(tmp_path, (1, 32, 32, 3), "UINT8")
        assert "\n" not in str(caught.value)


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 60000, np.uint16)).save(tmp_path / "deep.png")

    with pytest.raises(DataError, match="more than 8 bits"):
        fitted(tmp_path, (1, 4, 4, 1))


def test_huge_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (40, 40)).save(tmp_path / "huge.png")
    for limit in (1000, 500):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DataError, match="too many pixels"):
            fitted(tmp_path, (1, 4, 4, 1))


def test_no_more_images_than_memory_is_meant_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converters.data.fitting.MAX_FILE_SAMPLES_BYTES", 1)
    monkeypatch.setattr("converters.data.fitting.LEAST", 4)

    samples = fitted(folder, (1, HEIGHT, WIDTH, 3))

    assert len(samples) == 4
    assert samples.targets is not None
    assert np.bincount(samples.targets).tolist() == [2, 2]


class TestTraining:
    def test_arrays_of_all(self, folder: Path) -> None:
        columns = read_columns(DataSettings(path=str(folder)))

        arrays, targets = training_arrays(columns, ["picture"])

        assert arrays["picture"].shape == (6, HEIGHT, WIDTH, 3)
        assert arrays["picture"].dtype == np.float32
        assert targets is not None
        np.testing.assert_allclose(arrays["picture"][:, 0, 0, 0] * 255, np.where(targets, 200, 10), rtol=1e-6)

    def test_channels_first(self, folder: Path) -> None:
        columns = read_columns(DataSettings(path=str(folder)))

        arrays, _ = training_arrays(columns, ["picture"], channels_first=True)
        few = example(columns, ["picture"], channels_first=True)

        assert arrays["picture"].shape == (6, 3, HEIGHT, WIDTH)
        np.testing.assert_array_equal(few["picture"], arrays["picture"][:2])

    def test_gray_images_have_one_channel(self, tmp_path: Path) -> None:
        Image.new("L", (3, 5), 255).save(tmp_path / "a.png")

        few = example(read_columns(DataSettings(path=str(tmp_path))), ["x"])

        assert few["x"].shape == (2, 5, 3, 1)
        assert few["x"].max() == 1
        assert images.common_channels([tmp_path / "a.png"], DataSettings(color="rgb")) == 3

    def test_sizes_that_differ_are_told_also_for_an_example(self, tmp_path: Path) -> None:
        for index, size in enumerate([(4, 4), (4, 4), (4, 5)]):
            Image.new("RGB", size).save(tmp_path / f"{index}.png")
        columns = read_columns(DataSettings(path=str(tmp_path)))

        with pytest.raises(DataError, match="say to which height and width"):
            example(columns, ["x"])
