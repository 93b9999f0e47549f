"""Reads folders named after classes: the layout that hospitals without a manifest have.

`<label>/<image>`, or `train|val|test/<label>/<image>` as users of torchvision's ImageFolder keep it. The folder's name
is the label; the patient can stand in the file's name (`group_pattern`).
"""

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from wbc_client.dataset.listing import SPLIT_WORDS, LabelledFile, Listing, resolve_labels
from wbc_common.cells import Registry
from wbc_common.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")

logger = logging.getLogger(__name__)


def read_folders(
    root: Path, registry: Registry, *, own_words: Mapping[str, str], group_pattern: str | None = None
) -> Listing:
    """The images below `root`, in the order of their names.

    Args:
        root: the folder of class folders, or of split folders that hold class folders.
        registry: the study's classes.
        own_words: the clinic's own labels and the known label each stands for.
        group_pattern: its first group, searched in the file's name, is the patient or slide; without a match the
            image is a unit of its own.

    Raises:
        DataError: there is no such folder, no image, or a mixture of split and class folders.
    """
    if not root.is_dir():
        raise DataError(f"data folder {root} does not exist or is no folder", remedy="correct data.path")
    files = [
        LabelledFile(
            path=path,
            name=path.relative_to(root).as_posix(),
            label=path.parent.name,
            place=f"folder {path.parent.relative_to(root).as_posix()}",
            group=_group(path, group_pattern),
            split=split,
        )
        for split, class_folder in _class_folders(root)
        for path in _images(class_folder)
    ]
    if not files:
        raise DataError(
            f"data folder {root} holds no image in class folders ({', '.join(SUFFIXES)})",
            remedy="lay the images out as <label>/<image>, or train/<label>/<image>",
        )
    return resolve_labels(files, registry, own_words)


def _class_folders(root: Path) -> Iterator[tuple[str, Path]]:
    folders = _folders(root)
    splits = [folder for folder in folders if folder.name.lower() in SPLIT_WORDS]
    if splits and len(splits) < len(folders):
        others = [folder.name for folder in folders if folder not in splits]
        raise DataError(
            f"data folder {root} mixes split folders with others ({', '.join(others[:5])})",
            remedy="keep either train, val, test or the class folders at the top",
        )
    for folder in folders:
        if splits:
            yield from ((SPLIT_WORDS[folder.name.lower()], inner) for inner in _folders(folder))
        else:
            yield "", folder


def _folders(parent: Path) -> list[Path]:
    return sorted(entry for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(class_folder: Path) -> list[Path]:
    entries = sorted(entry for entry in class_folder.iterdir() if not entry.name.startswith("."))
    images = [entry for entry in entries if entry.is_file() and entry.suffix.lower() in SUFFIXES]
    if len(images) < len(entries):
        logger.warning("class folder %s: %d entries are no images, ignored", class_folder, len(entries) - len(images))
    return images


def _group(path: Path, pattern: str | None) -> str:
    match = re.search(pattern, path.name) if pattern else None
    return (match.group(1) or "") if match else ""
