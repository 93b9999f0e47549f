"""Folders named after classes, with and without splits above them."""

import logging
from pathlib import Path

import pytest

from wbc_client.dataset.folders import read_folders
from wbc_common.cells import REGISTRIES
from wbc_common.errors import DataError

FIVE = REGISTRIES["wbc5"]


def _lay_out(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_the_folder_is_the_label_and_files_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    root = _lay_out(tmp_path, "SNE/b.JPG", "SNE/a.png", "Monocyte/c.tiff", "platelet/d.bmp")
    listing = read_folders(root, FIVE, own_words={})
    assert [file.name for file in listing.files] == ["Monocyte/c.tiff", "SNE/a.png", "SNE/b.JPG"]
    assert [FIVE.classes[index] for (index,) in listing.allowed] == ["monocyte", "neutrophil", "neutrophil"]
    assert listing.left_out == {"platelet": 1}
    assert {file.split for file in listing.files} == {""}


def test_split_folders_of_imagefolder_users_are_their_splits(tmp_path: Path) -> None:
    root = _lay_out(tmp_path, "train/monocyte/1.png", "Validation/monocyte/2.png", "test/basophil/3.png")
    splits = {file.name: file.split for file in read_folders(root, FIVE, own_words={}).files}
    assert splits == {
        "train/monocyte/1.png": "train",
        "Validation/monocyte/2.png": "val",
        "test/basophil/3.png": "test",
    }


def test_the_patient_is_found_in_the_files_name(tmp_path: Path) -> None:
    root = _lay_out(tmp_path, "monocyte/P12_1.png", "basophil/P12_2.png", "basophil/x.png")
    files = read_folders(root, FIVE, own_words={}, group_pattern=r"^(P\d+)_").files
    assert {file.name: file.group for file in files} == {
        "monocyte/P12_1.png": "P12",
        "basophil/P12_2.png": "P12",
        "basophil/x.png": "",
    }


def test_an_empty_class_folder_is_no_cell_and_no_error_whatever_its_name(tmp_path: Path) -> None:
    root = _lay_out(tmp_path, "monocyte/1.png")
    (root / "basophil").mkdir()
    (root / "to do").mkdir()
    assert len(read_folders(root, FIVE, own_words={}).files) == 1


def test_what_is_no_image_is_passed_over_and_counted_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = _lay_out(tmp_path, "monocyte/1.png", "monocyte/Thumbs.db", "monocyte/.DS_Store", ".hidden/2.png")
    (root / "monocyte" / "deeper.png").mkdir()
    with caplog.at_level(logging.WARNING, logger="wbc_client"):
        assert len(read_folders(root, FIVE, own_words={}).files) == 1
    assert "2 entries are no images" in caplog.text


def test_an_unknown_folder_name_is_an_unknown_label(tmp_path: Path) -> None:
    root = _lay_out(tmp_path, "granny/1.png", "granny/2.png", "monocyte/3.png")
    with pytest.raises(DataError, match=r"'granny' \(2 ×, first at folder granny\)"):
        read_folders(root, FIVE, own_words={})
    assert len(read_folders(root, FIVE, own_words={"granny": "eosinophil"}).files) == 3


def test_split_folders_beside_class_folders_are_refused(tmp_path: Path) -> None:
    root = _lay_out(tmp_path, "train/monocyte/1.png", "basophil/2.png")
    with pytest.raises(DataError, match=r"mixes split folders with others \(basophil\)"):
        read_folders(root, FIVE, own_words={})


def test_no_folder_and_no_image_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_folders(tmp_path / "gone", FIVE, own_words={})
    with pytest.raises(DataError, match="holds no image"):
        read_folders(_lay_out(tmp_path, "1.png", "monocyte/notes.txt"), FIVE, own_words={})
