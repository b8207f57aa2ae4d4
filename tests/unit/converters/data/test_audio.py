import struct
import wave
from pathlib import Path

import numpy as np
import pytest

from converters.data import audio
from converters.data.columns import example, training_arrays
from converters.data.fitting import samples_of
from converters.data.read import read_columns
from converters.data.settings import DataSettings
from converters.errors import DataError
from edge_agent.documents.tensors import Datatype, TensorSpec

TONE = np.array([0, 16384, -16384, 32767, -32768, 100], np.int16)


def record(path: Path, frames: bytes, *, width: int = 2, channels: int = 1, rate: int = 16000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(frames)
    return path


def fitted(folder: Path, shape: tuple[int, ...], datatype: Datatype = "FP32", **settings):
    columns = read_columns(DataSettings(path=str(folder), **settings))
    return samples_of(columns, [TensorSpec("sound", datatype, shape)])


@pytest.mark.parametrize(
    ("width", "frames", "slack"),
    [
        (1, (TONE // 256 + 128).astype(np.uint8).tobytes(), 256),
        (2, TONE.astype("<i2").tobytes(), 0),
        (3, b"".join((int(value) * 256).to_bytes(3, "little", signed=True) for value in TONE), 0),
        (4, (TONE.astype("<i4") * 65536).tobytes(), 0),
    ],
)
def test_every_width_gives_the_same_sound(tmp_path: Path, width: int, frames: bytes, slack: int) -> None:
    got = audio.read_wave(record(tmp_path / "a.wav", frames, width=width))

    np.testing.assert_allclose(got, TONE, atol=slack)


def test_floats_lie_in_minus_one_to_one_and_integers_are_as_they_are(tmp_path: Path) -> None:
    record(tmp_path / "a.wav", TONE.tobytes())

    floats = fitted(tmp_path, (1, 6)).inputs[0]["sound"]
    np.testing.assert_allclose(floats, [TONE / 32768])
    assert floats.dtype == np.float32
    np.testing.assert_array_equal(fitted(tmp_path, (1, 6), "INT16").inputs[0]["sound"], [TONE])
    np.testing.assert_array_equal(fitted(tmp_path, (1, 6), scale=1.0).inputs[0]["sound"], [TONE])


def test_fraction_of_a_step_stays_in_range(tmp_path: Path) -> None:
    record(
        tmp_path / "a.wav",
        (2**31 - 1).to_bytes(4, "little") + (-(2**31)).to_bytes(4, "little", signed=True),
        width=4,
    )

    assert fitted(tmp_path, (1, 2), "INT16").inputs[0]["sound"].tolist() == [[32767, -32768]]


@pytest.mark.parametrize("shape", [(4,), (1, 4), (-1, 4), (1, 4, 1), (-1, 1, 4), (1, 9)])
def test_cut_or_padded_to_the_models_length(tmp_path: Path, shape: tuple[int, ...]) -> None:
    record(tmp_path / "a.wav", TONE.tobytes())

    sound = fitted(tmp_path, shape, "INT16").inputs[0]["sound"]

    assert TensorSpec("sound", "INT16", shape).accepts(sound.shape)
    length = max(shape)
    np.testing.assert_array_equal(sound.ravel(), np.pad(TONE, (0, 5))[:length])


def test_channels_are_averaged(tmp_path: Path) -> None:
    stereo = np.stack([TONE // 2, np.zeros_like(TONE)], axis=1)
    record(tmp_path / "a.wav", stereo.tobytes(), channels=2)

    np.testing.assert_allclose(audio.read_wave(tmp_path / "a.wav"), TONE // 2 / 2)


def test_a_subfolder_is_a_class(tmp_path: Path) -> None:
    for name in ("yes", "no"):
        for index in range(3):
            record(tmp_path / name / f"{index}.wav", (TONE // (index + 1)).tobytes())

    columns = read_columns(DataSettings(path=str(tmp_path)))
    arrays, targets = training_arrays(columns, ["sound"])

    assert columns.kind == "audio"
    assert columns.rate_hz == 16000
    assert columns.class_names == ("no", "yes")
    assert arrays["sound"].shape == (6, 6)
    assert targets is not None
    assert np.bincount(targets).tolist() == [3, 3]
    assert example(columns, ["sound"], 8)["sound"].shape == (8, 6)


def test_other_rates_and_lengths_are_refused(tmp_path: Path) -> None:
    record(tmp_path / "a.wav", TONE.tobytes())
    record(tmp_path / "b.wav", TONE[:4].tobytes())
    with pytest.raises(DataError, match=r"differ in length .* and the model's is not known"):
        fitted(tmp_path, (1, -1))
    assert len(fitted(tmp_path, (1, 6))) == 2

    record(tmp_path / "b.wav", TONE.tobytes(), rate=8000)
    with pytest.raises(DataError, match=r"differ in sample rate .* Hz"):
        fitted(tmp_path, (1, 6))


def riff(code: int, bits: int, frames: bytes) -> bytes:
    layout = struct.pack("<HHIIHH", code, 1, 16000, 16000 * bits // 8, bits // 8, bits)
    body = (
        b"WAVEfmt "
        + struct.pack("<I", len(layout))
        + layout
        + b"data"
        + struct.pack("<I", len(frames))
        + frames
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    ("code", "bits", "said"),
    [(3, 32, "with floats"), (7, 8, "with mu-law"), (99, 8, "with format 99"), (1, 64, "more than 32 bits")],
)
def test_other_formats_are_named(tmp_path: Path, code: int, bits: int, said: str) -> None:
    (tmp_path / "a.wav").write_bytes(riff(code, bits, bytes(16)))

    with pytest.raises(DataError, match=said):
        fitted(tmp_path, (1, 6))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = record(tmp_path / "a.wav", TONE.tobytes())
    content = path.read_bytes()
    for damaged, said in (
        (b"", "not a WAV file, or damaged"),
        (b"hello", "not a WAV file, or damaged"),
        (content[:20], "not a WAV file, or damaged"),
        (content[:-4], "is truncated"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"a\.wav is .*{said.removeprefix('is ')}"):
            fitted(tmp_path, (1, 6))
    record(path, b"")
    with pytest.raises(DataError, match="holds no samples"):
        fitted(tmp_path, (1, 6))


@pytest.mark.parametrize("shape", [(), (1, 40, 98), (2, 16000), (1, 1, 40, 98)])
def test_inputs_that_sound_does_not_fit(tmp_path: Path, shape: tuple[int, ...]) -> None:
    record(tmp_path / "a.wav", TONE.tobytes())

    with pytest.raises(DataError, match="holds no mono samples"):
        fitted(tmp_path, shape)
