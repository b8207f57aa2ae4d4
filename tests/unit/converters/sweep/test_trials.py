from dataclasses import replace

import pytest

from converters.checks.gate import Gate
from converters.conversion.recipe import Recipe
from converters.data.settings import DataSettings
from converters.prune.settings import PruneSettings
from converters.quantize.settings import QuantizeSettings
from converters.sweep.trials import OPEN, Facts, Trial, trials

DATA = DataSettings(path="data.npz")
BOTH = Facts(formats=("onnx", "tflite"), prunable=True)


def names(found: list[Trial]) -> list[str]:
    return [trial.name for trial in found]


def test_everything_that_a_trained_model_with_data_allows() -> None:
    found = trials("m", Recipe(data=DATA), BOTH)
    assert names(found) == [
        "onnx fp32",
        "onnx fp16",
        "onnx dynamic",
        "onnx int8 minmax",
        "onnx int8 entropy",
        "onnx int8 percentile",
        "onnx int8 minmax per-tensor",
        "onnx int8 search",
        "tflite fp32",
        "tflite fp16",
        "tflite dynamic",
        "tflite int8 minmax",
        "tflite int8 entropy",
        "tflite int8 percentile",
        "tflite int8 minmax per-tensor",
        "tflite int8 search",
        "tflite int16x8",
    ]


def test_without_data_nothing_is_calibrated_or_pruned() -> None:
    found = names(trials("m", Recipe(), BOTH, prune=[0.5]))
    assert found == [f"{kind} {name}" for kind in ("onnx", "tflite") for name in ("fp32", "fp16", "dynamic")]


def test_a_quantized_model_is_only_taken_as_it_is() -> None:
    (found,) = trials("m", Recipe(data=DATA), Facts(formats=("tflite",), precision="int8"), prune=[0.5])
    assert (found.name, found.recipe.precision) == ("tflite int8", ("int8",))


def test_a_half_precision_model_cannot_become_a_whole_one() -> None:
    found = names(trials("m", Recipe(), Facts(formats=("tflite",), precision="fp16")))
    assert found == ["tflite fp16", "tflite dynamic"]


def test_the_recipe_narrows_what_is_tried() -> None:
    recipe = Recipe(data=DATA, to=("tflite",), precision=("fp32", "int16x8"))
    assert names(trials("m", recipe, BOTH)) == ["tflite fp32", "tflite int16x8"]


def test_every_level_of_pruning_is_tried_where_it_can_be() -> None:
    recipe = Recipe(data=DATA, to=("onnx",), precision=("fp32",), prune=PruneSettings(end_step=7))
    found = trials("m", recipe, BOTH, prune=[0.5, 0.8])
    assert names(found) == ["onnx fp32", "onnx fp32, 50 % pruned", "onnx fp32, 80 % pruned"]
    pruned = [trial.recipe.prune for trial in found]
    assert pruned == [
        None,
        PruneSettings(end_step=7, final_sparsity=0.5),
        PruneSettings(end_step=7, final_sparsity=0.8),
    ]
    assert names(trials("m", recipe, replace(BOTH, prunable=False), prune=[0.5])) == ["onnx fp32"]


def test_gates_are_open_but_for_a_search_which_aims_at_its_drop() -> None:
    recipe = Recipe(data=DATA, gate=Gate(max_drop=2.0, max_size_bytes=1))
    gates = {trial.name: trial.recipe.gate for trial in trials("m", recipe, BOTH)}
    assert gates["onnx int8 search"] == Gate(max_drop=2.0)
    assert {gate for name, gate in gates.items() if "search" not in name} == {OPEN}
    (aimed,) = (one.recipe.gate for one in trials("m", recipe, BOTH, (), 0.5) if one.name == "onnx int8 search")
    assert aimed == Gate(max_drop=0.5)


@pytest.mark.parametrize(
    "trial", trials("m", Recipe(data=DATA, quantize=QuantizeSettings(exclude=("a",))), BOTH)
)
def test_each_trial_is_one_target_and_precision_and_keeps_what_the_recipe_excludes(trial: Trial) -> None:
    assert trial.recipe.to is not None
    assert trial.recipe.precision is not None
    assert len(trial.recipe.to) == len(trial.recipe.precision) == 1
    assert trial.recipe.quantize.exclude == ("a",)
    assert trial.recipe.quantize.search == ("search" in trial.name)
