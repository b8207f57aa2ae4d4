import copy
import warnings
from collections.abc import Iterator
from pathlib import Path

import joblib
import numpy as np
import onnx
import pytest
from sklearn.base import BaseEstimator
from sklearn.cluster import DBSCAN, KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC
from threadpoolctl import threadpool_limits

from converters.errors import ConversionError
from converters.frameworks import sklearn as framework
from converters.frameworks.base import Training
from converters.frameworks.registry import find
from converters.prune.settings import PruneSettings
from converters.terms import Origin
from edge_agent.documents.errors import ModelError, NotFoundError
from edge_agent.documents.settings import EngineSettings
from edge_agent.engines.onnx import OnnxEngine

FITTED_ON = 300

CLASSIFIERS = {
    "logistic": LogisticRegression(max_iter=200),
    "mlp": MLPClassifier((16,), max_iter=40, random_state=0),
    "forest": RandomForestClassifier(15, random_state=0),
    "boosting": HistGradientBoostingClassifier(max_iter=8, random_state=0),
    "svc": SVC(probability=True, random_state=0),
    "pipeline": make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)),
    "search": GridSearchCV(LogisticRegression(max_iter=200), {"C": [0.1, 1]}, cv=2),
}
SCORERS = {
    "linear svc": LinearSVC(random_state=0, max_iter=200),
    "svc": SVC(),
    "ridge": RidgeClassifier(),
    "sgd": SGDClassifier(random_state=0),
}
REGRESSORS = {
    "linear": LinearRegression(),
    "mlp": MLPRegressor(hidden_layer_sizes=(8,), max_iter=40, random_state=0),
    "forest": RandomForestRegressor(5, random_state=0),
    "boosting": HistGradientBoostingRegressor(max_iter=8, random_state=0),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models this small only wait for threads."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    pixels, numbers = load_digits(return_X_y=True)
    return pixels.astype(np.float32), numbers


def fitted(model: BaseEstimator, pixels: np.ndarray, targets: np.ndarray) -> BaseEstimator:
    with warnings.catch_warnings():
        # Too few steps to converge, and what scikit-learn will drop some day.
        warnings.simplefilter("ignore")
        return copy.deepcopy(model).fit(pixels[:FITTED_ON], targets[:FITTED_ON])


def exported(model: BaseEstimator, path: Path) -> OnnxEngine:
    framework.export(model, "onnx", path, {})
    return OnnxEngine.load(path, EngineSettings())


class TestClassifiers:
    @pytest.mark.parametrize("model", CLASSIFIERS.values(), ids=CLASSIFIERS)
    def test_labels_are_those_of_scikit_learn(self, model, digits, tmp_path: Path) -> None:
        pixels, numbers = digits
        model = fitted(model, pixels, numbers)

        engine = exported(model, tmp_path / "m.onnx")

        assert framework.input_names(model) == ("input",)
        assert [(spec.name, spec.datatype, spec.shape) for spec in engine.inputs] == [
            ("input", "FP32", (-1, 64))
        ]
        assert [(spec.name, spec.datatype) for spec in engine.outputs] == [
            ("probabilities", "FP32"),
            ("label", "INT64"),
        ]
        rest = pixels[FITTED_ON:]
        got = engine.run({"input": rest})
        want = model.predict_proba(rest)
        np.testing.assert_allclose(got["probabilities"], want, atol=1e-5)
        # Trees that vote for two classes equally often tie, which float32 and float64 break differently.
        first, second = np.sort(want, axis=1)[:, :-3:-1].T
        clear = first - second > 1e-6
        assert clear.mean() > 0.9
        np.testing.assert_array_equal(got["label"][clear], model.predict(rest)[clear])

    @pytest.mark.parametrize("model", SCORERS.values(), ids=SCORERS)
    @pytest.mark.parametrize("classes", [2, 10])
    def test_without_probabilities_the_largest_score_is_the_class(
        self, model, classes, digits, tmp_path: Path
    ) -> None:
        pixels, numbers = digits
        model = fitted(model, pixels, numbers % classes)

        engine = exported(model, tmp_path / "m.onnx")

        assert [spec.name for spec in engine.outputs] == ["scores", "label"]
        assert engine.outputs[0].shape == (-1, classes)
        rest = pixels[FITTED_ON:]
        got = engine.run({"input": rest})
        np.testing.assert_array_equal(got["label"], model.predict(rest))
        # scikit-learn itself breaks ties of a multiclass SVC's votes in another way than its scores tell.
        assert np.mean(got["scores"].argmax(1) == model.predict(rest)) > 0.99

    def test_words_as_labels(self, digits, tmp_path: Path) -> None:
        pixels, numbers = digits
        model = fitted(LogisticRegression(max_iter=200), pixels, np.where(numbers > 4, "high", "low"))

        engine = exported(model, tmp_path / "m.onnx")

        assert [spec.datatype for spec in engine.outputs] == ["FP32", "BYTES"]
        got = [bytes(label).decode() for label in engine.run({"input": pixels[:20]})["label"]]
        assert got == list(model.predict(pixels[:20]))


class TestOthers:
    @pytest.mark.parametrize("model", REGRESSORS.values(), ids=REGRESSORS)
    def test_regressors_give_one_output(self, model, digits, tmp_path: Path) -> None:
        pixels, numbers = digits
        model = fitted(model, pixels, numbers.astype(np.float32))

        engine = exported(model, tmp_path / "m.onnx")

        assert [spec.name for spec in engine.outputs] == ["output"]
        got = engine.run({"input": pixels[FITTED_ON:]})["output"][:, 0]
        np.testing.assert_allclose(got, model.predict(pixels[FITTED_ON:]), rtol=1e-4, atol=1e-4)

    def test_clusters(self, digits, tmp_path: Path) -> None:
        pixels, numbers = digits
        model = fitted(KMeans(3, n_init=1, random_state=0), pixels, numbers)

        engine = exported(model, tmp_path / "m.onnx")

        assert [spec.name for spec in engine.outputs] == ["label", "scores"]
        np.testing.assert_array_equal(engine.run({"input": pixels})["label"], model.predict(pixels))

    def test_transformers(self, digits, tmp_path: Path) -> None:
        pixels, numbers = digits
        model = fitted(StandardScaler(), pixels, numbers)

        got = exported(model, tmp_path / "m.onnx").run({"input": pixels})["output"]

        np.testing.assert_allclose(got, model.transform(pixels), atol=1e-4)

    @pytest.mark.parametrize("remainder", ["drop", "passthrough"])
    def test_named_columns_are_inputs_of_their_own(self, remainder, tmp_path: Path) -> None:
        by_position, by_name, table = columns(remainder)

        assert framework.input_names(by_position.named_steps["model"]) == ("input",)
        assert framework.input_names(by_name) == (
            ("age", "size", "colour") if remainder == "passthrough" else ("age", "colour")
        )
        engine = exported(by_name, tmp_path / "m.onnx")

        assert {spec.name: spec.datatype for spec in engine.inputs}["colour"] == "BYTES"
        assert {spec.name: spec.shape for spec in engine.inputs}["age"] == (-1, 1)
        names = ["age", "size", "colour"]
        inputs = {
            spec.name: np.array(
                [
                    [str(v).encode() if spec.datatype == "BYTES" else v]
                    for v in table[:, names.index(spec.name)]
                ],
                object if spec.datatype == "BYTES" else np.float32,
            )
            for spec in engine.inputs
        }
        np.testing.assert_array_equal(engine.run(inputs)["label"], by_position.predict(table))


def columns(remainder: str) -> tuple[Pipeline, Pipeline, np.ndarray]:
    """Return a pipeline fitted on columns by position, and the same as it is when fitted on named ones."""
    random = np.random.default_rng(0)
    table = np.empty((60, 3), object)
    table[:, 0] = random.normal(size=60).astype(np.float32)
    table[:, 1] = random.integers(0, 9, 60)
    table[:, 2] = random.choice(["red", "blue"], 60)
    transformer = ColumnTransformer(
        [("n", StandardScaler(), [0]), ("o", OneHotEncoder(), [2])], remainder=remainder
    )
    model = Pipeline([("columns", transformer), ("model", LogisticRegression())])
    model.fit(table, (table[:, 0] > 0).astype(int))
    named = copy.deepcopy(model)
    inner = named.named_steps["columns"]
    inner.feature_names_in_ = np.array(["age", "size", "colour"], object)
    inner.transformers_ = [
        (name, part, [str(inner.feature_names_in_[place]) for place in places])
        for name, part, places in inner.transformers_
    ]
    inner.transformers = [
        (name, part, [str(inner.feature_names_in_[place]) for place in places])
        for name, part, places in inner.transformers
    ]
    return model, named, table


class TestFiles:
    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, digits) -> BaseEstimator:
        return fitted(LogisticRegression(max_iter=200), *digits)

    def test_is_loaded_with_trust_alone(self, model, digits, tmp_path: Path) -> None:
        joblib.dump(model, tmp_path / "m.joblib", compress=3)

        with pytest.raises(ModelError, match="can run any code that is in it; give --trust-pickle"):
            find("scikit-learn").load(Origin("scikit-learn", str(tmp_path / "m.joblib")))
        loaded = framework.load(Origin("scikit-learn", str(tmp_path / "m.joblib"), trust_pickle=True))

        np.testing.assert_array_equal(loaded.predict(digits[0]), model.predict(digits[0]))

    def test_is_valid_at_an_opset_that_quantizers_take(self, model, tmp_path: Path) -> None:
        framework.export(model, "onnx", tmp_path / "m.onnx", {})

        proto = onnx.load(tmp_path / "m.onnx")
        onnx.checker.check_model(proto)
        assert {entry.domain: entry.version for entry in proto.opset_import} == {"": 20, "ai.onnx.ml": 1}

    def test_other_version_is_named(self, model, tmp_path: Path) -> None:
        joblib.dump(Aged(model), tmp_path / "m.joblib")

        with pytest.raises(ModelError, match=r"was saved by scikit-learn 0\.1"):
            framework.load(Origin("scikit-learn", str(tmp_path / "m.joblib"), trust_pickle=True))


def aged(model: BaseEstimator) -> dict[str, object]:
    return {**model.__dict__, "_sklearn_version": "0.1"}


class Aged:
    """Pickles as an estimator that an older scikit-learn saved."""

    def __init__(self, model: BaseEstimator) -> None:
        self._model = model

    def __reduce__(self):
        return LogisticRegression, (), aged(self._model)


class TestRefusals:
    @pytest.mark.parametrize("content", [b"", b"no pickle", b"\x80\x04\x95torn"], ids=["empty", "text", "torn"])
    def test_other_files(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "m.joblib").write_bytes(content)

        with pytest.raises(ModelError, match="not a file that joblib wrote, or it is truncated"):
            framework.load(Origin("scikit-learn", str(tmp_path / "m.joblib"), trust_pickle=True))

    def test_other_objects(self, tmp_path: Path) -> None:
        joblib.dump({"weights": [1, 2]}, tmp_path / "m.joblib")

        with pytest.raises(ModelError, match="A dict is not a scikit-learn estimator"):
            framework.load(Origin("scikit-learn", str(tmp_path / "m.joblib"), trust_pickle=True))

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match=r"gone.joblib does not exist"):
            framework.load(Origin("scikit-learn", str(tmp_path / "gone.joblib"), trust_pickle=True))

    def test_unfitted(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="The LogisticRegression is not fitted; call fit"):
            framework.export(LogisticRegression(), "onnx", tmp_path / "m.onnx", {})

    def test_unsupported_estimator_is_named(self, digits, tmp_path: Path) -> None:
        with pytest.raises(ConversionError, match=r"cannot convert sklearn\.cluster\._dbscan\.DBSCAN"):
            exported(fitted(DBSCAN(), *digits), tmp_path / "m.onnx")

    def test_operator_that_no_device_has_is_named(self, digits, tmp_path: Path) -> None:
        model = fitted(GaussianProcessClassifier(), digits[0][:, :8], digits[1] % 2)

        with pytest.raises(ConversionError, match=r"needs the operator com\.microsoft:Solve"):
            framework.export(model, "onnx", tmp_path / "m.onnx", {})
        assert not (tmp_path / "m.onnx").exists()

    def test_tflite(self, digits, tmp_path: Path) -> None:
        with pytest.raises(ConversionError, match="ask for onnx"):
            framework.export(fitted(LinearRegression(), *digits), "tflite", tmp_path / "m.tflite", {})

    def test_pruning(self, digits) -> None:
        with pytest.raises(ConversionError, match="are not pruned"):
            framework.prune(
                fitted(LinearRegression(), *digits),
                Training({"input": digits[0]}, digits[1]),
                PruneSettings(),
                lambda share: None,
            )
