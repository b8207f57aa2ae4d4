"""The result cache: its keys, its bounds and its order."""

import gc
import tracemalloc
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_agent.documents.plan import ModelPlan, VersionPlan
from edge_agent.documents.settings import CacheSettings
from edge_agent.documents.tensors import TensorSpec
from edge_agent.serving.cache import ARRAY_BYTES, ENTRY_BYTES, REST, WINDOW, ResultCache, Worth
from edge_agent.serving.calls import IN_BINARY, InferRequest, Signature
from edge_agent.telemetry.counters import CacheCounters

BYTES = bytes(range(24))
POLICY = ModelPlan("m")


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Remembering:
    """A cache with its counters and clock, for the model files `a` and `b`."""

    def __init__(self, **settings: Any) -> None:
        self.counters = CacheCounters()
        self.clock = Clock()
        self.cache = ResultCache(CacheSettings(**settings), b"s" * 64, self.counters, self.clock)
        self.cache.keep({"a": "m", "b": "n"}, {})

    def put(self, key: bytes, size: int = 1, sha256: str = "a") -> None:
        self.cache.put(key, sha256, {"y": np.zeros(size, np.uint8)})

    def get(self, key: bytes, ttl_s: float | None = None) -> Any:
        remembered = self.cache.get(key, ttl_s)
        return None if remembered is None else remembered.results


def request(
    inputs: dict[str, NDArray[Any]],
    outputs: tuple[str, ...] = ("y",),
    parameters: dict[str, Any] | None = None,
    request_id: str | None = None,
) -> InferRequest:
    return InferRequest(request_id, parameters or {}, inputs, dict.fromkeys(outputs, IN_BINARY))


def key(
    asked: InferRequest,
    datatypes: dict[str, str] | None = None,
    *,
    sha256: str = "a",
    engine: str = "onnx",
    policy: ModelPlan = POLICY,
    **settings: Any,
) -> bytes | None:
    kinds = datatypes or dict.fromkeys(asked.inputs, "FP32")
    specs = {name: TensorSpec(name, kind, (-1,)) for name, kind in kinds.items()}  # type: ignore[arg-type]
    plan = VersionPlan("m", "1", engine, "fp32", sha256, "/f", 1, (), ())
    size = sum(array.nbytes for array in asked.inputs.values())
    return Remembering(**settings).cache.key(plan, policy, Signature(specs, {}), asked, size)


def floats(*shape: int) -> NDArray[Any]:
    return np.frombuffer(BYTES, np.float32).reshape(shape)


DIFFERENT: dict[str, bytes | None] = {
    "plain": key(request({"x": floats(3, 2)})),
    "another shape": key(request({"x": floats(2, 3)})),
    "another rank": key(request({"x": floats(6)})),
    "another datatype": key(request({"x": floats(3, 2).view(np.int32)}), {"x": "INT32"}),
    "another name": key(request({"w": floats(3, 2)})),
    "other content": key(request({"x": floats(3, 2) + 1})),
    "other outputs": key(request({"x": floats(3, 2)}, ("z",))),
    "more outputs": key(request({"x": floats(3, 2)}, ("y", "z"))),
    "another file": key(request({"x": floats(3, 2)}), sha256="b"),
    "another engine": key(request({"x": floats(3, 2)}), engine="npu"),
    "a parameter": key(request({"x": floats(3, 2)}, parameters={"threshold": 0.5})),
    "another value": key(request({"x": floats(3, 2)}, parameters={"threshold": 10**30})),
    "two inputs": key(request({"x": floats(6)[:3], "z": floats(6)[3:]})),
    "split elsewhere": key(request({"x": floats(6)[:2], "z": floats(6)[2:]})),
}


def test_whatever_changes_the_answer_changes_the_key() -> None:
    assert None not in DIFFERENT.values()
    assert len(set(DIFFERENT.values())) == len(DIFFERENT)
    assert all(len(found or b"") >= 16 for found in DIFFERENT.values())


def test_what_does_not_change_the_answer_does_not_change_the_key() -> None:
    plain = DIFFERENT["plain"]
    neutral = {"unit": "u", "cache": True, "binary_data_output": False, "timeout": 5}
    assert key(request({"x": floats(3, 2).copy()}, parameters=neutral, request_id="7")) == plain
    assert key(request({"x": np.asfortranarray(floats(3, 2))})) == plain
    both = key(request({"x": floats(6), "w": floats(6)}, ("y", "z")))
    assert key(request({"w": floats(6), "x": floats(6)}, ("z", "y"))) == both


def test_elements_of_text_do_not_run_into_each_other() -> None:
    texts = [[b"ab", b"c"], [b"a", b"bc"], [b"abc", b""], [b"", b"abc"]]
    keys = {key(request({"x": np.array(text, np.object_)}), {"x": "BYTES"}) for text in texts}
    assert len(keys) == len(texts)


@given(
    st.lists(st.tuples(st.sampled_from(["x", "xy", "y"]), st.lists(st.integers(0, 3))), min_size=2, max_size=2)
)
def test_two_inputs_have_one_key_only_if_they_are_the_same(pairs: list[tuple[str, list[int]]]) -> None:
    one, other = (
        (name, key(request({name: np.array(values, np.uint8)}), {name: "UINT8"})) for name, values in pairs
    )
    assert (one == other) == (pairs[0] == pairs[1])


@pytest.mark.parametrize(
    ("policy", "settings"),
    [
        (POLICY, {"max_bytes": 0}),
        (POLICY, {"max_input_bytes": 23}),
        (ModelPlan("m", cache=False), {}),
        (ModelPlan("m", cache_max_input_bytes=23), {}),
    ],
)
def test_what_is_not_remembered_has_no_key(policy: ModelPlan, settings: dict[str, Any]) -> None:
    assert key(request({"x": floats(6)}), policy=policy, **settings) is None


def test_a_models_limit_goes_before_the_devices() -> None:
    policy = ModelPlan("m", cache_max_input_bytes=24)
    assert key(request({"x": floats(6)}), policy=policy, max_input_bytes=0) is not None


def test_text_counts_by_its_content() -> None:
    text = np.array([b"x" * 100], np.object_)
    assert key(request({"x": text}), {"x": "BYTES"}, max_input_bytes=99) is None


def test_requests_of_a_sequence_have_no_key() -> None:
    assert key(request({"x": floats(6)}, parameters={"sequence_id": 1})) is None


def test_the_same_request_has_other_keys_in_another_process() -> None:
    plan = VersionPlan("m", "1", "onnx", "fp32", "a", "/f", 1, (), ())
    signature = Signature({"x": TensorSpec("x", "FP32", (-1,))}, {})
    one, other = (
        ResultCache(CacheSettings(), secret, CacheCounters(), Clock()).key(
            plan, POLICY, signature, request({"x": floats(6)}), 24
        )
        for secret in (b"1" * 64, b"2" * 64)
    )
    assert one != other


def test_results_cannot_be_changed_from_outside() -> None:
    held = Remembering()
    array = np.zeros(3)
    held.cache.put(b"k", "a", {"y": array})
    array[:] = 7
    assert held.get(b"k")["y"].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="read-only"):
        held.get(b"k")["y"][0] = 1


def test_the_least_recently_used_goes_first() -> None:
    entry = ENTRY_BYTES + ARRAY_BYTES + 1
    held = Remembering(max_bytes=3 * entry)
    for name in (b"1", b"2", b"3"):
        held.put(name)
    assert held.get(b"1") is not None
    held.put(b"4")
    assert [held.get(name) is not None for name in (b"1", b"2", b"3", b"4")] == [True, False, True, True]
    assert held.counters == CacheCounters(bytes=3 * entry, entries=3, evictions=1)


def test_what_would_fill_more_than_the_cache_is_not_kept() -> None:
    held = Remembering(max_bytes=5000)
    held.put(b"1")
    held.put(b"2", size=5000)
    assert held.get(b"1") is not None
    assert held.get(b"2") is None


def test_a_result_grows_old() -> None:
    held = Remembering(ttl_s=10.0)
    held.put(b"1")
    held.clock.now_s += 9.9
    assert held.get(b"1") is not None
    assert held.get(b"1", ttl_s=5.0) is None
    held.put(b"1")
    held.clock.now_s += 10
    assert held.get(b"1") is None
    assert held.counters == CacheCounters()


def test_results_of_a_file_that_is_not_served_any_more_are_forgotten() -> None:
    held = Remembering()
    held.put(b"1", sha256="a")
    held.put(b"2", sha256="b")
    held.cache.keep({"b": "n"}, {})
    assert held.get(b"1") is None
    assert held.get(b"2") is not None
    held.put(b"3", sha256="a")
    assert held.get(b"3") is None
    assert held.counters.entries == 1


class TestShares:
    ENTRY = ENTRY_BYTES + ARRAY_BYTES + 1

    def shared(self) -> Remembering:
        """Return a cache of ten results, of which two may be of the first model."""
        held = Remembering(max_bytes=10 * self.ENTRY)
        held.cache.keep({"a": "m", "b": "n"}, {"m": 0.2, "n": None})
        return held

    def test_a_model_makes_room_among_its_own_results(self) -> None:
        held = self.shared()
        held.put(b"n", sha256="b")
        for name in (b"1", b"2"):
            held.put(name)
        assert held.get(b"1") is not None
        held.put(b"3")
        assert [held.get(name) is not None for name in (b"n", b"1", b"2", b"3")] == [True, True, False, True]
        assert held.counters == CacheCounters(bytes=3 * self.ENTRY, entries=3, evictions=1)

    def test_the_others_make_room_for_a_share_that_is_not_used_up(self) -> None:
        held = self.shared()
        for number in range(10):
            held.put(bytes([number]), sha256="b")
        held.put(b"1")
        assert held.get(b"\x00") is None
        assert held.get(b"1") is not None

    def test_a_result_larger_than_the_share_is_not_kept(self) -> None:
        held = self.shared()
        held.put(b"1", size=2 * self.ENTRY)
        held.put(b"2", size=2 * self.ENTRY, sha256="b")
        assert held.get(b"1") is None
        assert held.get(b"2") is not None

    def test_a_new_plan_changes_the_shares_of_what_is_remembered(self) -> None:
        held = Remembering(max_bytes=10 * self.ENTRY)
        for number in range(5):
            held.put(bytes([number]))
        held.cache.keep({"a": "m", "b": "n"}, {"m": 0.3})
        assert [held.get(bytes([number])) is not None for number in range(5)] == [
            False,
            False,
            True,
            True,
            True,
        ]
        held.cache.keep({"a": "m", "b": "n"}, {})
        for number in range(5):
            held.put(bytes([number]))
        assert held.counters.entries == 5


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 9), st.integers(0, 3000)),
            st.tuples(st.just("get"), st.integers(0, 9), st.just(0)),
        ),
        max_size=60,
    )
)
def test_it_behaves_as_a_list_in_order_of_use(steps: list[tuple[str, int, int]]) -> None:
    limit = 8000
    held, model = Remembering(max_bytes=limit), OrderedDict[bytes, int]()
    for verb, number, size in steps:
        name = bytes([number])
        if verb == "get":
            assert (held.get(name) is not None) == (name in model)
            if name in model:
                model.move_to_end(name)
            continue
        held.put(name, size)
        model.pop(name, None)
        model[name] = size + ENTRY_BYTES + ARRAY_BYTES
        while sum(model.values()) > limit:
            model.popitem(last=False)
        assert held.counters.bytes == sum(model.values())
        assert held.counters.entries == len(model)


@pytest.mark.parametrize("array", [np.zeros(1), np.zeros(1000), np.array([[b"x" * 99] * 20], np.object_)])
def test_the_memory_counted_is_the_memory_taken(array: NDArray[Any]) -> None:
    held, count = Remembering(max_bytes=2**30), 500
    results = [{"y": np.array([[bytes([n % 256]) * 99 for n in range(20)]], np.object_)} for _ in range(count)]
    if array.dtype != np.object_:
        results = [{"y": array}] * count
    gc.collect()
    tracemalloc.start()
    for number in range(count):
        held.cache.put(number.to_bytes(32, "big"), "a", results[number])
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    if array.dtype == np.object_:
        # The elements themselves were there before and are shared, yet the cache may be the last to hold them.
        taken += count * sum(item.__sizeof__() for item in array.flat)
    assert 0.8 * taken < held.counters.bytes < 2.2 * taken


def test_remembering_rests_where_it_does_not_pay() -> None:
    worth = Worth()
    for _ in range(WINDOW):
        assert worth.allow()
        worth.note_lookup(10.0)
        worth.note_saved(9.9)
    assert worth.allow()
    worth.note_lookup(10.0)
    assert [worth.allow() for _ in range(REST)] == [False] * REST
    assert worth.allow()


def test_few_hits_pay_where_runs_take_long() -> None:
    worth = Worth()
    for number in range(10 * WINDOW):
        assert worth.allow()
        worth.note_lookup(10.0)
        worth.note_spent(10.0)
        if number % 100 == 50:
            worth.note_saved(3000.0)
