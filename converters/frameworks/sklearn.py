"""scikit-learn: fitted estimators and pipelines, live or in joblib's files; into ONNX by skl2onnx.

See `converters.frameworks.base.Framework` for the functions' contracts. Source: https://onnx.ai/sklearn-onnx/.
"""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from converters.arrays import Array
from converters.errors import ConversionError, missing, said
from converters.formats import onnx_canonical, onnx_editing, onnx_model
from converters.frameworks import sklearn_columns
from converters.frameworks.base import Pruned, Training
from converters.frameworks.silence import silenced
from converters.prune.settings import PruneSettings
from converters.terms import Advanced, Format, Origin
from edge_agent.documents.errors import ModelError, NotFoundError

INPUT: Final = "input"
"""The one input of estimators that take a matrix."""

OPSET: Final = 20
ML_OPSET: Final = 3
"""Operator sets that gave the same labels as scikit-learn for all estimators that were tried."""

_LABEL: Final = "label"
_PROBABILITIES: Final = "probabilities"
_SCORES: Final = "scores"
_CLASS: Final = re.compile(r"(?:type|alias) '(?:<class ')?([\w.]+)'")


def load(origin: Origin) -> Any:
    """Return the estimator of a .joblib file; raises ModelError unless the origin trusts pickles."""
    path = Path(origin.path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise NotFoundError(f"{path} {what}; give a .joblib file of a fitted estimator.")
    if not origin.trust_pickle:
        raise ModelError(
            f"{path} is a pickle, and loading it can run any code that is in it; give --trust-pickle if you "
            "made it."
        )
    return _checked(_unpickled(path))


def input_names(model: Any) -> tuple[str, ...]:
    """Return `input`, or the columns that a transformer of columns at the beginning picks by name."""
    return sklearn_columns.names(_checked(model)) or (INPUT,)


def export(model: Any, target_format: Format, target: Path, example: Mapping[str, Array]) -> None:
    """Write ONNX with a free batch: of FP32 [n, features], or of an input [n, 1] for each named column.

    Classifiers give `probabilities` first, or `scores` [n, classes] if they have none, and then `label`; what
    gives one result calls it `output`.
    """
    if target_format != "onnx":
        raise ConversionError(
            "scikit-learn models become ONNX, not TFLite; ask for onnx, which onnxruntime runs on the device."
        )
    model = _checked(model)
    proto = _converted(model, _input_types(model, example))
    foreign = onnx_editing.foreign_operators(proto)
    if foreign:
        raise ConversionError(
            f"The {type(_final(model)).__name__} needs the operator {foreign[0]}, which devices do not have; "
            "take another estimator."
        )
    onnx_canonical.clean(proto)
    proto.graph.name = "graph"
    # skl2onnx writes the least opset that has the operators that are used; they mean the same at this one.
    onnx_editing.set_opset(proto, OPSET)
    _name_outputs(proto, model)
    onnx_editing.name_batch(proto)
    onnx_model.save(proto, target)


def prune(model: Any, training: Training, settings: PruneSettings, advanced: Advanced) -> Pruned:
    """Refuse: there is nothing like it in scikit-learn."""
    raise ConversionError(
        "scikit-learn models are not pruned; leave [prune] out, or fit a smaller one, with fewer or shallower "
        "trees or smaller layers."
    )


def _unpickled(path: Path) -> Any:
    _import_sklearn()
    import joblib
    from sklearn.exceptions import InconsistentVersionWarning

    try:
        with silenced():
            warnings.simplefilter("error", InconsistentVersionWarning)
            return joblib.load(path)
    except InconsistentVersionWarning as error:
        raise ModelError(
            f"{path} was saved by scikit-learn {error.original_sklearn_version}, and this is "
            f"{error.current_sklearn_version}, which may compute something else; install that version here, or "
            "save the estimator again with this one."
        ) from error
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{path} needs the module {error.name}, which is not installed; install it."
        ) from error
    except Exception as error:
        raise ModelError(
            f"{path} is not a file that joblib wrote, or it is truncated ({said(error)}); save the "
            "fitted estimator with joblib.dump."
        ) from error


def _checked(model: Any) -> Any:
    """Return the model if it is a fitted estimator."""
    _import_sklearn()
    from sklearn.base import BaseEstimator
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    name = type(model).__name__
    if not isinstance(model, BaseEstimator):
        raise ModelError(f"A {name} is not a scikit-learn estimator; give a fitted estimator or pipeline.")
    try:
        with silenced():
            check_is_fitted(model)
    except NotFittedError as error:
        raise ModelError(f"The {name} is not fitted; call fit before it is converted.") from error
    except TypeError as error:
        raise ModelError(f"The {name} cannot be converted ({said(error)}); give a fitted estimator.") from error
    return model


def _input_types(model: Any, example: Mapping[str, Array]) -> list[tuple[str, Any]]:
    """Return skl2onnx's description of the inputs: FP32, and BYTES for columns of text."""
    types = _import_skl2onnx().common.data_types
    columns = sklearn_columns.names(model)
    if columns:
        texts = sklearn_columns.texts(model) | {
            name for name, array in example.items() if array.dtype.kind in "OSU"
        }
        return [
            (name, (types.StringTensorType if name in texts else types.FloatTensorType)([None, 1]))
            for name in columns
        ]
    features = getattr(model, "n_features_in_", None)
    if features is None and INPUT in example and example[INPUT].ndim == 2:
        features = example[INPUT].shape[1]
    if features is None:
        raise ConversionError(
            f"The {type(model).__name__} does not tell how many features it takes; give data [n, features]."
        )
    return [(INPUT, types.FloatTensorType([None, int(features)]))]


def _converted(model: Any, inputs: list[tuple[str, Any]]) -> Any:
    library = _import_skl2onnx()
    opset = min(OPSET, library.__max_supported_opset__)
    final = model.steps[-1][1] if hasattr(model, "steps") else model
    try:
        with silenced():
            for options in ({id(final): {"zipmap": False}}, None):
                try:
                    return library.convert_sklearn(
                        model,
                        initial_types=inputs,
                        target_opset={"": opset, "ai.onnx.ml": ML_OPSET},
                        options=options,
                    )
                except NameError as error:
                    # Only classifiers know this option, and which ones is told in no other way.
                    if options is None or "zipmap" not in str(error):
                        raise
    except Exception as error:
        named = _CLASS.search(str(error))
        if named:
            raise ConversionError(
                f"skl2onnx cannot convert {named[1]}; replace it by another estimator."
            ) from error
        raise ConversionError(
            f"skl2onnx cannot convert the {type(final).__name__} ({said(error)}); change that, or take "
            "another estimator."
        ) from error
    raise AssertionError


def _name_outputs(proto: Any, model: Any) -> None:
    """Give outputs their common names and order: what classes are read from first."""
    from sklearn.base import is_classifier

    graph = proto.graph
    if any(not output.type.HasField("tensor_type") for output in graph.output):
        raise ConversionError("The estimator gives lists, not one array a result; fit one for each target.")
    inputs = {value.name for value in graph.input}
    names = {}
    for index, output in enumerate(graph.output):
        name = _common_name(output.name, len(graph.output), index, hasattr(model, "predict_proba"))
        names[output.name] = f"{name}_out" if name in inputs else name
    onnx_editing.rename_values(proto, names)
    first = {_PROBABILITIES, *((_SCORES,) if is_classifier(model) else ())}
    onnx_editing.reorder_outputs(proto, [name for name in names.values() if name in first])
    if graph.output[0].name == _SCORES and len(getattr(model, "classes_", ())) == 2:
        # One column or two; of support vector machines the first is that of the second class.
        reverse = type(_final(model)).__name__ in ("SVC", "NuSVC")
        onnx_editing.mirror(proto, _SCORES, 0 if reverse else -1)


def _final(model: Any) -> Any:
    """Return the estimator that gives a pipeline's or a search's answers."""
    while hasattr(model, "steps") or hasattr(model, "best_estimator_"):
        model = model.steps[-1][1] if hasattr(model, "steps") else model.best_estimator_
    return model


def _common_name(name: str, count: int, index: int, probable: bool) -> str:
    if name.startswith(("probabilit", "scores")):
        return _PROBABILITIES if probable and name.startswith("probabilit") else _SCORES
    if name.startswith(("label", "output_label")):
        return _LABEL
    return "output" if count == 1 else f"output_{index}"


def _import_sklearn() -> Any:
    try:
        with silenced():
            import sklearn
    except ImportError as error:
        raise missing("scikit-learn", "convert-sklearn") from error
    return sklearn


def _import_skl2onnx() -> Any:
    try:
        with silenced():
            import skl2onnx
            import skl2onnx.common.data_types
    except ImportError as error:
        raise missing("skl2onnx", "convert-sklearn") from error
    return skl2onnx
