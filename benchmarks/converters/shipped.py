"""The models that Python packages ship, with real inputs for them; see README.md for where each is from.

Half of the samples go to the converter and the other half scores, so that neither sees the other's.
"""

import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.converters import pictures
from benchmarks.converters.data import Array, read_wav
from benchmarks.converters.fetch import cached
from benchmarks.converters.subjects import Sample, Score, Subject, accuracy, closeness, runs

MAGIKA_BYTES = 1024
MAGIKA_BLOCK = 4096
MAGIKA_PADDING = 256
MAGIKA_PER_KIND = 40
# Endings that say what a file is beyond doubt, with the model's own names.
MAGIKA_KINDS = {
    ".py": "python", ".pyc": "pythonbytecode", ".so": "elf", ".json": "json", ".png": "png", ".md": "markdown",
    ".toml": "toml", ".html": "html", ".css": "css", ".js": "javascript", ".svg": "svg", ".ttf": "ttf",
    ".npz": "npz", ".npy": "npy", ".csv": "csv", ".gz": "gzip", ".zip": "zip", ".wav": "wav", ".jpg": "jpeg",
    ".sh": "shell", ".rst": "rst", ".xml": "xml", ".proto": "proto", ".pdf": "pdf", ".cpp": "cpp",
    ".pem": "pem", ".ipynb": "ipynb", ".yaml": "yaml", ".sql": "sql", ".gif": "gif", ".whl": "zip",
}  # fmt: skip

VAD_FRAME = 512
VAD_CONTEXT = 64
VAD_RATE = 16000
REC_WIDTH = 320
CLS_WIDTH = 192


def magika(seed: int, quick: bool) -> Subject:
    """Real files of this Python installation; right is what their ending says."""
    import json

    kinds = json.loads(cached("config.min.json").read_text())["target_labels_space"]
    files = list(_files(MAGIKA_PER_KIND))
    order = np.random.default_rng(seed).permutation(len(files))
    tokens = np.stack([magika_features(files[index][0].read_bytes()) for index in order])
    labels = np.array([kinds.index(files[index][1]) for index in order])
    return _halves(cached("model.onnx"), {"bytes": tokens}, labels)


def magika_features(content: bytes) -> Array:
    """Return int32 [2048]: the first and the last 1,024 bytes, without white space at the ends, padded.

    Source: `Magika._extract_features_from_seekable` of the package magika 1.0.3.
    """
    begin = np.frombuffer(content[:MAGIKA_BLOCK].lstrip()[:MAGIKA_BYTES], np.uint8)
    end = np.frombuffer(content[-MAGIKA_BLOCK:].rstrip()[-MAGIKA_BYTES:], np.uint8)
    features = np.full(2 * MAGIKA_BYTES, MAGIKA_PADDING, np.int32)
    features[: len(begin)] = begin
    features[2 * MAGIKA_BYTES - len(end) :] = end
    return features


def _files(per_kind: int) -> Iterator[tuple[Path, str]]:
    """Return files with their kinds, in the order of their paths, a limited number of each kind."""
    counts = dict.fromkeys(MAGIKA_KINDS.values(), 0)
    missing = set(counts)
    for root in (sysconfig.get_path("purelib"), sysconfig.get_path("stdlib")):
        for folder, folders, names in _walk(Path(root)):
            folders.sort()
            for name in sorted(names):
                path = folder / name
                kind = MAGIKA_KINDS.get(path.suffix)
                if kind in missing and path.is_file() and path.stat().st_size >= MAGIKA_BLOCK // 16:
                    yield path, kind
                    counts[kind] += 1
                    missing = {kind for kind, count in counts.items() if count < per_kind}


def _walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    import os

    for folder, folders, names in os.walk(root):
        yield Path(folder), folders, names


def silero(seed: int, quick: bool) -> Subject:
    """Speech of 30 s as it is, faint, and with noise; right is what the recording's annotation says.

    The state that goes in is the float model's, so that one frame's error is not counted in the next ones.
    """
    import onnxruntime

    random = np.random.default_rng(seed)
    sound = read_wav(cached("sample.wav"))
    noise = random.standard_normal(len(sound)).astype(np.float32)
    path = cached("silero_vad_16k_op15.onnx")
    session = onnxruntime.InferenceSession(str(path))
    columns: dict[str, list[Array]] = {"input": [], "state": [], "sr": []}
    speech: list[bool] = []
    for version in (sound, 0.1 * sound, sound + 0.01 * noise):
        state = np.zeros((2, 1, 128), np.float32)
        spoken = annotated(cached("sample.rttm").read_text(), len(sound))
        for start in range(VAD_CONTEXT, len(version) - VAD_FRAME, VAD_FRAME):
            frame = version[None, start - VAD_CONTEXT : start + VAD_FRAME].astype(np.float32)
            sample = {"input": frame, "state": state, "sr": np.array(VAD_RATE)}
            for name, array in sample.items():
                columns[name].append(array)
            speech.append(bool(spoken[start : start + VAD_FRAME].mean() >= 0.5))
            state = session.run(None, sample)[1]
    chosen = random.permutation(len(speech))[: 600 if quick else 1200]
    half = len(chosen) // 2
    stacked = {name: np.stack([arrays[index] for index in chosen]) for name, arrays in columns.items()}
    test = [
        {name: np.asarray(array[index]) for name, array in stacked.items()}
        for index in range(half, len(chosen))
    ]
    truth = np.array(speech)[chosen[half:]]
    return Subject(path, "onnx", {name: array[:half] for name, array in stacked.items()}, test, _speech(truth))


def annotated(rttm: str, samples: int) -> Array:
    """Return for each sample of a recording whether somebody speaks, as the lines of an .rttm file say."""
    spoken = np.zeros(samples, bool)
    for line in rttm.splitlines():
        begin_s, length_s = (float(word) for word in line.split()[3:5])
        spoken[int(begin_s * VAD_RATE) : int((begin_s + length_s) * VAD_RATE)] = True
    return spoken


def _speech(truth: Array) -> Score:
    def score(answers: Sequence[Sample], reference: Sequence[Sample]) -> float:
        said = np.array([float(next(iter(answer.values())).ravel()[0]) >= 0.5 for answer in answers])
        return 100 * float(np.mean(said == truth[: len(said)]))

    return score


def ocr_direction(seed: int, quick: bool) -> Subject:
    """Rendered lines of text, half of them upside down."""
    random = np.random.default_rng(seed)
    lines = pictures.lines(random, 200 if quick else 600, 48, CLS_WIDTH)
    turned = random.random(len(lines)) < 0.5
    images = [image[::-1, ::-1] if turn else image for (_, image), turn in zip(lines, turned, strict=True)]
    x = np.stack([_normalised(pictures.padded(image, CLS_WIDTH)) for image in images])
    return _halves(cached("ch_ppocr_mobile_v2.0_cls_infer.onnx"), {"x": x}, turned.astype(np.int64))


def ocr_reading(seed: int, quick: bool) -> Subject:
    """Rendered lines of text; right is a line read without a fault."""
    random = np.random.default_rng(seed)
    lines = pictures.lines(random, 80 if quick else 300, 48, REC_WIDTH)
    x = np.stack([_normalised(pictures.padded(image, REC_WIDTH)) for _, image in lines])
    half = len(lines) // 2
    texts = [text for text, _ in lines[half:]]
    path = cached("ch_PP-OCRv4_rec_infer.onnx")
    return Subject(path, "onnx", {"x": x[:half]}, runs({"x": x[half:]}), _read_rightly(texts, characters(path)))


def characters(path: Path) -> list[str]:
    """Return what each class of the reading model means; the first is the blank between characters."""
    import onnx

    properties = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    return ["", *properties["character"].splitlines(), " "]


def _read_rightly(texts: Sequence[str], meanings: Sequence[str]) -> Score:
    def score(answers: Sequence[Sample], reference: Sequence[Sample]) -> float:
        read = [decoded(next(iter(answer.values()))[0], meanings) for answer in answers]
        known = texts[: len(read)]
        return 100 * float(np.mean([one == text for one, text in zip(read, known, strict=True)]))

    return score


def decoded(scores: Array, meanings: Sequence[str]) -> str:
    """Return the text of CTC scores [steps, classes]: the best of each step, without repetitions and blanks."""
    best = scores.argmax(axis=-1)
    kept = best[np.insert(best[1:] != best[:-1], 0, True)]
    return "".join(meanings[index] for index in kept)


def ocr_detection(seed: int, quick: bool) -> Subject:
    """Pages of text on paper and on photographs; the score is the overlap with the float model's text areas."""
    random = np.random.default_rng(seed)
    pages = pictures.pages(random, 40 if quick else 60, 320 if quick else 480)
    x = np.stack([_normalised(page) for page in pages])
    half = len(pages) // 2
    path = cached("ch_PP-OCRv4_det_infer.onnx")
    return Subject(path, "onnx", {"x": x[:half]}, runs({"x": x[half:]}), _overlap)


def _overlap(answers: Sequence[Sample], reference: Sequence[Sample]) -> float:
    """Return the percentage of the pixels marked as text in either that is marked in both."""
    both = either = 0
    for answer, float_answer in zip(answers, reference, strict=True):
        one, other = (next(iter(maps.values())) > 0.3 for maps in (answer, float_answer))
        both += int(np.sum(one & other))
        either += int(np.sum(one | other))
    return 100 * both / max(1, either)


def _normalised(image: Array) -> Array:
    """Return an image uint8 [height, width, 3] as float32 [3, height, width], -1 to 1."""
    return np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32) / 127.5 - 1


def photographs(file: str, size: int, low: float, *, faces: bool = False) -> "Photographs":
    """Return the maker of a subject that takes photographs with values from `low` to 1."""
    return Photographs(file, size, low, faces)


class Photographs:
    """Crops of photographs, turned and lit in many ways; the score is the closeness to the float model."""

    def __init__(self, file: str, size: int, low: float, faces: bool) -> None:
        self._file = file
        self._size = size
        self._low = low
        self._faces = faces

    def __call__(self, seed: int, quick: bool) -> Subject:
        random = np.random.default_rng(seed)
        crops = pictures.crops(random, 60 if quick else 160, self._size, faces=self._faces)
        x = crops.astype(np.float32) / 255 * (1 - self._low) + self._low
        half = len(x) // 2
        path = cached(self._file)
        return Subject(path, "tflite", {"x": x[:half]}, runs({"x": x[half:]}), closeness)


def _halves(path: Path, inputs: Mapping[str, Array], labels: Array) -> Subject:
    half = len(labels) // 2
    conversion = {name: array[:half] for name, array in inputs.items()} | {"y": labels[:half]}
    test = runs({name: array[half:] for name, array in inputs.items()})
    return Subject(path, "onnx", conversion, test, accuracy(labels[half:]))
