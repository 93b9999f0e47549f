"""Opens a clinic's data: from what `clinic.toml` says to a CellSet, every cell lost on the way accounted for.

The only place where readers, decoding and splits meet. File names go to the clinic's own log and into `unreadable`,
which stays on site; notes hold counts only. Splits depend on the clinic and its list of files, never on the study's
seed nor on which files could be read today, so that a test cell stays one.
"""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from wbc_client.dataset.cell_set import SPLITS, CellSet
from wbc_client.dataset.folders import read_folders
from wbc_client.dataset.listing import LabelledFile, Listing
from wbc_client.dataset.manifest import read_manifest
from wbc_client.dataset.packed import packed_metadata, read_packed
from wbc_client.dataset.splits import assign_splits, connected_units, given_splits, refuse_straddling
from wbc_client.site import Site
from wbc_common.appearance import prepare
from wbc_common.errors import DataError
from wbc_common.images import read_image
from wbc_common.seeds import derive_seed
from wbc_common.study import StudyConfig

_MAX_THREADS = 8
_NAMED = 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenedCells:
    """A clinic's cells, and what was not used.

    Attributes:
        cells: the cells.
        notes: what a person should know about them; counts, no names.
        unreadable: names of the image files that were skipped; never leaves the clinic.
        left_out: label → number of images whose label has no place in the registry.
    """

    cells: CellSet
    notes: tuple[str, ...]
    unreadable: tuple[str, ...]
    left_out: dict[str, int]


def open_cells(site: Site, study: StudyConfig) -> OpenedCells:
    """All usable cells of the clinic, prepared as the study says: size, white balance, framing.

    Raises:
        DataError: see `read_cells`.
    """
    opened = read_cells(site, study)
    images = prepare(opened.cells.images, study.images)
    return replace(opened, cells=replace(opened.cells, images=images))


def read_cells(site: Site, study: StudyConfig) -> OpenedCells:
    """All usable cells of the clinic as a packed file holds them: of one size, before white balance and framing.

    Raises:
        DataError: no cell is left, too many images are unreadable, or labels, splits or the manifest are wrong.
    """
    if site.data.kind == "packed":
        cells = read_packed(site.data.path, packed_metadata(study.classes, study.images))
        refuse_straddling(cells.groups.numpy(), cells.split.numpy())
        opened = OpenedCells(cells, (), (), {})
    else:
        opened = _open_files(site, study)
    if not len(opened.cells):
        raise DataError(
            f"no cell of {study.registry} is left at {site.data.path}; left out: {opened.left_out or 'none'}",
            remedy="check data.path and the labels",
        )
    return opened


def _open_files(site: Site, study: StudyConfig) -> OpenedCells:
    listing = _listing(site, study)
    if not listing.files:
        raise DataError(
            f"no image at {site.data.path} has a label of {study.registry}; left out: {listing.left_out}",
            remedy="check the labels, or [data.labels]",
        )
    units = connected_units([file.group for file in listing.files], [file.near_duplicate for file in listing.files])
    split, split_note = _splits(site, listing, units)
    _check_scale(listing, study)
    images, readable = _decode(listing.files, study)
    unreadable = tuple(file.name for file, read in zip(listing.files, readable, strict=True) if not read)
    _check_readable(site, unreadable, len(listing.files))
    everything = CellSet(
        images, _allowed(listing, len(study.classes)), torch.from_numpy(units), torch.from_numpy(split)
    )
    cells = everything.subset(torch.from_numpy(readable)) if unreadable else everything
    return OpenedCells(cells, _notes(study, listing, cells, len(unreadable), split_note), unreadable, listing.left_out)


def _listing(site: Site, study: StudyConfig) -> Listing:
    data = site.data
    if data.kind == "folders":
        found = read_folders(data.path, study.classes, own_words=data.labels, group_pattern=data.group_pattern)
    else:
        found = read_manifest(
            data.path,
            study.classes,
            own_words=data.labels,
            own_id=site.clinic,
            clinic=data.clinic,
            plan_clinics=(*study.clinics.train, *study.clinics.held_out),
        )
    files = tuple(replace(file, um_per_px=file.um_per_px or data.um_per_px) for file in found.files)
    return replace(found, files=files)


def _splits(site: Site, listing: Listing, units: NDArray[np.int64]) -> tuple[NDArray[np.int64], str]:
    names = [file.split for file in listing.files]
    if site.data.splits == "given" and any(names):
        return given_splits(names, units), "splits are the clinic's own"
    code = {classes: place for place, classes in enumerate(sorted(set(listing.allowed)))}
    labels = np.array([code[classes] for classes in listing.allowed], dtype=np.int64)
    split = assign_splits(labels, units, derive_seed(site.clinic, "split"))
    return split, "splits were assigned by patient, slide or near-duplicate cluster"


def _decode(files: Sequence[LabelledFile], study: StudyConfig) -> tuple[torch.Tensor, NDArray[np.bool_]]:
    """Images uint8 [N, 3, H, W] (undefined where unreadable) and bool [N], whether each could be read."""
    size_px, field_um = study.images.source_px, study.images.field_um
    pixels = np.empty((len(files), 3, size_px, size_px), dtype=np.uint8)

    def decode_into(place: int) -> bool:
        file = files[place]
        try:
            image = read_image(file.path, size_px, um_per_px=file.um_per_px, field_um=field_um)
        except DataError as error:
            logger.warning("skipped %s (%s): %s", file.name, file.place, error.problem)
            return False
        pixels[place] = image.transpose(2, 0, 1)  # [H, W, 3] -> [3, H, W]
        return True

    # Pillow decodes outside Python's lock.
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        readable = np.fromiter(pool.map(decode_into, range(len(files))), dtype=np.bool_, count=len(files))
    return torch.from_numpy(pixels), readable


def _check_scale(listing: Listing, study: StudyConfig) -> None:
    """Refuse images of unknown scale where the plan shows a field in µm: they would stand among others at any size."""
    unknown = sum(file.um_per_px is None for file in listing.files)
    if study.images.field_um is not None and unknown:
        raise DataError(
            f"{unknown} of {len(listing.files)} images do not tell their µm per pixel, but the plan shows a field of "
            f"{study.images.field_um:g} µm",
            remedy="add the manifest's column um_per_px, or data.um_per_px in clinic.toml where it is one for all",
        )


def _check_readable(site: Site, unreadable: Sequence[str], num_files: int) -> None:
    if len(unreadable) <= site.data.max_unreadable_fraction * num_files:
        return
    more = ", …" if len(unreadable) > _NAMED else ""
    raise DataError(
        f"{len(unreadable)} of {num_files} images cannot be read ({', '.join(unreadable[:_NAMED])}{more}); "
        f"at most {site.data.max_unreadable_fraction:.0%} may be",
        remedy="see the log for the reason of each; restore the files or raise data.max_unreadable_fraction",
    )


def _allowed(listing: Listing, num_classes: int) -> torch.Tensor:
    allowed = torch.zeros(len(listing.allowed), num_classes, dtype=torch.bool)  # [N, C]
    for row, classes in enumerate(listing.allowed):
        allowed[row, list(classes)] = True
    return allowed


def _notes(
    study: StudyConfig, listing: Listing, cells: CellSet, num_unreadable: int, split_note: str
) -> tuple[str, ...]:
    per_split = ", ".join(f"{int((cells.split == place).sum())} {name}" for place, name in enumerate(SPLITS))
    ungrouped = sum(not file.group for file in listing.files)
    notes = [f"{len(cells)} cells: {per_split}; {split_note}"]
    if ungrouped:
        notes.append(f"{ungrouped} cells name no patient or slide: cells of one patient may stand in two splits")
    if num_unreadable:
        notes.append(f"{num_unreadable} images could not be read and were skipped")
    if listing.left_out:
        notes.append(f"{sum(listing.left_out.values())} images were left out: their labels have no place in the study")
    if study.images.field_um is None and any(file.um_per_px for file in listing.files):
        notes.append("µm per pixel is known but not used: the plan names no images.field_um")
    if not cells.exact.all():
        notes.append(f"{int((~cells.exact).sum())} cells have a coarse label")
    return tuple(notes)
