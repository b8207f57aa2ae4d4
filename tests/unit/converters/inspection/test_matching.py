import pytest

from converters.errors import ConversionError
from converters.formats.layers import LayerSize
from converters.inspection import matching
from converters.inspection.matching import LayerPair
from edge_agent.documents.tensors import TensorSpec

IMAGE = TensorSpec("image", "FP32", (-1, 3, 8, 8))


def test_layers_are_paired_by_name_without_what_quantizers_add() -> None:
    a = [LayerSize("conv1", "Conv", 400, 100), LayerSize("dense", "Gemm", 40, 10)]
    b = [LayerSize("conv1_quant", "Conv", 110, 100), LayerSize("dense_QuantizeLinear_Input", "Gemm", 12, 10)]

    assert matching.match_layers(a, b) == [
        LayerPair("conv1", "Conv", 400, 110, 100, 100),
        LayerPair("dense", "Gemm", 40, 12, 10, 10),
    ]


def test_what_one_layer_became_is_put_together() -> None:
    a = [LayerSize("scores", "Gemm", 420, 105)]
    b = [
        LayerSize("scores_MatMul_output_quantized", "MatMulInteger", 101, 100),
        LayerSize("scores", "Add", 20, 5),
    ]

    assert matching.match_layers(a, b) == [LayerPair("scores", "Gemm", 420, 121, 105, 105)]


def test_others_are_paired_by_their_parameters_in_order() -> None:
    a = [LayerSize("x", "Conv", 40, 10), LayerSize("y", "Conv", 40, 10), LayerSize("z", "Conv", 8, 2)]
    b = [LayerSize("p", "CONV_2D", 11, 10), LayerSize("q", "CONV_2D", 12, 10), LayerSize("r", "ADD", 4, 1)]

    pairs = {pair.name: (pair.a_bytes, pair.b_bytes) for pair in matching.match_layers(a, b)}

    assert pairs == {"x": (40, 11), "y": (40, 12), "z": (8, None), "r": (None, 4)}


def test_the_largest_change_is_first() -> None:
    a = [LayerSize("small", "Conv", 10, 1), LayerSize("large", "Conv", 1000, 100)]
    b = [LayerSize("small", "Conv", 9, 1), LayerSize("large", "Conv", 100, 100)]

    assert [pair.name for pair in matching.match_layers(a, b)] == ["large", "small"]


def test_single_tensors_match_whatever_they_are_called() -> None:
    other = TensorSpec("pixels", "FP32", (1, 3, 8, 8))

    assert matching.match_tensors("input", [IMAGE], [other]) == {"image": "pixels"}
    assert matching.merged([IMAGE], [other]) == (TensorSpec("image", "FP32", (1, 3, 8, 8)),)


def test_several_tensors_match_by_name() -> None:
    state = TensorSpec("state", "FP32", (1, 2))

    assert matching.match_tensors("input", [IMAGE, state], [state, IMAGE]) == {
        "image": "image",
        "state": "state",
    }
    assert matching.merged([IMAGE, state], [state, IMAGE]) == (IMAGE, state)


@pytest.mark.parametrize(
    ("b", "said"),
    [
        ([TensorSpec("image", "FP32", (1, 8, 8, 3))], r"\[any, 3, 8, 8\] in A and FP32 \[1, 8, 8, 3\] in B\.$"),
        ([TensorSpec("image", "UINT8", (1, 3, 8, 8))], r"is FP32 \[.*\] in A and UINT8 \[.*\] in B\.$"),
        ([TensorSpec("image", "FP32", (1, 3, 8))], r"in A and FP32 \[1, 3, 8\] in B\.$"),
        ([IMAGE, TensorSpec("state", "FP32", (1,))], r"A has 1 input and B 2 inputs\.$"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(b: list[TensorSpec], said: str) -> None:
    with pytest.raises(ConversionError, match=said):
        matching.match_tensors("input", [IMAGE], b)


def test_missing_name_is_said() -> None:
    a, b = [IMAGE, TensorSpec("x", "FP32", ())], [IMAGE, TensorSpec("y", "FP32", ())]

    with pytest.raises(ConversionError, match="B has no input 'x'"):
        matching.match_tensors("input", a, b)
