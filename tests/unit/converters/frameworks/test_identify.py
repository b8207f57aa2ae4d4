import json
import zipfile
from pathlib import Path

import h5py
import pytest

from converters.frameworks.identify import identify_file, identify_live
from edge_agent.documents.errors import ModelError, NotFoundError


def archive(path: Path, **members: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return path


@pytest.mark.parametrize(("version", "framework"), [("3.15.1", "keras"), ("2.21.0", "tf-keras")])
def test_keras_archives_are_told_apart_by_version(tmp_path: Path, version: str, framework: str) -> None:
    metadata = json.dumps({"keras_version": version})
    path = archive(tmp_path / "any.zip", metadata_dot_json=metadata, config_dot_json="{}")

    assert identify_file(path) == framework


@pytest.mark.parametrize(("version", "framework"), [("3.15.1", "keras"), ("2.21.0", "tf-keras")])
def test_hdf5_files_are_told_apart_by_version(tmp_path: Path, version: str, framework: str) -> None:
    with h5py.File(tmp_path / "model", "w") as file:
        file.attrs["keras_version"] = version

    assert identify_file(tmp_path / "model") == framework


def test_exported_program_and_state_dict_are_pytorch(tmp_path: Path) -> None:
    assert identify_file(archive(tmp_path / "a", m__archive_format="pt2")) == "torch"
    assert identify_file(archive(tmp_path / "b", b__data_dot_pkl="")) == "torch"


def test_saved_model_is_a_folder_with_its_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"without saved_model\.pb"):
        identify_file(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"")

    assert identify_file(tmp_path) == "saved-model"


def test_joblib_is_told_by_name_since_a_pickle_has_no_mark(tmp_path: Path) -> None:
    path = tmp_path / "model.joblib"
    path.write_bytes(b"\x80\x04.")

    assert identify_file(path) == "scikit-learn"


def test_other_content_is_left_to_the_formats(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x09")

    assert identify_file(path) is None


def test_refusals_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        identify_file(tmp_path / "none.keras")
    truncated = tmp_path / "cut.keras"
    truncated.write_bytes(archive(tmp_path / "whole.keras", config_dot_json="{}" * 50).read_bytes()[:40])
    with pytest.raises(ModelError, match="damaged or truncated archive"):
        identify_file(truncated)
    (tmp_path / "cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ModelError, match="damaged or truncated HDF5"):
        identify_file(tmp_path / "cut.h5")
    with pytest.raises(ModelError, match="neither Keras nor PyTorch"):
        identify_file(archive(tmp_path / "any.zip", readme="hello"))
    with pytest.raises(ModelError, match=r"A builtins\.int cannot be converted"):
        identify_live(3)


def test_live_models_are_told_by_their_classes() -> None:
    import torch
    from sklearn.linear_model import LogisticRegression

    class Net(torch.nn.Module):
        pass

    assert identify_live(Net()) == "torch"
    assert identify_live(LogisticRegression()) == "scikit-learn"
