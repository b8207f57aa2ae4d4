"""Take the benchmark's data sets and models out of the Python packages that ship them.

    python -m benchmarks.converters.fetch

The packages are downloaded (100 MB, only once) but not installed, and nothing in them is run. Each file is
checked against its digest and put into `.cache/benchmarks/`.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache/benchmarks"


@dataclass(frozen=True)
class Wheel:
    """A package of which some files are taken: sha256 by the file's path in the wheel."""

    requirement: str
    files: dict[str, str]


WHEELS = (
    Wheel(
        "animal-mnist==0.4",
        {
            "animal_mnist/data/Animal_MNIST/animal_data_version_3.gz": (
                "68a30346781a0984f839463a4615d2decb899d1ce65091bb92586311754a34ce"
            ),
            "animal_mnist/data/Animal_MNIST/animal_label_version_3.gz": (
                "dec8dba7c469830989fbab46825021a08a38470753a512f27ada847eced97b57"
            ),
        },
    ),
    Wheel(
        "aeon==1.6.0",
        {
            "aeon/datasets/data/BasicMotions/BasicMotions_TRAIN.ts": (
                "8dc43cc6306cb679c888c01e26f91772ac4441a916da43bac8b79734a538b9d6"
            ),
            "aeon/datasets/data/BasicMotions/BasicMotions_TEST.ts": (
                "79213102bc6fca1a398ad98ce1185dff0208fa3d1465e687f48288946b0ff8dc"
            ),
        },
    ),
    Wheel(
        "magika==1.0.3",
        {
            "magika/models/standard_v3_3/model.onnx": (
                "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c"
            ),
            "magika/models/standard_v3_3/config.min.json": (
                "ae24c742205358f6ff6dfd5facb6743fb69743dbba8373e73da58ff0cbd695db"
            ),
        },
    ),
    Wheel(
        "silero-vad==6.2.3",
        {
            "silero_vad/data/silero_vad_16k_op15.onnx": (
                "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49"
            )
        },
    ),
    Wheel(
        "pyannote.audio==4.0.7",
        {
            "pyannote/audio/sample/sample.wav": (
                "c319b4abca767b124e41432d364fd7df006cb26bb79d09326c487d606a134e6e"
            ),
            "pyannote/audio/sample/sample.rttm": (
                "d78fe62c69d8e6dcbb42c26adfce83faccb374c5a1e6d987fe37f85f1c173c87"
            ),
        },
    ),
    Wheel(
        "rapidocr-onnxruntime==1.4.4",
        {
            "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx": (
                "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9"
            ),
            "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx": (
                "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b"
            ),
            "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx": (
                "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c"
            ),
        },
    ),
    Wheel(
        "mediapipe==0.10.21",
        {
            "mediapipe/modules/holistic_landmark/hand_recrop.tflite": (
                "67d996ce96f9d36fe17d2693022c6da93168026ab2f028f9e2365398d8ac7d5d"
            ),
            "mediapipe/modules/face_detection/face_detection_short_range.tflite": (
                "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8"
            ),
            "mediapipe/modules/face_landmark/face_landmark.tflite": (
                "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814"
            ),
            "mediapipe/modules/pose_detection/pose_detection.tflite": (
                "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c"
            ),
            "mediapipe/modules/pose_landmark/pose_landmark_full.tflite": (
                "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f"
            ),
        },
    ),
    Wheel(
        "scikit-image==0.25.2",
        {
            "skimage/data/astronaut.png": "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
            "skimage/data/camera.png": "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a",
            "skimage/data/chelsea.png": "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
            "skimage/data/coffee.png": "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
        },
    ),
)

# The files are the same in every wheel; these exist whatever machine and Python this is.
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


class FetchError(Exception):
    """A file could not be fetched; the message says what to do."""


def cached(name: str) -> Path:
    """Return a fetched file's place by its name; raises FetchError when it is not there."""
    path = CACHE / name
    if not path.is_file():
        raise FetchError(f"{path} is missing; run scripts/fetch-benchmark-data.")
    return path


def fetch(wheel: Wheel, cache: Path) -> None:
    """Put a package's files into the cache, unless they are there; raises FetchError."""
    if all((cache / Path(name).name).is_file() for name in wheel.files):
        return
    print(f"Fetching {wheel.requirement} …", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        _download(wheel.requirement, folder)
        take_out(next(Path(folder).glob("*.whl")), wheel.files, cache)


def take_out(wheel: Path, files: dict[str, str], cache: Path) -> None:
    """Copy files out of a wheel into a folder, by their names alone; raises FetchError for wrong digests."""
    cache.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for name, digest in files.items():
            content = archive.read(name)
            if hashlib.sha256(content).hexdigest() != digest:
                raise FetchError(f"{name} in {wheel.name} is not the file that was expected; nothing is used.")
            partial = cache / f".{Path(name).name}"
            partial.write_bytes(content)
            partial.replace(cache / Path(name).name)


def _download(requirement: str, folder: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp", "--abi", "cp311"]
    for platform in _PLATFORMS:
        command += ["--platform", platform]
    done = subprocess.run(
        [*command, "--dest", folder, requirement], check=False, capture_output=True, text=True
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise FetchError(f"{requirement} could not be downloaded ({said}); check the network, then try again.")


def main() -> int:
    try:
        for wheel in WHEELS:
            fetch(wheel, CACHE)
    except FetchError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
