"""A clinic's class sums: told once, kept on site, taken out of the totals one round later."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from studies import CLINICS, SETTINGS
from wbc_client.clinic import Clinic, open_clinic
from wbc_client.sharing import own_share, sums_to_share
from wbc_client.tasks import perform
from wbc_client.training import round as round_training
from wbc_common.models import build_model, model_arrays
from wbc_common.study import parse_study
from wbc_common.wire import Arrays, ClassSums, RoundReply, Task
from wbc_server.run_folder import RunFolder


def a_clinic(run: RunFolder, state: Path, name: str = "east", **loss: float) -> Clinic:
    """A clinic of the finished run with a state folder of its own; its plan has four rounds."""
    found = open_clinic(Path(run.path) / "clinics" / f"{name}.toml")
    values = found.study.model_dump(mode="json")
    study = parse_study({**values, "rounds": 4, "loss": {**values["loss"], **loss}}, "test")
    return replace(found, study=study, site=found.site.model_copy(update={"state_dir": state}))


def model_of(clinic: Clinic, seed: int = 0) -> Arrays:
    return model_arrays(build_model(clinic.study.model, clinic.study.head_rows, seed=seed))


def test_class_sums_are_no_longer_than_their_counts_and_kept_as_they_were_told(
    finished_run: RunFolder, tmp_path: Path
) -> None:
    east = a_clinic(finished_run, tmp_path)
    told = sums_to_share(east, east.cells.part("train"), model_of(east), 2)
    assert told is not None
    assert ((told.sums**2).sum(axis=1) ** 0.5 <= told.counts + 1e-6).all()
    kept = own_share(east, Task("train", east.study.hash, 3, totals=told + told))
    assert kept is not None
    assert kept.sums.tobytes() == told.sums.tobytes()
    assert kept.counts.tobytes() == told.counts.tobytes()


def test_what_was_told_in_another_round_is_not_taken_out(finished_run: RunFolder, tmp_path: Path) -> None:
    east = a_clinic(finished_run, tmp_path)
    told = sums_to_share(east, east.cells.part("train"), model_of(east), 1)
    assert told is not None
    assert own_share(east, Task("train", east.study.hash, 3, totals=told)) is None
    assert own_share(east, Task("train", east.study.hash, 2)) is None  # no totals, nothing to take out


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        ({"alignment_warmup": 0.0}, [1, 2, 3]),
        ({"alignment_warmup": 0.5}, [2, 3]),
        ({"alignment_weight": 0.0}, []),
    ],
    ids=["from the start", "after two rounds", "never"],
)
def test_sums_leave_one_round_before_the_term_counts_and_not_in_the_last(
    finished_run: RunFolder, tmp_path: Path, loss: dict[str, float], told: list[int]
) -> None:
    east = a_clinic(finished_run, tmp_path, **loss)
    assert [number for number in range(1, 5) if east.study.shares_sums(number)] == told


def test_a_study_of_one_training_clinic_shares_nothing() -> None:
    alone = {"train": [CLINICS[0].clinic], "held_out": [CLINICS[2].clinic]}
    loss = {"alignment_weight": 0.0}
    assert not parse_study({**SETTINGS, "clinics": alone, "loss": loss}, "test").shares_sums(1)


def test_a_round_takes_the_clinics_own_sums_of_the_round_before_and_tells_new_ones(
    finished_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    east, seen = a_clinic(finished_run, tmp_path), []
    train = round_training.train_locally

    def note(*args: object, sums: tuple[ClassSums, ClassSums] | None, **named: object) -> dict[str, float]:
        seen.append(sums)
        return train(*args, sums=sums, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(round_training, "train_locally", note)
    first = perform(east, Task("train", east.study.hash, 1, model_of(east)))
    assert isinstance(first, RoundReply)
    assert first.sums is not None
    totals = first.sums + first.sums
    second = perform(east, Task("train", east.study.hash, 2, model_of(east, seed=1), totals))
    assert isinstance(second, RoundReply)
    assert second.sums is not None
    assert seen[0] is None
    assert seen[1] is not None
    np.testing.assert_array_equal(seen[1][0].sums, first.sums.sums)
    np.testing.assert_array_equal(seen[1][1].sums, totals.sums)
    assert not np.array_equal(second.sums.sums, first.sums.sums)
