"""`wbc-simulate splits`: the counts, the table, the picture, and every shipped experiment through all of them."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from studies import tiny_experiment
from wbc_client.dataset.packed import read_packed
from wbc_common.cells import registry
from wbc_common.errors import SettingError
from wbc_common.study import read_toml
from wbc_simulations import clinics
from wbc_simulations.cli import main
from wbc_simulations.clinics import source_cells
from wbc_simulations.experiment import DEFAULT_EXPERIMENT, plan_study, read_experiment, write_experiment
from wbc_simulations.skewed import skewed_cells
from wbc_simulations.splits.counts import ClinicSplit, count_splits
from wbc_simulations.splits.picture import check_format, draw_splits
from wbc_simulations.splits.text import SHORT_CLASS, splits_text

EXPERIMENTS = sorted((Path(__file__).parents[2] / "simulations" / "experiments").glob("*.toml"))
STUDY = plan_study(tiny_experiment(registry="wbc13"))


def a_split(clinic: str = "east", role: Any = "train", scale: int = 1, **values: Any) -> ClinicSplit:
    counts = scale * np.arange(39).reshape(3, 13)
    return ClinicSplit(clinic, role, counts, np.zeros(3, dtype=np.int64), patients=7, **values)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What `wbc-simulate splits` says on stdout when it ends well."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["wbc-simulate", "splits", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code in (0, None), capsys.readouterr().err
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("path", [DEFAULT_EXPERIMENT, *EXPERIMENTS], ids=lambda path: path.stem)
def test_every_shipped_experiment_shows_its_splits_without_rendering_a_cell(
    path: Path,
    tmp_path: Path,
    said: Callable[..., str],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clinics, "render", lambda *arguments, **options: pytest.fail("rendered"))
    is_real = read_toml(path)["data"]["kind"] == "manifest"
    data = ["--data", str(request.getfixturevalue("real_data"))] if is_real else []
    picture = tmp_path / "splits.png"
    text = said("--study", str(path), *data, "--output", str(picture))
    assert max(map(len, text.splitlines()[:-1])) <= 100
    assert Image.open(picture).size[0] > 500
    found = json.loads(said("--study", str(path), *data, "--output", str(picture), "--json"))
    assert {one["role"] for one in found["clinics"]} == {"train", "held-out"}
    assert all(sum(one["class_counts"]["train"]) > 0 for one in found["clinics"] if one["role"] == "train")


@pytest.mark.slow
def test_what_is_shown_is_what_the_clinics_get(tmp_path: Path) -> None:
    text = (Path(EXPERIMENTS[0]).parent / "faulty-labels.toml").read_text()
    (tmp_path / "small.toml").write_text(text.replace("0\npatients", "\npatients").replace("rounds = 15", "rounds = 1"))
    experiment = read_experiment(tmp_path / "small.toml")  # a tenth of the cells
    study = plan_study(experiment, changes={"images.size_px": 32, "images.framing": "as-is"})
    files = skewed_cells(experiment, study, lambda name: source_cells(name, experiment, study))
    for split in count_splits(experiment, study):
        cells = read_packed(files[split.clinic])
        for place, name in enumerate(("train", "val", "test")):
            part = cells.part(name)
            assert np.array_equal(split.counts[place], part.allowed[part.exact].sum(dim=0).numpy())
            assert split.coarse[place] == (~part.exact).sum()
        assert split.patients == len(cells.groups.unique())
    assert sum(split.coarse.sum() for split in count_splits(experiment, study)) > 0


def test_the_table_adds_up_training_clinics_alone() -> None:
    splits = [a_split("east"), a_split("north", scale=2), a_split("west", "held-out")]
    text = splits_text(splits, STUDY).splitlines()
    assert text[0].split()[:4] == ["clinic", "bas", "eos", "ery"]
    assert text.index("held out, measured on all their cells:") > 3
    total = next(line for line in text if line.startswith("all training"))
    # Column c of one clinic is c + (13 + c) + (26 + c); two clinics, one of them twice as large, make three times it.
    assert total.split()[2:5] == [str(3 * (39 + 3 * column)) for column in range(3)]
    assert total.split()[-3:] == [str(3 * sum(range(start, start + 13))) for start in (0, 13, 26)]


def test_flags_and_missing_classes_are_told_and_coarse_labels_get_a_column() -> None:
    coarse = ClinicSplit("south", "train", np.ones((3, 13), dtype=np.int64), np.array([5, 0, 0]), patients=3)
    text = splits_text([a_split(flags=("20% wrong labels",), missing=("basophil",)), coarse], STUDY)
    assert "east: 20% wrong labels; never basophil" in text
    assert "coarse" in text.splitlines()[0]
    assert "coarse" not in splits_text([a_split()], STUDY).splitlines()[0]


@pytest.mark.parametrize("num_clinics", [1, 6, 59, 60, 1000])
def test_the_table_fits_whatever_the_names_and_numbers(num_clinics: int) -> None:
    coarse = np.array([99_999, 3, 3])
    splits = [
        ClinicSplit(f"a-clinic-with-a-very-long-name-{number}", "train", np.full((3, 13), 43_210), coarse, patients=9)
        for number in range(num_clinics)
    ]
    lines = splits_text(splits, STUDY).splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) < 75


def test_every_class_has_a_short_name_of_its_own() -> None:
    for name in ("wbc5", "wbc11", "wbc13"):
        short = [SHORT_CLASS[cell_class] for cell_class in registry(name).classes]
        assert len(set(short)) == len(short)


@pytest.mark.parametrize(("num_clinics", "suffix"), [(2, ".png"), (2, ".svg"), (80, ".png")])
def test_pictures_of_few_and_many_clinics_are_drawn_and_repeat_bit_for_bit(
    tmp_path: Path, num_clinics: int, suffix: str
) -> None:
    splits = [a_split(f"clinic-{number}", scale=number + 1, flags=("keeps",)) for number in range(num_clinics)]
    splits += [a_split("west", "held-out")]
    one, again = tmp_path / f"one{suffix}", tmp_path / f"again{suffix}"
    draw_splits(splits, STUDY, one)
    draw_splits(splits, STUDY, again)
    assert one.read_bytes() == again.read_bytes()
    if suffix == ".png":
        assert np.asarray(Image.open(one).convert("L")).std() > 10  # not blank


def test_only_training_clinics_can_be_drawn_too(tmp_path: Path) -> None:
    draw_splits([a_split()], plan_study(tiny_experiment(registry="wbc13")), tmp_path / "one.pdf")
    assert (tmp_path / "one.pdf").stat().st_size > 1000


def test_a_picture_of_another_format_is_refused_before_anything_is_counted() -> None:
    with pytest.raises(SettingError, match=r"cannot be written as splits\.jpeg"):
        check_format(Path("splits.jpeg"))


def test_settings_and_held_out_clinics_reach_the_splits(tmp_path: Path, said: Callable[..., str]) -> None:
    write_experiment(tiny_experiment(), tmp_path / "tiny.toml")
    changes = ["--set", "data.skew.deal=patient", "--set", "data.skew.clinics=2", "--set", "registry=wbc11"]
    picture = str(tmp_path / "a.svg")
    out = said("--study", str(tmp_path / "tiny.toml"), *changes, "--held-out", "east", "--json", "--output", picture)
    found = json.loads(out)
    assert [(one["clinic"], one["role"]) for one in found["clinics"]] == [
        ("virtual-1", "train"),
        ("virtual-2", "train"),
        ("west", "train"),
        ("east", "held-out"),
    ]
    assert found["classes"] == list(registry("wbc11").classes)
