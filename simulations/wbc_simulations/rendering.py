"""In-silico cells as files: the manifest layout that clinics use, and a contact sheet to look at."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from wbc_common.cells import CLASSES_13
from wbc_common.errors import SettingError
from wbc_common.files import write_atomically
from wbc_simulations.clinics import render_cells
from wbc_simulations.experiment import PhantomClinic
from wbc_simulations.phantom import load_domain
from wbc_simulations.phantom.contact import contact_sheet

MANIFEST = "manifest.csv"
CONTACT_SHEET = "contact.png"
_CELLS_PER_CLASS = 3


def write_data_set(clinics: Sequence[PhantomClinic], folder: Path, *, size_px: int, seed: int) -> int:
    """Render clinics into `folder`: PNGs by clinic and class, manifest.csv and a contact sheet; returns how many cells.

    Raises:
        SettingError: the folder holds a manifest already, or a clinic names an unknown domain or case.
    """
    if (folder / MANIFEST).exists():
        raise SettingError(f"{folder} holds a data set already", remedy="choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    domains = [load_domain(name) for name in dict.fromkeys(clinic.domain for clinic in clinics)]
    sheet = contact_sheet(domains, size_px=size_px, cells_per_class=_CELLS_PER_CLASS, seed=seed)
    rows = [row for clinic in clinics for row in _write_clinic(clinic, folder, size_px=size_px, seed=seed)]
    sheet.save(folder / CONTACT_SHEET)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerows([("path", "clinic", "label", "group"), *rows])
    write_atomically(folder / MANIFEST, text.getvalue().encode())
    return len(rows)


def _write_clinic(clinic: PhantomClinic, folder: Path, *, size_px: int, seed: int) -> list[tuple[str, str, str, str]]:
    """The clinic's rows of the manifest, its images written."""
    images, labels, patients = render_cells(clinic, size_px=size_px, seed=seed)
    rows = []
    for number, (label, patient) in enumerate(zip(labels, patients, strict=True)):
        name = CLASSES_13[label]
        path = Path(clinic.clinic) / name / f"{number:06d}.png"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[number].permute(1, 2, 0).numpy()).save(folder / path)
        rows.append((path.as_posix(), clinic.clinic, name, f"patient-{patient}"))
    return rows
