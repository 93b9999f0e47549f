"""The clinic file: what it may say, and how it complains."""

import subprocess
import sys
from pathlib import Path

import pytest

from wbc_client.site import read_site
from wbc_common.errors import SettingError
from wbc_common.study import StudyConfig, write_study

WHOLE = """
clinic = "munich"
study = "plan/study.toml"
device = "cuda:1"
state_dir = "ledger"
[data]
kind = "manifest"
path = "cells/manifest.csv"
clinic = "chula"
max_unreadable_fraction = 0.1
um_per_px = 0.1
[data.labels]
"own word" = "monocyte"
"""
LEAST = """
clinic = "munich"
study = "study.toml"
[data]
kind = "folders"
path = "cells"
"""


def _file(folder: Path, text: str) -> Path:
    path = folder / "clinic.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_setting_is_read_and_paths_are_taken_from_the_files_folder(tmp_path: Path) -> None:
    site = read_site(_file(tmp_path, WHOLE))
    assert (site.clinic, site.device, site.data.clinic) == ("munich", "cuda:1", "chula")
    assert site.study == tmp_path / "plan" / "study.toml"
    assert site.state_dir == tmp_path / "ledger"
    assert site.data.path == tmp_path / "cells" / "manifest.csv"
    assert site.data.labels == {"own word": "monocyte"}
    assert (site.data.max_unreadable_fraction, site.data.um_per_px) == (0.1, 0.1)


def test_what_is_left_out_has_a_default(tmp_path: Path) -> None:
    site = read_site(_file(tmp_path, LEAST))
    assert (site.device, site.state_dir, site.data.splits) == ("auto", tmp_path / "state", "given")
    assert (site.data.max_unreadable_fraction, site.data.labels, site.data.clinic) == (0.05, {}, None)


def test_an_absolute_path_stays_as_it_is(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    site = read_site(_file(tmp_path, LEAST.replace('"cells"', f'"{elsewhere.as_posix()}"')))
    assert site.data.path == elsewhere


def test_the_site_reads_the_plan_it_names(tmp_path: Path) -> None:
    plan = StudyConfig.model_validate({"name": "a study", "clinics": {"train": ["munich", "bern"]}})
    write_study(plan, tmp_path / "study.toml")
    assert read_site(_file(tmp_path, LEAST)).read_study() == plan


def test_a_missing_plan_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"study\.toml"):
        read_site(_file(tmp_path, LEAST)).read_study()


def test_a_missing_clinic_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"clinic\.toml"):
        read_site(tmp_path / "clinic.toml")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('kind = "folders"', 'kind = "zip"', r"data\.kind"),
        ('clinic = "munich"', "", "'clinic' is missing"),
        ('clinic = "munich"', 'clinic = "mun ich"', "clinic"),
        ("[data]", 'devise = "cpu"\n[data]', "did you mean 'device'"),
        ("[data]", 'device = "gpu"\n[data]', "device"),
        ('path = "cells"', 'path = "cells"\nmax_unreadable_fraction = 1.0', "max_unreadable_fraction"),
        ('path = "cells"', 'path = "cells"\num_per_px = 0', "um_per_px"),
        ('path = "cells"', 'path = "cells"\nclinic = "chula"', "'clinic' is for data of kind manifest, not folders"),
        ('kind = "folders"', 'kind = "packed"\nsplits = "assigned"', "'splits' is for data of kind"),
        ('path = "cells"', 'path = "cells"\ngroup_pattern = "P\\\\d+"', "needs a bracketed part"),
        ('path = "cells"', 'path = "cells"\ngroup_pattern = "(P"', "no regular expression"),
        ("[data]", "[data", "not valid TOML"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    assert old in LEAST
    with pytest.raises(SettingError, match=complaint):
        read_site(_file(tmp_path, LEAST.replace(old, new)))


def test_reading_the_clinic_file_does_not_import_torch() -> None:
    check = "import sys, wbc_client.site; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
