"""Golden samples are somebody else's file: bombs, lies about sizes and odd names are told in one sentence."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.documents.errors import GoldenError
from edge_agent.engines import golden
from edge_agent.engines.golden import read_golden


def npy(shape: tuple[int, ...], content: bytes, descr: str = "<f4") -> bytes:
    out = io.BytesIO()
    header: dict[str, Any] = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, header)
    return out.getvalue() + content


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def test_what_is_as_it_should_be(tmp_path: Path) -> None:
    path = archive(tmp_path / "g", {"0/input/x.npy": npy((2,), bytes(8)), "0/output/y.npy": npy((), bytes(4))})
    [sample] = read_golden(path)
    assert (sample.inputs["x"].shape, sample.outputs["y"].shape) == ((2,), ())


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden, "LIMIT_BYTES", 2**20)
    path = archive(tmp_path / "g", {f"{i}/input/x.npy": npy((2**17,), bytes(2**19)) for i in range(3)})
    assert path.stat().st_size < 10_000
    with pytest.raises(GoldenError, match="unpack to more than 1 MiB; package fewer"):
        read_golden(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("0/input/x.npy", npy((2**40,), bytes(16))),
        ("0/input/x.npy", npy((2**40, 2**40), bytes(16))),
        ("0/input/x.npy", npy((-4,), bytes(16))),
        ("0/input/x.npy", npy((3,), bytes(16))),
        ("0/input/x.npy", npy((2,), bytes(16), "|O")),
        ("0/input/x.npy", b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535),
        ("0/input/x.npy", b"\x93NUMPY\x09\x00v\x00"),
        ("0/input/x.npy", b""),
        ("/etc/passwd", npy((2,), bytes(8))),
        ("../../../x.npy", npy((2,), bytes(8))),
        ("0/sideways/x.npy", npy((2,), bytes(8))),
        ("first/input/x.npy", npy((2,), bytes(8))),
    ],
)
def test_what_is_not(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(GoldenError) as refused:
        read_golden(archive(tmp_path / "g", {name: content}))
    assert str(refused.value).startswith("Its golden samples are malformed (")
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    for content in (b"", b"PK\x03\x04", b"\x93NUMPY"):
        (tmp_path / "g").write_bytes(content)
        with pytest.raises(GoldenError, match="malformed"):
            read_golden(tmp_path / "g")
