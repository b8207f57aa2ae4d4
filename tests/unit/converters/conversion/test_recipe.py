from pathlib import Path

import pytest

from converters.conversion import recipe
from converters.conversion.recipe import Recipe
from edge_agent.documents.errors import NotFoundError, RequestError

WHOLE = """\
model = "models/net.keras"
name = "net"
to = ["onnx", "tflite"]
precision = ["fp32", "int8"]
labels = "labels.txt"
[data]
path = "train"
[generate]
ranges = { image = [0, 255] }
[prune]
final_sparsity = 0.8
[quantize]
exclude = ["head*"]
[preprocess.image]
mean = [0.5]
[postprocess]
softmax = true
[evaluate]
metric = "f1"
[gate]
max_drop = 0.5
"""


def read(folder: Path, text: str) -> Recipe:
    path = folder / "recipe.toml"
    path.write_text(text)
    return recipe.read_recipe(path)


def test_every_section_is_read(tmp_path: Path) -> None:
    found = read(tmp_path, WHOLE)

    assert found.to == ("onnx", "tflite")
    assert found.precision == ("fp32", "int8")
    assert found.generate.ranges == {"image": (0, 255)}
    assert found.prune is not None
    assert found.prune.final_sparsity == 0.8
    assert found.quantize.exclude == ("head*",)
    assert found.preprocess.image is not None
    assert found.preprocess.image.mean == (0.5,)
    assert found.postprocess.softmax
    assert found.evaluate.metric == "f1"
    assert found.gate.max_drop == 0.5


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    found = read(tmp_path, WHOLE)

    assert found.model == str(tmp_path / "models/net.keras")
    assert found.labels == str(tmp_path / "labels.txt")
    assert found.data.path == str(tmp_path / "train")
    assert found.import_from == found.data.import_from == str(tmp_path)
    assert found.out == "packages"


def test_sections_import_from_the_recipes_folder_unless_they_name_another() -> None:
    found = recipe.parse({"import_from": "mine", "data": {"import_from": "other"}}, "recipe.toml")

    assert (found.data.import_from, found.evaluate.import_from) == ("other", "mine")


def test_what_is_imported_is_no_path(tmp_path: Path) -> None:
    found = read(tmp_path, 'model = "nets:make"\n[data]\npath = "nets.data:load"\n')

    assert (found.model, found.data.path) == ("nets:make", "nets.data:load")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modle = 'x'", "unknown key 'modle'; did you mean 'model'?"),
        ("[prune]\nsparsity = 0.5", "unknown key 'prune.sparsity'; did you mean 'prune."),
        ("[preprocess.image]\nheigth = 3", "unknown key 'preprocess.image.heigth'; did you mean"),
        ("[zzz]\na = 1", "unknown key 'zzz'; it may have: model, "),
        ("[prune]\nfinal_sparsity = 1.5", "prune.final_sparsity: input should be less than 1."),
        ("to = ['coreml']", "to.0: input should be 'onnx' or 'tflite'."),
        ("quantize = 3", "quantize: input should be"),
        ("model = ", "is not TOML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        read(tmp_path, text)

    message = str(caught.value)
    assert said in message
    assert "recipe.toml" in message
    assert "\n" not in message


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"Cannot read the recipe .*give a TOML file"):
        recipe.read_recipe(tmp_path / "none.toml")


def test_flags_win_section_by_section() -> None:
    content = {"name": "a", "gate": {"max_drop": 1.0, "max_size_bytes": 5}}

    assert recipe.merged(content, {"name": "b", "gate": {"max_drop": 2.0}, "prune": {"power": 1}}) == {
        "name": "b",
        "gate": {"max_drop": 2.0, "max_size_bytes": 5},
        "prune": {"power": 1},
    }
    assert content["gate"] == {"max_drop": 1.0, "max_size_bytes": 5}


def test_description_has_no_places_and_no_defaults(tmp_path: Path) -> None:
    described = recipe.described(read(tmp_path, WHOLE))

    assert described["model"] == "net.keras"
    assert described["data"] == {"path": "train"}
    assert described["gate"] == {"max_drop": 0.5}
    assert described["prune"]["final_sparsity"] == 0.8
    assert str(tmp_path) not in str(described)
    assert recipe.described(Recipe(out="elsewhere")) == {}
