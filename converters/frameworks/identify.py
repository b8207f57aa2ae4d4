"""Which framework a model comes from, told by its content, or by the type of a live object.

Nothing is loaded here: neither the model nor the framework.
"""

import zipfile
from pathlib import Path
from typing import Final

from converters.errors import missing
from converters.frameworks import hdf5
from converters.terms import FrameworkName
from edge_agent.documents.errors import ModelError, NotFoundError

ZIP_MAGIC: Final = b"PK\x03\x04"
_PICKLES: Final = (".joblib", ".pkl", ".pickle")
_TORCH_LEGACY: Final = (".pt", ".pth")
_SAVED_MODEL: Final = "saved_model.pb"
_FIRST_KERAS_3: Final = 3
METADATA: Final = "metadata.json"
_LARGEST_METADATA: Final = 2**16

_LIVE: Final[dict[str, FrameworkName]] = {
    "keras.src.models.model.Model": "keras",
    "tf_keras.src.engine.training.Model": "tf-keras",
    "torch.nn.modules.module.Module": "torch",
    "torch.export.exported_program.ExportedProgram": "torch",
    "sklearn.base.BaseEstimator": "scikit-learn",
}
"""The classes that live models are instances of, by framework."""


def identify_file(path: Path) -> FrameworkName | None:
    """Return the framework that wrote a file or folder, None for what may be ONNX or TFLite.

    Raises NotFoundError when it is not there, ModelError for a folder or archive that no framework writes, and
    ToolMissingError when h5py is needed to tell.
    """
    if path.is_dir():
        return _of_folder(path)
    try:
        with path.open("rb") as file:
            start = file.read(len(hdf5.MAGIC))
    except FileNotFoundError:
        raise NotFoundError(f"{path} does not exist; give a model's file or folder.") from None
    except OSError as error:
        raise NotFoundError(f"Cannot read {path}: {error.strerror}; check its permissions.") from error
    if start == hdf5.MAGIC:
        return _of_hdf5(path)
    if path.suffix.lower() in _PICKLES:
        return "scikit-learn"
    if start.startswith(ZIP_MAGIC):
        return _of_archive(path)
    return "torch" if path.suffix.lower() in _TORCH_LEGACY else None


def identify_live(model: object) -> FrameworkName:
    """Return the framework of a live object; raises ModelError for one of another kind."""
    for kind in type(model).__mro__:
        framework = _LIVE.get(f"{kind.__module__}.{kind.__qualname__}")
        if framework is not None:
            return framework
    raise ModelError(
        f"A {type(model).__module__}.{type(model).__qualname__} cannot be converted; give a Keras, PyTorch "
        "or scikit-learn model, or the path of a model file."
    )


def _of_folder(path: Path) -> FrameworkName:
    if (path / _SAVED_MODEL).is_file():
        return "saved-model"
    raise ModelError(
        f"{path} is a folder without {_SAVED_MODEL}, so it is no SavedModel; give a model's file, or the "
        "folder that model.export() wrote."
    )


def _of_hdf5(path: Path) -> FrameworkName:
    try:
        import h5py
    except ImportError as error:
        raise missing("h5py", "convert-keras") from error
    try:
        with h5py.File(path, "r") as file:
            version = file.attrs.get("keras_version", b"2")
    except Exception as error:
        raise ModelError(f"{path} is a damaged or truncated HDF5 file; save the model again.") from error
    text = version.decode(errors="replace") if isinstance(version, bytes) else str(version)
    return "keras" if _major(text) >= _FIRST_KERAS_3 else "tf-keras"


def _of_archive(path: Path) -> FrameworkName:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            metadata = read_metadata(archive).decode(errors="replace") if METADATA in names else ""
    except Exception as error:
        # zipfile and zlib each have exceptions of their own for damaged and encrypted members.
        raise ModelError(f"{path} is a damaged or truncated archive; save the model again.") from error
    if "config.json" in names:
        return "tf-keras" if '"keras_version": "2' in metadata else "keras"
    # PyTorch puts everything into one folder named after the file.
    if any(name.endswith(("data.pkl", "archive_format", "archive_version")) for name in names):
        return "torch"
    raise ModelError(
        f"{path} is an archive that neither Keras nor PyTorch wrote; give a .keras, .pt2, .onnx or "
        ".tflite file."
    )


def read_metadata(archive: zipfile.ZipFile) -> bytes:
    """Return what a Keras archive says of itself; raises ValueError if it is too large, KeyError if absent."""
    size = archive.getinfo(METADATA).file_size
    if size > _LARGEST_METADATA:
        raise ValueError(f"{METADATA} has {size} bytes")
    return archive.read(METADATA)


def _major(version: str) -> int:
    first = version.split(".")[0]
    return int(first) if first.isdigit() else 0
