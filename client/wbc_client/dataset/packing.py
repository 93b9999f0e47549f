"""Packs a clinic's cells: decoded once, with the splits and labels of the day, into a file that opens at once."""

from pathlib import Path

from wbc_client.dataset.opening import OpenedCells, read_cells
from wbc_client.dataset.packed import packed_metadata, write_packed
from wbc_client.site import Site
from wbc_common.errors import SettingError

_OWNER_ONLY = 0o600


def pack_cells(site: Site, path: Path) -> OpenedCells:
    """Write the clinic's cells, as its study reads them, to a file that only its owner reads.

    It fits studies with the same classes and size of images. Cells that are added or relabelled later are not in it.

    Raises:
        SettingError: the clinic's data are packed already, or the file's name does not end in .safetensors.
        DataError: as `read_cells`.
    """
    if site.data.kind == "packed":
        raise SettingError("this clinic's data are packed already", remedy="pack the manifest or the folders")
    if path.suffix != ".safetensors":
        raise SettingError(f"'{path.name}' is no name of a packed file", remedy="let it end in .safetensors")
    study = site.read_study()
    opened = read_cells(site, study)
    write_packed(opened.cells, path, packed_metadata(study.classes, study.images), mode=_OWNER_ONLY)
    return opened
