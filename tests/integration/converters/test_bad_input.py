"""What cannot be converted is refused in one sentence with exit code 2, and nothing is left behind."""

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from converters import cli
from support import convertible, converting

SMALL_BYTES = 65536
"""A file system that no package and no conversion fits into."""

Refuse = Callable[..., str]


@pytest.fixture
def refused(workplace: Path, capfd: pytest.CaptureFixture[str]) -> Refuse:
    """Return a function that runs a build which must fail, and returns the sentence that it says."""

    def run(*words: object) -> str:
        code = cli.main(["build", *map(str, words), "--out", "out"])
        out, err = capfd.readouterr()
        assert (code, out) == (2, "")
        assert err.startswith("edge-convert: ")
        assert err.endswith(".\n") or err.endswith("?\n")
        assert len(err.splitlines()) == 1
        assert "/tmp/edge-convert-" not in err
        assert not (workplace / "out").exists()
        return err

    return run


def cut(source: Path, target: Path) -> Path:
    content = source.read_bytes()
    target.write_bytes(content[: 2 * len(content) // 3])
    return target


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make data that fits `models.onnx`, and data that does not."""
    folder = tmp_path_factory.mktemp("samples")
    drawn = convertible.images(40)
    pixels, classes = drawn.pixels[:, None], drawn.classes
    with_nan = pixels.copy()
    with_nan[3, 0, 2, 2] = np.nan
    for name, image, labels in (
        ("good", pixels, classes),
        ("shape", drawn.pixels, classes),
        ("text", np.array(["a"] * 40), classes),
        ("complex", pixels.astype(complex), classes),
        ("few", pixels[:9], classes[:9]),
        ("unequal", pixels, classes[:30]),
        ("nan", with_nan, classes),
        ("many", pixels, classes + 7),
        ("values", pixels, drawn.pixels[:, :4, 0]),
        ("nothing", pixels[:0], classes[:0]),
    ):
        np.savez(folder / f"{name}.npz", image=image, y=labels)
    np.savez(folder / "unlabelled.npz", image=pixels)
    (folder / "broken.npz").write_bytes((folder / "good.npz").read_bytes()[:500])
    for name in "abc":
        (folder / "classes" / name).mkdir(parents=True)
    from PIL import Image

    for name in "ab":
        Image.fromarray((255 * drawn.pixels[0]).astype(np.uint8)).save(folder / "classes" / name / "one.png")
    return folder


class TestFiles:
    @pytest.mark.parametrize("name", ["model.onnx", "model.keras", "model.pt2", "model.h5", "model.tflite"])
    @pytest.mark.parametrize("content", [b"", b"hello", bytes(64)], ids=["empty", "text", "zeros"])
    def test_not_a_model(self, name: str, content: bytes, refused: Refuse, workplace: Path) -> None:
        (workplace / name).write_bytes(content)
        assert f"{name} is " in refused(name)

    def test_not_there_or_only_a_folder(self, refused: Refuse, workplace: Path) -> None:
        assert "none.keras does not exist" in refused("none.keras")
        (workplace / "folder").mkdir()
        assert "is no SavedModel" in refused("folder")

    def test_truncated_files_of_the_formats(self, models, refused: Refuse, workplace: Path) -> None:
        assert "truncated" in refused(cut(models.onnx, workplace / "cut.onnx"))
        assert "truncated" in refused(cut(models.tflite, workplace / "cut.tflite"))

    @pytest.mark.slow
    def test_truncated_keras(self, trained, refused: Refuse, workplace: Path) -> None:
        place = trained("keras")
        assert "truncated" in refused(cut(place / "cnn.keras", workplace / "cut.keras"))
        assert "truncated" in refused(cut(place / "legacy.h5", workplace / "cut.h5"))
        shutil.copytree(place / "saved", "saved")
        cut(place / "saved/saved_model.pb", workplace / "saved/saved_model.pb")
        assert "TensorFlow cannot load" in refused("saved")

    @pytest.mark.slow
    def test_truncated_torch(self, trained, refused: Refuse, workplace: Path) -> None:
        place = trained("torch")
        assert "truncated" in refused(cut(place / "cnn.pt2", workplace / "cut.pt2"))
        cut(place / "weights.pt", workplace / "cut.pt")
        words = ["nets:make_net", "--import-from", place, "--weights", "cut.pt", "--data", place / "torch.npz"]
        assert "is not a state dict" in refused(*words)

    @pytest.mark.slow
    def test_truncated_joblib(self, trained, refused: Refuse, workplace: Path) -> None:
        cut(trained("sklearn") / "forest.joblib", workplace / "cut.joblib")
        assert "truncated" in refused("cut.joblib", "--trust-pickle")

    def test_opset_that_is_too_old(self, refused: Refuse, workplace: Path) -> None:
        convertible.write_onnx(workplace / "old.onnx", convertible.fitted(), opset=5)
        assert "uses opset 5, which is too old" in refused("old.onnx")

    def test_custom_operator_is_named(self, refused: Refuse, workplace: Path) -> None:
        node = helper.make_node("Fancy", ["image"], ["scores"], domain="my.ops")
        graph = helper.make_graph(
            [node],
            "model",
            [helper.make_tensor_value_info("image", 1, ["n", 4])],
            [helper.make_tensor_value_info("scores", 1, ["n", 4])],
        )
        sets = [helper.make_opsetid("", 17), helper.make_opsetid("my.ops", 1)]
        model = helper.make_model(graph, opset_imports=sets, ir_version=8)
        (workplace / "custom.onnx").write_bytes(model.SerializeToString())
        assert "(my.ops.Fancy)" in refused("custom.onnx")

    def test_weights_that_are_not_numbers(self, refused: Refuse, workplace: Path) -> None:
        weights = convertible.fitted()
        weights.filters[0, 0, 0] = np.nan
        convertible.write_onnx(workplace / "nan.onnx", weights)
        convertible.write_tflite(workplace / "nan.tflite", weights)
        assert "NaN or infinite (tensor 'filters')" in refused("nan.onnx")
        assert "NaN or infinite (tensor 'filters')" in refused("nan.tflite")


class TestData:
    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("shape", "should be [samples, 1, 12, 12]; the data has [40, 12, 12]"),
            ("text", "takes float32, the data has <U1"),
            ("complex", "takes float32, the data has complex128"),
            ("few", "holds 9 samples; int8 needs at least 16"),
            ("unequal", "different numbers of samples: 'image' 40, 'y' 30"),
            ("nan", "holds NaN or infinite values"),
            ("many", "but output 'scores' has 4"),
            ("nothing", "holds no samples"),
            ("broken", "is not an .npz file of plain arrays"),
            ("none", "does not exist"),
        ],
    )
    def test_arrays(self, name: str, said: str, models, samples: Path, refused: Refuse) -> None:
        data = samples / f"{name}.npz"
        assert said in refused(models.onnx, "--data", data, "--precision", "int8")

    def test_empty_class(self, models, samples: Path, refused: Refuse) -> None:
        assert "The class 'c' is empty" in refused(models.onnx, "--data", samples / "classes")

    def test_evaluation_data_alone(self, models, samples: Path, refused: Refuse) -> None:
        assert "none to calibrate with" in refused(models.onnx, "--evaluation-data", samples / "good.npz")

    @pytest.mark.parametrize(
        ("name", "metric", "said"),
        [
            ("values", "accuracy", "needs class numbers"),
            ("unlabelled", "f1", "needs labels"),
            ("good", "mae", "has 4 values a sample and the labels 1"),
            ("good", "best", "There is no metric 'best'"),
            ("good", "nowhere:metric", "Cannot import nowhere"),
        ],
    )
    def test_metric_that_does_not_fit(
        self, name: str, metric: str, said: str, models, samples: Path, refused: Refuse
    ) -> None:
        assert said in refused(models.onnx, "--data", samples / f"{name}.npz", "--metric", metric)


class TestRecipes:
    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("precisions = ['int8']", "unknown key 'precisions'; did you mean 'precision'?"),
            ("[quantize]\nexlude = ['a']", "unknown key 'quantize.exlude'; did you mean 'quantize.exclude'?"),
            ("[gate]\nmax_drop = 'much'", "gate.max_drop: input should be a valid number"),
            ("precision = ", "is not TOML"),
        ],
    )
    def test_keys(self, content: str, said: str, refused: Refuse, workplace: Path) -> None:
        (workplace / "recipe.toml").write_text(content)
        assert said in refused("recipe.toml")

    def test_recipe_that_is_not_there(self, refused: Refuse) -> None:
        assert "Cannot read the recipe none.toml" in refused("none.toml")


class TestWaysThatDoNotExist:
    def test_between_the_formats(self, models, refused: Refuse) -> None:
        assert "convert the Keras or PyTorch model that it came from" in refused(models.onnx, "--to", "tflite")
        assert "convert the Keras model or SavedModel" in refused(models.tflite, "--to", "onnx")

    def test_pruning_what_cannot_be_trained(self, models, samples: Path, refused: Refuse) -> None:
        words = ["--prune", "0.5", "--data", samples / "good.npz"]
        assert "An ONNX file cannot be fine-tuned" in refused(models.onnx, *words)
        assert "A TFLite file cannot be fine-tuned" in refused(models.tflite, *words)

    def test_weights_for_a_whole_model(self, models, refused: Refuse) -> None:
        assert "--weights does not go with it" in refused(models.onnx, "--weights", "weights.pt")

    @pytest.mark.slow
    def test_scikit_learn(self, trained, refused: Refuse) -> None:
        place = trained("sklearn")
        forest = [place / "forest.joblib", "--trust-pickle"]
        assert "ask for --to onnx" in refused(*forest, "--to", "tflite")
        assert "are not pruned" in refused(*forest, "--prune", "0.5", "--data", place / "sklearn.npz")

    def test_integer_ends_beside_floats(self, models, samples: Path, refused: Refuse) -> None:
        words = ["--io", "int8", "--precision", "int8,fp32", "--data", samples / "good.npz"]
        assert "ask for --precision int8 alone" in refused(models.onnx, *words)
        words = ["--io", "uint8", "--precision", "int8", "--data", models.tflite_data]
        assert "uint8" in refused(models.tflite, *words)


MAKE_KERAS = """
import numpy as np, keras
model = keras.models.load_model("{place}/cnn.keras")
weights = model.get_weights()
weights[0][0, 0, 0, 0] = np.nan
model.set_weights(weights)
model.save("nan.keras")
matrix = keras.Input((8, 8), name="matrix")
keras.Model(matrix, keras.ops.svd(matrix, compute_uv=False)).save("svd.keras")
"""
MAKE_TORCH = """
import sys
sys.path.insert(0, "{place}")
import nets, torch
net = nets.make_net()
weights = torch.load("{place}/weights.pt")
weights["conv.weight"][0, 0, 0, 0] = float("nan")
torch.save(weights, "nan.pt")
free = ({{0: torch.export.Dim("batch"), 2: torch.export.Dim("length", min=4)}},)
torch.export.save(torch.export.export(nets.Long(), (torch.zeros(2, 1, 9),), dynamic_shapes=free), "long.pt2")
torch.save(torch.ao.quantization.quantize_dynamic(net.eval(), {{torch.nn.Linear}}, torch.qint8), "quantized.pt")
"""


@pytest.fixture(scope="module")
def bad_models(trained, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """Return a function of a framework that gives the folder of its good models and that of its bad ones."""
    import sys

    from support.sources import environment

    def made(kind: str, script: str) -> tuple[Path, Path]:
        place, folder = trained(kind), tmp_path_factory.mktemp("bad")
        command = [sys.executable, "-W", "ignore", "-c", script.format(place=place)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment())
        assert done.returncode == 0, done.stderr
        return place, folder

    return made


@pytest.mark.slow
@pytest.mark.timeout(400)
class TestFrameworks:
    def test_keras(self, bad_models, refused: Refuse) -> None:
        _, bad = bad_models("keras", MAKE_KERAS)
        assert "The model has weights that are NaN" in refused(bad / "nan.keras")
        assert "no built-in counterpart of the operator Svd" in refused(bad / "svd.keras", "--to", "tflite")

    def test_torch(self, bad_models, refused: Refuse) -> None:
        place, bad = bad_models("torch", MAKE_TORCH)
        data = ["--import-from", place, "--data", place / "torch.npz"]
        assert "The model has weights that are NaN" in refused(
            "nets:make_net", "--weights", bad / "nan.pt", *data
        )
        assert "has a free dimension beside the batch" in refused(bad / "long.pt2", "--to", "tflite")
        assert "aten._linalg_eigh cannot be converted to TFLite" in refused(
            "nets:Sorting", *data, "--to", "tflite"
        )
        said = refused(bad / "quantized.pt", "--trust-pickle", *data)
        assert "give the float model and ask for the precision dynamic or int8" in said
        assert "not an nn.Module" in refused("nets:one_number", *data)
        assert "does not tell the shape of its input" in refused("nets:make_net", "--import-from", place)

    def test_what_apps_send_does_not_tell_what_a_module_takes(
        self, trained, refused: Refuse, workplace: Path
    ) -> None:
        place, drawn = trained("torch"), convertible.images(20)
        np.savez("pixels.npz", image=(255 * drawn.pixels[..., None]).astype(np.uint8), y=drawn.classes)
        (workplace / "recipe.toml").write_text(
            f'model = "nets:make_net"\nimport_from = "{place}"\n[data]\npath = "pixels.npz"\n'
            '[preprocess.image]\nchannels = "gray"\n'
        )
        assert "--shape NAME=1,3,48,320" in refused("recipe.toml")


@pytest.mark.slow
class TestMissing:
    """A package is hidden by one of its name that cannot be imported, first on the path."""

    @pytest.mark.parametrize(
        ("kind", "words", "package", "extra"),
        [
            ("keras", ("cnn.keras",), "tensorflow", "convert-keras"),
            ("keras", ("legacy.h5",), "tf_keras", "convert-keras"),
            ("keras", ("saved", "--to", "onnx"), "tf2onnx", "convert-keras"),
            ("torch", ("cnn.pt2",), "torch", "convert-torch"),
            ("torch", ("cnn.pt2", "--to", "tflite"), "litert_torch", "convert-torch"),
            ("sklearn", ("forest.joblib", "--trust-pickle"), "skl2onnx", "convert-sklearn"),
        ],
    )
    def test_framework(
        self, kind: str, words: tuple[str, ...], package: str, extra: str, trained, workplace: Path
    ) -> None:
        first, *more = words
        place = trained(kind)
        said = self.refused(workplace, package, place / first, *more, "--data", place / f"{kind}.npz")
        assert f"{package.replace('_', '-')} is not installed" in said
        assert f"pip install 'edge-inference-agent[{extra}]'." in said

    @pytest.mark.parametrize(
        ("package", "said"),
        [
            ("onnx", "onnx is not installed; install it with: pip install 'edge-inference-agent[convert]'."),
            (
                "onnxruntime",
                "ONNX Runtime cannot be imported (hidden); install it with: pip install "
                "'edge-inference-agent[onnx]'.",
            ),
        ],
    )
    def test_format(self, package: str, said: str, models, workplace: Path) -> None:
        assert said in self.refused(workplace, package, models.onnx, "--precision", "fp32")

    def test_quantizer(self, models, workplace: Path) -> None:
        said = self.refused(workplace, "litert_quantizer", models.tflite, "--precision", "dynamic")
        assert "litert-quantizer is not installed" in said

    def refused(self, workplace: Path, package: str, *words: object) -> str:
        hidden = workplace / "hidden" / package
        hidden.mkdir(parents=True)
        (hidden / "__init__.py").write_text("raise ImportError('hidden')\n")
        options = {"first_on_path": hidden.parent, "PYTHONDONTWRITEBYTECODE": "1"}
        return converting.refused(*words, cwd=workplace, **options)


@contextlib.contextmanager
def small_disk(place: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a file system of this size; needs root, as the tests have in CI."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.slow
class TestDiskFull:
    def test_where_the_package_goes(self, workplace: Path) -> None:
        with small_disk(workplace / "disk", SMALL_BYTES):
            words = [convertible.magika(), "--precision", "fp32", "--range", "bytes=0:256", "--samples", "8"]
            said = converting.refused(*words, "--out", "disk/out", cwd=workplace)
        assert "Cannot write disk/out/model/" in said
        assert "No space left on device; free some space on that disk" in said

    @pytest.mark.parametrize("size_bytes", [SMALL_BYTES, 4 * 2**20])
    def test_where_it_works(self, size_bytes: int, workplace: Path) -> None:
        with small_disk(workplace / "disk", size_bytes) as disk:
            words = [convertible.magika(), "--range", "bytes=0:256", "--samples", "400", "--out", "out"]
            said = converting.refused(*words, cwd=workplace, TMPDIR=str(disk))
        assert "free some space on that disk" in said
