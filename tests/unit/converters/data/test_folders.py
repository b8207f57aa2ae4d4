import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from converters.data.folders import read_folder
from converters.errors import DataError


def paint(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(path)
    return path


def classes(folder: Path, sizes: dict[str, int]) -> Path:
    for name, size in sizes.items():
        for index in range(size):
            paint(folder / name / f"{index}.png", index)
    return folder


def test_a_subfolder_is_a_class(tmp_path: Path) -> None:
    found = read_folder(classes(tmp_path, {"dog": 3, "cat": 2}), None)

    assert found.class_names == ("cat", "dog")
    assert found.classes is not None
    assert {(file.name, int(number)) for file, number in zip(found.files, found.classes, strict=True)} == {
        ("cat/0.png", 0), ("cat/1.png", 0), ("dog/0.png", 1), ("dog/1.png", 1), ("dog/2.png", 1),
    }  # fmt: skip


def test_one_folder_has_no_classes(tmp_path: Path) -> None:
    for index in range(3):
        paint(tmp_path / f"{index}.PNG")

    found = read_folder(tmp_path, None)

    assert found.kind == "images"
    assert found.classes is None
    assert len(found.files) == 3


def test_limit_keeps_the_shares_and_the_choice(tmp_path: Path) -> None:
    classes(tmp_path, {"rare": 2, "usual": 18})

    first, second = (read_folder(tmp_path, 10) for _ in range(2))

    assert first.files == second.files
    assert first.classes is not None
    assert np.bincount(first.classes).tolist() == [1, 9]


def test_digest_is_of_names_and_bytes(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        classes(tmp_path / name, {"cat": 2, "dog": 2})
    (tmp_path / "b" / "cat" / "0.png").rename(tmp_path / "b" / "cat" / "9.png")
    paint(tmp_path / "c" / "cat" / "0.png", 200)

    digests = [read_folder(tmp_path / name, None).sha256 for name in ("a", "b", "c", "d")]

    assert digests[0] == digests[3]
    assert len(set(digests)) == 3


def test_hidden_files_and_other_kinds_are_passed_over(tmp_path: Path) -> None:
    classes(tmp_path, {"cat": 1, "dog": 1, ".cache": 1, "__MACOSX": 1})
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"x")
    paint(tmp_path / "cat" / "._0.png")

    found = read_folder(tmp_path, None)

    assert found.class_names == ("cat", "dog")
    assert len(found.files) == 2


def test_folders_inside_of_a_class_belong_to_it_and_links_in_circles_end(tmp_path: Path) -> None:
    classes(tmp_path, {"cat": 1, "dog": 1})
    paint(tmp_path / "cat" / "more" / "deep" / "1.png")
    (tmp_path / "cat" / "more" / "up").symlink_to(tmp_path / "cat")
    (tmp_path / "dog" / "self").symlink_to(tmp_path / "dog")

    names = sorted(file.name for file in read_folder(tmp_path, None).files)

    assert names == ["cat/0.png", "cat/more/deep/1.png", "dog/0.png"]


def test_linked_class_counts(tmp_path: Path) -> None:
    classes(tmp_path / "elsewhere", {"x": 2})
    classes(tmp_path / "data", {"cat": 1})
    (tmp_path / "data" / "dog").symlink_to(tmp_path / "elsewhere" / "x")

    assert read_folder(tmp_path / "data", None).class_names == ("cat", "dog")


def test_empty_class_is_named(tmp_path: Path) -> None:
    classes(tmp_path, {"cat": 2})
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "notes.txt").write_text("none yet")

    with pytest.raises(DataError, match="The class 'dog' is empty"):
        read_folder(tmp_path, None)


def test_folders_that_are_no_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no images"):
        read_folder(tmp_path, None)
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        read_folder(tmp_path, None)
    classes(tmp_path, {"cat": 1})
    paint(tmp_path / "stray.png")
    with pytest.raises(DataError, match=r"both files \(stray.png\) and folders \(cat\)"):
        read_folder(tmp_path, None)
    (tmp_path / "stray.png").rename(tmp_path / "cat" / "sound.wav")
    with pytest.raises(DataError, match=r"both images and \.wav"):
        read_folder(tmp_path, None)


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    paint(tmp_path / "0.png")
    broken = tmp_path / "1.png"
    broken.symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"Cannot read .*1\.png: No such file"):
        read_folder(tmp_path, None)

    broken.unlink()
    broken.symlink_to(broken)
    with pytest.raises(DataError, match=r"Cannot read .*1\.png: .*symbolic links"):
        read_folder(tmp_path, None)

    broken.unlink()
    os.mkfifo(broken)
    with pytest.raises(DataError, match="not a regular file"):
        read_folder(tmp_path, None)
