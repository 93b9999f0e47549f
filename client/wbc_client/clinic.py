"""A clinic, opened: its file, the plan it approved, its decoded cells and its device, ready for tasks.

Opening decodes every image once; a process keeps the clinics it opened last, by clinic file and its last change, up to
`KEPT_BYTES` of cells: a simulation of a thousand clinics then needs no more memory than one of a hundred.
"""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import torch

from wbc_client.dataset.cell_set import CellSet
from wbc_client.dataset.opening import open_cells
from wbc_client.device import choose_device, compute_reproducibly, take_share
from wbc_client.precision import Precision, resolve_precision
from wbc_client.site import Site, read_site
from wbc_common.errors import SettingError
from wbc_common.memory import keep_freed_memory
from wbc_common.models import Network, network_of
from wbc_common.study import StudyConfig
from wbc_common.wire import Arrays

KEPT_BYTES = 512 * 2**20
_Key = tuple[Path, tuple[int, int]]
_kept: "OrderedDict[_Key, Clinic]" = OrderedDict()
_lock = Lock()


@dataclass
class Clinic:
    """One clinic in this process."""

    site: Site
    study: StudyConfig
    cells: CellSet
    device: torch.device

    def model(self, arrays: Arrays) -> Network:
        """The plan's network holding `arrays`, on this clinic's device."""
        model = network_of(arrays, self.study.model, self.study.head_rows)
        in_place: Network = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return in_place

    @property
    def precision(self) -> Precision:
        """What the plan's precision means on this clinic's device."""
        return resolve_precision(self.study.training.precision, self.device)


def open_clinic(path: Path) -> Clinic:
    """The clinic of a clinic file.

    Raises:
        SettingError, DataError: the file, the plan or the cells cannot be used.
    """
    key = (path, _last_change(path))
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    clinic = _open(path)
    with _lock:
        _kept[key] = clinic
        while len(_kept) > 1 and sum(kept.cells.images.nbytes for kept in _kept.values()) > KEPT_BYTES:
            _kept.popitem(last=False)
    return clinic


def _last_change(path: Path) -> tuple[int, int]:
    site = read_site(path)
    try:
        return path.stat().st_mtime_ns, site.study.stat().st_mtime_ns
    except OSError as error:
        raise SettingError(
            f"cannot read {site.study}: {error.strerror}", remedy="check study in the clinic file"
        ) from error


def _open(path: Path) -> Clinic:
    site = read_site(path)
    study = site.read_study()
    compute_reproducibly()
    keep_freed_memory()
    device = choose_device(site.device)
    take_share(device, site.gpu_share)
    return Clinic(site, study, open_cells(site, study).cells, device)
