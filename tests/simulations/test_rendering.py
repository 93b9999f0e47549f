"""Rendered data sets are what clinics use: a manifest that the clinic's own reader opens."""

from pathlib import Path

import pytest
from PIL import Image

from studies import tiny_experiment
from wbc_client.dataset.manifest import manifest_clinics
from wbc_common.errors import SettingError
from wbc_server.run_folder import RunFolder
from wbc_simulations.experiment import DataSource, PhantomClinic, plan_study
from wbc_simulations.rendering import write_data_set
from wbc_simulations.running import start_run

CLINICS = tuple(
    PhantomClinic(clinic=name, domain=domain, cells=12, patients=6)
    for name, domain in (("a", "dm96_mgg"), ("b", "pale_wright"))
)


def test_a_rendered_data_set_is_opened_like_any_real_one(tmp_path: Path) -> None:
    from wbc_client.clinic import open_clinic
    from wbc_simulations.clinics import write_clinics

    assert write_data_set(CLINICS, tmp_path / "cells", size_px=32, seed=0) == 24
    assert manifest_clinics(tmp_path / "cells") == ("a", "b")
    experiment = tiny_experiment().model_copy(update={"data": DataSource(kind="manifest", path=tmp_path / "cells")})
    study = plan_study(experiment, held_out=["b"])
    start_run(experiment, study, RunFolder(tmp_path / "run"))
    folder = write_clinics(experiment, study, tmp_path / "run")
    opened = open_clinic(folder / "a.toml")
    assert len(opened.cells) <= 12
    assert opened.cells.images.shape[1:] == (3, 32, 32)


def test_the_contact_sheet_is_a_picture_with_a_column_for_each_domain(tmp_path: Path) -> None:
    write_data_set(CLINICS, tmp_path, size_px=32, seed=0)
    with Image.open(tmp_path / "contact.png") as sheet:
        assert sheet.width > 2 * 3 * 32
        assert sheet.height > 13 * 32


def test_a_folder_with_a_data_set_is_not_overwritten(tmp_path: Path) -> None:
    write_data_set(CLINICS[:1], tmp_path, size_px=32, seed=0)
    with pytest.raises(SettingError, match="already"):
        write_data_set(CLINICS[:1], tmp_path, size_px=32, seed=0)
