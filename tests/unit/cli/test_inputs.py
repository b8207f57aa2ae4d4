import io
import json
import struct
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge_agent.cli.file_kinds import HEAD_BYTES, kind_of
from edge_agent.cli.images import layout_of
from edge_agent.cli.inputs import read_inputs, text_inputs
from edge_agent.cli.sounds import read
from edge_agent.documents.errors import EdgeAgentError, OperatorError, RequestError
from edge_agent.documents.tensors import Datatype, TensorSpec

COLOR = TensorSpec("image", "UINT8", (-1, -1, -1, 3))
SOUND = TensorSpec("audio", "INT16", (-1, -1))
TEXT = TensorSpec("text", "BYTES", (-1,))
PIXELS = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)


def image(path: Path, pixels: Any = PIXELS, format_: str = "PNG") -> Path:
    Image.fromarray(pixels).save(path, format_)
    return path


def wav(
    samples: Any, *, kind: int = 1, channels: int = 1, rate_hz: int = 16000, extensible: bool = False
) -> bytes:
    """Return a WAV file of samples as they lie in it; those of 24 bits are bytes [n, 3]."""
    array = np.asarray(samples)
    width = 3 if array.ndim == 2 and array.dtype == np.uint8 else array.dtype.itemsize
    form = struct.pack(
        "<HHIIHH", 0xFFFE if extensible else kind, channels, rate_hz, rate_hz * width * channels,
        width * channels, 8 * width,
    )  # fmt: skip
    if extensible:
        form += struct.pack("<HHIH14s", 22, 8 * width, 0, kind, bytes(14))
    data = array.tobytes()
    chunks = b"".join(
        name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
        for name, content in ((b"LIST", b"odd"), (b"fmt ", form), (b"data", data))
    )
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def test_kinds_are_told_by_content_whatever_the_name(tmp_path: Path) -> None:
    for format_ in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"):
        file = io.BytesIO()
        Image.fromarray(PIXELS).save(file, format_)
        assert kind_of(file.getvalue()[:HEAD_BYTES]) == "image", format_
    assert kind_of(wav(np.zeros(3, np.int16))[:HEAD_BYTES]) == "wav"
    buffer = io.BytesIO()
    np.save(buffer, PIXELS)
    assert kind_of(buffer.getvalue()[:HEAD_BYTES]) == "npy"
    for content in (b"", b"{", b"BM is text", b"P", b"P5x", b"Price: 3", b"RIFF"):
        assert kind_of(content) == "other", content
    path = image(tmp_path / "picture.wav")
    assert np.array_equal(read_inputs(path, [COLOR])["image"], PIXELS[None])


@given(st.binary(max_size=HEAD_BYTES))
def test_any_beginning_has_a_kind(head: bytes) -> None:
    assert kind_of(head) in ("npy", "npz", "wav", "image", "other")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((-1, -1, -1, 3), PIXELS[None]),
        ((1, 5, 7, 3), PIXELS[None]),
        ((-1, -1, 3), PIXELS),
        ((1, 3, 5, 7), PIXELS.transpose(2, 0, 1)[None]),
    ],
)
def test_pixels_come_in_the_order_of_the_input(tmp_path: Path, shape: tuple[int, ...], expected: Any) -> None:
    tensor = read_inputs(image(tmp_path / "p"), [TensorSpec("image", "UINT8", shape)])["image"]
    assert tensor.dtype == np.uint8
    assert np.array_equal(tensor, expected)


def test_images_become_gray_and_of_one_size_where_the_model_takes_that(tmp_path: Path) -> None:
    path = image(tmp_path / "p")
    gray = read_inputs(path, [TensorSpec("image", "UINT8", (-1, -1, -1, 1))])["image"]
    assert gray.shape == (1, 5, 7, 1)
    small = read_inputs(path, [TensorSpec("image", "UINT8", (1, 2, 3, 3))])["image"]
    expected = Image.fromarray(PIXELS).resize((3, 2), Image.Resampling.BILINEAR)
    assert np.array_equal(small[0], np.asarray(expected))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (
            TensorSpec("x", "FP32", (1, 3, 224, 224)),
            r"takes FP32 \[1, 3, 224, 224\], not pixels .*edge-convert",
        ),
        (TensorSpec("x", "UINT8", (-1, 10)), r"takes UINT8 \[-1, 10\], not pixels .*preprocess.image"),
    ],
)
def test_a_model_of_numbers_is_told_how_to_take_images(tmp_path: Path, spec: TensorSpec, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        read_inputs(image(tmp_path / "p.png"), [spec])


def test_damaged_and_deep_images_are_one_sentence(tmp_path: Path) -> None:
    path = image(tmp_path / "p.png")
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(RequestError, match=r"p.png is a damaged image"):
        read_inputs(path, [COLOR])
    Image.fromarray(np.zeros((2, 2), np.uint16)).save(path, "PNG")
    with pytest.raises(RequestError, match="more than 8 bits"):
        read_inputs(path, [COLOR])


def test_without_pillow_its_name_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = image(tmp_path / "p.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(OperatorError, match="pip install pillow"):
        read_inputs(path, [COLOR])


def test_layouts() -> None:
    assert layout_of(TensorSpec("x", "FP32", (-1, -1, -1, 3))) is None
    assert layout_of(TensorSpec("x", "UINT8", (8, 5, 7, 3))) is None
    found = layout_of(TensorSpec("x", "UINT8", (-1, 3, 5, 7)))
    assert found is not None
    assert (found.channels_first, found.height, found.width) == (True, 5, 7)


HALVES = [0.0, 0.5, -0.5, -1.0]


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize(
    ("samples", "kind"),
    [
        (np.array([128, 192, 64, 0], np.uint8), 1),
        (np.array([0, 2**14, -(2**14), -(2**15)], "<i2"), 1),
        (np.array([[0, 0, 0], [0, 0, 64], [0, 0, 192], [0, 0, 128]], np.uint8), 1),
        (np.array([0, 2**30, -(2**30), -(2**31)], "<i4"), 1),
        (np.array(HALVES, "<f4"), 3),
        (np.array(HALVES, "<f8"), 3),
    ],
)
def test_samples_of_every_width(tmp_path: Path, samples: Any, kind: int, extensible: bool) -> None:
    path = tmp_path / "sound"
    path.write_bytes(wav(samples, kind=kind, extensible=extensible))
    found = read_inputs(path, [SOUND])["audio"]
    assert (found.dtype, found.tolist()) == (np.int16, [[0, 16384, -16384, -32768]])
    floats = read_inputs(path, [TensorSpec("audio", "FP32", (1, -1))])["audio"]
    assert (floats.dtype, floats.tolist()) == (np.float32, [HALVES])


def test_what_the_standard_library_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "s.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.array([[100, 300], [-7, -9]], "<i2").tobytes())
    assert read(path.read_bytes(), "s.wav").rate_hz == 8000
    assert read_inputs(path, [SOUND])["audio"].tolist() == [[200, -8]]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((-1, 2), [[0, 16384]]), ((6,), [0, 16384, -16384, -32768, 0, 0]), ((1, 1, 3), [[[0, 16384, -16384]]])],
)
def test_samples_are_cut_or_padded_to_the_length_that_the_model_takes(
    tmp_path: Path, shape: tuple[int, ...], expected: Any
) -> None:
    path = tmp_path / "s.wav"
    path.write_bytes(wav(np.array(HALVES, "<f4"), kind=3))
    assert read_inputs(path, [TensorSpec("a", "INT16", shape)])["a"].tolist() == expected


@pytest.mark.parametrize(
    ("datatype", "shape"), [("UINT8", (-1, -1)), ("FP32", (1, 40, 98, 1)), ("FP32", (-1, 40, 98))]
)
def test_a_model_of_spectrograms_is_told_how_to_take_sounds(
    tmp_path: Path, datatype: Datatype, shape: tuple[int, ...]
) -> None:
    path = tmp_path / "s.wav"
    path.write_bytes(wav(np.zeros(9, np.int16)))
    with pytest.raises(RequestError, match=r"s.wav is a sound.*preprocess.audio"):
        read_inputs(path, [TensorSpec("x", datatype, shape)])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (wav(np.zeros(3, np.int16))[:30], "damaged"),
        (wav(np.zeros(3, np.int16), kind=6), "format 6 with 16 bits"),
        (wav(np.zeros(0, np.int16)), "no samples"),
        (wav(np.zeros(4, np.int16), channels=0), "contradicts itself"),
        (wav(np.array([np.nan], "<f4"), kind=3), "no numbers"),
    ],
)
def test_damaged_sounds_are_one_sentence(content: bytes, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        read(content, "s.wav")


@given(st.binary(max_size=120))
def test_no_bytes_crash_the_reader_of_sounds(content: bytes) -> None:
    try:
        read(b"RIFF\x00\x00\x00\x00WAVE" + content, "s.wav")
    except EdgeAgentError:
        return


def test_text_is_one_element_of_bytes(tmp_path: Path) -> None:
    assert text_inputs(["ä", ""], [TEXT])["text"].tolist() == ["ä".encode(), b""]
    assert text_inputs(["a"], [TensorSpec("t", "BYTES", (1, 1))])["t"].tolist() == [[b"a"]]
    path = tmp_path / "t.txt"
    path.write_text("What a day!\nYes.\n")
    assert read_inputs(path, [TEXT])["text"].tolist() == [b"What a day!\nYes."]
    path.write_text("[1]")
    assert read_inputs(path, [TEXT])["text"].tolist() == [b"[1]"]
    other = tmp_path / "noname"
    other.write_text("plain words")
    assert read_inputs(other, [TEXT])["text"].tolist() == [b"plain words"]
    other.write_text(json.dumps(["a", "b"]))
    assert read_inputs(other, [TEXT])["text"].tolist() == [b"a", b"b"]


@pytest.mark.parametrize(
    ("texts", "spec", "says"),
    [
        (["a"], COLOR, "takes UINT8 .*not text"),
        (["a", "b"], TensorSpec("t", "BYTES", (1,)), "2 of text cannot fill"),
        (["a"], TensorSpec("t", "BYTES", (-1, 2)), "cannot fill"),
        (["a", "b"], TensorSpec("t", "BYTES", ()), "cannot fill"),
    ],
)
def test_text_that_does_not_fit_is_refused(texts: list[str], spec: TensorSpec, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        text_inputs(texts, [spec])


def test_with_several_inputs_a_picture_belongs_to_none(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"several inputs \(image, text\), so an image"):
        read_inputs(image(tmp_path / "p"), [COLOR, TEXT])


def test_bytes_that_are_nothing_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"\xff\x00\xfe")
    with pytest.raises(RequestError, match="neither JSON nor text in UTF-8"):
        read_inputs(path, [TEXT])
    with pytest.raises(RequestError, match="holds neither"):
        read_inputs(path, [COLOR])
