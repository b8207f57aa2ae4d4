"""PyTorch models in files: exported programs, state dicts with the factory they belong to, pickled modules.

torch's own loader of exported programs unpickles parts of them and evaluates their shape expressions, so a
program is looked through before it is loaded.
"""

import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from converters.errors import missing, said
from converters.frameworks.silence import silenced
from converters.importing import add_to_path, imported, is_importable
from converters.terms import Origin
from edge_agent.documents.errors import ModelError, NotFoundError

_NESTED: Final = ("state_dict", "model_state_dict", "model_state", "model")
"""Where training scripts keep the state dict in a checkpoint."""

_WORD: Final = re.compile(r"[A-Za-z_]\w*")
_SAFE_WORD: Final = re.compile(
    r"[a-z]+\d+|int_oo|oo|[A-Z][A-Za-z]*|integer|real|finite|evaluate|(non)?(positive|negative|zero)"
)
_SYMBOL: Final = re.compile(r"Symbol\('[a-z]+\d+'")
_SAFE_EXPRESSION: Final = re.compile(r"(?!.*__)(?!.*\.\s*[A-Za-z_])[\w\s+\-*/%(),.<>=!&|~]*")
_PAYLOAD: Final = re.compile(r"(weight|tensor)_[0-9]+")
"""What a program's tables of weights and constants may name: files of bare numbers beside them."""

_PARTS: Final = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|\.data/[a-z_]+|models/[^/]+\.json|extra/.+"
    r"|data/sample_inputs/[^/]+\.pt|data/weights/(weight_[0-9]+|[^/]+_weights_config\.json)"
    r"|data/constants/(tensor_[0-9]+|[^/]+_constants_config\.json))"
)
"""The members of an archive that torch.export.save writes today, all in one folder."""

_OLD_PARTS: Final = re.compile(
    r"version|serialized_exported_program\.json|serialized_(state_dict|constants|example_inputs)\.pt"
)
"""The members that it wrote before 2.7. Source: torch.export.load."""


def load(origin: Origin) -> Any:
    """Return the `nn.Module` or `ExportedProgram` that an origin names; raises ModelError or NotFoundError."""
    torch = import_torch()
    if is_importable(origin.path):
        return _made(torch, origin)
    path = Path(origin.path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise NotFoundError(
            f"{path} {what}; give a .pt2 program of torch.export, or package.module:factory with a state dict."
        )
    if origin.weights:
        raise ModelError(
            f"{path} is a model by itself, so a state dict does not go with it; name the factory as "
            "package.module:factory, or leave the weights out."
        )
    names = _names_in(path)
    if any(name.split("/")[-1] in ("archive_format", "serialized_exported_program.json") for name in names):
        return _program(torch, path, origin.trust_pickle)
    if any(name.split("/")[-1] == "constants.pkl" for name in names):
        raise ModelError(
            f"{path} is a TorchScript archive, which cannot be exported any more; save the original model with "
            "torch.export.save, or name its factory as package.module:factory with its state dict."
        )
    return _pickled(torch, path, origin)


def import_torch() -> Any:
    """Return the module `torch`; raises ToolMissingError."""
    try:
        with silenced():
            import torch
            import torch.export
    except ImportError as error:
        raise missing("torch", "convert-torch") from error
    return torch


def _names_in(path: Path) -> list[str]:
    if not zipfile.is_zipfile(path):
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} is truncated or damaged ({said(error)}); give a complete file.") from error


def _made(torch: Any, origin: Origin) -> Any:
    factory = imported(origin.path, Path(origin.import_from))
    try:
        model = factory if isinstance(factory, torch.nn.Module) else factory()
    except Exception as error:
        raise ModelError(
            f"{origin.path} fails with {said(error)}; give a factory that needs no arguments."
        ) from error
    if not isinstance(model, torch.nn.Module):
        raise ModelError(
            f"{origin.path} gives a {type(model).__name__}, not an nn.Module; name a function that returns one."
        )
    if origin.weights:
        _fill(torch, model, Path(origin.weights))
    return model


def _fill(torch: Any, model: Any, weights: Path) -> None:
    state = _state_dict(torch, weights)
    try:
        model.load_state_dict(state)
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[min(1, len(lines) - 1)] if lines else type(error).__name__
        raise ModelError(
            f"The weights in {weights} do not fit the model: {reason[:200].rstrip('. ')}; give the state dict "
            "of this very model."
        ) from error


def _state_dict(torch: Any, path: Path) -> Any:
    if not path.is_file():
        raise NotFoundError(f"There are no weights at {path}; give the file of a state dict.")
    if path.suffix == ".safetensors":
        return _safetensors(path)
    try:
        with silenced():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(
            f"{path} is not a state dict that can be read without running code from it; save "
            "model.state_dict() with torch.save."
        ) from error
    for name in _NESTED:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not _is_state_dict(torch, content):
        raise ModelError(f"{path} holds no state dict; save model.state_dict() with torch.save.")
    return content


def _safetensors(path: Path) -> Any:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ModelError(
            "safetensors is not installed; install it, or save the state dict with torch.save."
        ) from error
    try:
        return load_file(path)
    except Exception as error:
        raise ModelError(
            f"{path} cannot be read as safetensors ({said(error)}); give a complete file."
        ) from error


def _is_state_dict(torch: Any, content: Any) -> bool:
    return (
        isinstance(content, dict)
        and bool(content)
        and any(isinstance(value, torch.Tensor) for value in content.values())
    )


def _pickled(torch: Any, path: Path, origin: Origin) -> Any:
    """Return a pickled module if pickles are trusted, or say why this file is not a model."""
    try:
        with silenced():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if not _is_pickle(path):
            raise ModelError(
                f"{path} is not a PyTorch file, or it is truncated; give a .pt2 program of torch.export, or "
                "package.module:factory with a state dict."
            ) from error
        content = _trusted(torch, path, origin, error)
    if isinstance(content, torch.nn.Module):
        return content
    if isinstance(content, dict):
        raise ModelError(
            f"{path} is a state dict, which has weights but no model; name what makes the model as "
            "package.module:factory, and give this file as its weights."
        )
    raise ModelError(
        f"{path} holds a {type(content).__name__}, not a model; save the program of torch.export with "
        "torch.export.save."
    )


def _trusted(torch: Any, path: Path, origin: Origin, reason: Exception) -> Any:
    if not origin.trust_pickle:
        raise ModelError(
            f"{path} is a pickled model, and loading it can run any code that is in it; give --trust-pickle if "
            "you made it, or save the program of torch.export with torch.export.save."
        ) from reason
    try:
        # The classes of the model are found in the user's folder.
        add_to_path(Path(origin.import_from))
        with silenced():
            return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise ModelError(
            f"{path} cannot be unpickled ({said(error)}); give a .pt2 program of torch.export, or name the "
            "folder that its classes are imported from."
        ) from error


def _is_pickle(path: Path) -> bool:
    """Say whether a file begins as torch.save writes it: a zip archive with a pickle, or a pickle."""
    names = _names_in(path)
    with path.open("rb") as file:
        return any(name.endswith("data.pkl") for name in names) or file.read(1) == b"\x80"


def _program(torch: Any, path: Path, trusted: bool) -> Any:
    content = path.read_bytes()
    try:
        unsafe = "" if trusted else _unsafe_part(torch, content)
    except Exception as error:
        raise ModelError(f"{path} is truncated or damaged ({said(error)}); give a complete file.") from error
    if unsafe:
        raise ModelError(
            f"{path} holds {unsafe}, and loading that can run any code that is in it; give --trust-pickle if "
            "you made it."
        )
    try:
        with silenced():
            return torch.export.load(io.BytesIO(content))
    except Exception as error:
        raise ModelError(
            f"{path} cannot be loaded by torch {torch.__version__.split('+')[0]} ({said(error)}); save the "
            "program again with this version's torch.export.save."
        ) from error


def _unsafe_part(torch: Any, content: bytes) -> str:
    """Name what in a program's archive would run code when it is loaded; empty if there is nothing."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        # As they are in the file: zipfile ends a name at a zero byte, torch does not.
        names = [member.orig_filename for member in members]
        if stranger := _unknown_part(names):
            return stranger
        for name, member in zip(names, members, strict=True):
            last = name.split("/")[-1]
            if "/extra/" in name:
                # Only ever read as text.
                continue
            if last.endswith(".json") and _is_unsafe_json(json.loads(archive.read(member))):
                return f"a pickled part or an expression in {last}"
            if last.endswith(".pt") and _needs_pickle(torch, archive.read(member)):
                return f"pickled objects in {last}"
    return ""


def _unknown_part(names: Sequence[str]) -> str:
    """Name what torch.export.save does not write, such as native code; empty if there is nothing."""
    known = _OLD_PARTS if all("/" not in name for name in names) else _PARTS
    folder = names[0].split("/")[0] if names else ""
    for name in names:
        if not known.fullmatch(name) or (known is _PARTS and name.split("/")[0] != folder):
            return f"{name!r}, a part that this program does not know"
    # torch finds members without regard to case.
    twice = [name for name, count in Counter(name.lower() for name in names).items() if count > 1]
    return f"{twice[0]} twice" if twice else ""


def _needs_pickle(torch: Any, content: bytes) -> bool:
    if not content:
        return False
    try:
        with silenced():
            torch.load(io.BytesIO(content), weights_only=True)
    except Exception:
        return True
    return False


def _is_unsafe_json(node: Any) -> bool:
    """Say whether a document asks for a pickle or a foreign file, or evaluates more than arithmetic."""
    pending = [node]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            if (
                part.get("use_pickle")
                or not _is_payload(part.get("path_name", "weight_0"))
                or not _is_arithmetic(part.get("expr_str", ""))
            ):
                return True
            pending += part.values()
        elif isinstance(part, list):
            pending += part
    return False


def _is_payload(path_name: Any) -> bool:
    return isinstance(path_name, str) and _PAYLOAD.fullmatch(path_name) is not None


def _is_arithmetic(expression: Any) -> bool:
    if not isinstance(expression, str):
        return False
    bare = _SYMBOL.sub("(", expression)
    return _SAFE_EXPRESSION.fullmatch(bare) is not None and all(
        _SAFE_WORD.fullmatch(word) for word in _WORD.findall(bare)
    )
