import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.errors import ConversionError
from converters.quantize import layers
from converters.quantize.layers import Operator


def operator(name: str, inputs: str, outputs: str, *, computing: bool = False) -> Operator:
    return Operator(name, tuple(inputs.split()), tuple(outputs.split()), computing)


GRAPH = (
    operator("preprocess/scale", "pixels", "x"),
    operator("lead", "x", "x0"),
    operator("conv", "x0", "a", computing=True),
    operator("relu", "a", "b"),
    operator("dense[0]", "b", "c", computing=True),
    operator("add", "b c", "d"),
    operator("dense0", "d", "e", computing=True),
    operator("postprocess/softmax", "e", "f"),
)
PROCESSING = {"preprocess/scale", "postprocess/softmax"}


def test_layers_are_those_of_the_trained_model() -> None:
    assert layers.layers(GRAPH) == ("conv", "dense[0]", "dense0")


def test_each_operator_belongs_to_the_latest_layer_before_it() -> None:
    grouped = layers.groups(GRAPH)

    assert grouped["conv"] == {"conv", "relu", "lead", "preprocess/scale"}
    assert grouped["dense[0]"] == {"dense[0]", "add"}
    assert grouped["dense0"] == {"dense0", "postprocess/softmax"}


def test_processing_stays_in_float_without_being_named() -> None:
    assert layers.in_float(GRAPH, ()) == PROCESSING


def test_a_layer_takes_its_group_along_and_another_operator_does_not() -> None:
    assert layers.in_float(GRAPH, ("dense[0]",)) == PROCESSING | {"dense[0]", "add"}
    assert layers.in_float(GRAPH, ("relu",)) == PROCESSING | {"relu"}


def test_patterns_match_names_and_a_name_that_looks_like_one_means_itself() -> None:
    assert layers.in_float(GRAPH, ("dense*",)) >= {"dense[0]", "dense0"}
    assert "dense0" not in layers.in_float(GRAPH, ("dense[0]",))


def test_what_matches_nothing_is_told_with_the_layers() -> None:
    with pytest.raises(ConversionError, match=r"'den' in exclude matches no layer .* conv, dense\[0\], dense0"):
        layers.in_float(GRAPH, ("conv", "den"))


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Operator, ...]:
    count = draw(st.integers(1, 12))
    tensors = ["x"]
    found = []
    for index in range(count):
        inputs = draw(st.lists(st.sampled_from(tensors), min_size=1, max_size=3, unique=True))
        found.append(Operator(f"n{index}", tuple(inputs), (f"t{index}",), draw(st.booleans())))
        tensors.append(f"t{index}")
    return tuple(found)


@given(graphs())
def test_groups_share_out_all_operators_of_a_graph_with_layers(graph: tuple[Operator, ...]) -> None:
    grouped = layers.groups(graph)

    assert tuple(grouped) == layers.layers(graph)
    members = [name for group in grouped.values() for name in group]
    assert sorted(members) == sorted(one.name for one in graph if grouped)
    assert all(sum(one.computing for one in graph if one.name in group) == 1 for group in grouped.values())
