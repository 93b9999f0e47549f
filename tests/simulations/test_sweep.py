"""Sweeps: which runs, where each stands, what a grid adds, and how long it will take."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from studies import tiny_experiment
from wbc_common.errors import DataError, SettingError, WbcError
from wbc_simulations.experiment import Comparison, Experiment, Method, Sweep, plan_study
from wbc_simulations.running import start_run
from wbc_simulations.sweep.cells import Cell, Filters, Record, plan_cells, refuse_failures, state_of
from wbc_simulations.sweep.display import Clock, status, status_text
from wbc_simulations.sweep.same_run import same_plan
from wbc_simulations.sweep.start_weights import check_start_weights, with_found_weights

PLAIN = {"loss": {"classification": "cross-entropy", "alignment_weight": 0.0, "guide_weight": 0.0}}


def an_experiment(grid: dict[str, Any] | None = None, **values: Any) -> Experiment:
    methods = (Method(name="plain + CE", settings=PLAIN), Method(name="full"))
    compare = Comparison(**{"seeds": (0, 1, 2), "methods": methods, **values})
    return tiny_experiment().model_copy(update={"compare": compare, "sweep": Sweep(grid=grid or {})})


def cells_of(experiment: Experiment, changes: dict[str, Any] | None = None, **filters: Any) -> list[Cell]:
    return plan_cells(experiment, Filters(**filters), changes or {})


def test_every_fold_seed_and_method_is_run_once_seeds_outermost() -> None:
    cells = cells_of(an_experiment())
    assert len(cells) == 3 * 3 * 2 == len({(cell.fold, cell.seed, cell.method) for cell in cells})
    assert [cell.seed for cell in cells] == [0] * 6 + [1] * 6 + [2] * 6
    assert len({cell.folder(Path("out")).path for cell in cells}) == 18
    assert str(cells[0].folder(Path("out")).path) == "out/east/plain-and-CE/seed-0"


def test_each_run_holds_out_its_fold_under_its_method_and_seed() -> None:
    for cell in cells_of(an_experiment()):
        assert cell.study.clinics.held_out == (cell.fold.held_out,)
        assert cell.study.seed == cell.seed
        assert cell.study.loss.guide_weight == (0.0 if cell.method == "plain + CE" else 0.5)


def test_fewer_seeds_named_folds_and_changed_settings_are_taken() -> None:
    cells = cells_of(an_experiment(), {"rounds": 7}, seeds=[0], folds=["west"])
    assert [(str(cell.fold), cell.seed, cell.study.rounds) for cell in cells] == [("west", 0, 7)] * 2


def test_a_grid_repeats_each_method_at_each_of_its_points() -> None:
    cells = cells_of(an_experiment({"loss.tau": (0.0, 1.0), "rounds": (1, 2)}), seeds=[0], folds=["west"])
    points = [(cell.study.loss.tau, cell.study.rounds) for cell in cells if cell.method.startswith("full")]
    assert points == [(0.0, 1), (0.0, 2), (1.0, 1), (1.0, 2)]
    assert cells[1].method == "full, loss.tau=0.0, rounds=1"
    assert str(cells[1].folder(Path("out")).path) == "out/west/full-loss.tau=0.0-rounds=1/seed-0"
    assert len({cell.folder(Path("out")).path for cell in cells}) == len(cells) == 8


def test_a_grid_reaches_into_the_data() -> None:
    grid = {"data.skew.seed": (3, 4)}
    cells = cells_of(an_experiment(grid), {"data.skew.deal": "patient", "data.skew.clinics": 2}, seeds=[0])
    assert {cell.experiment.data.skew.seed for cell in cells} == {3, 4}
    assert {str(cell.fold) for cell in cells} == {"virtual-1", "virtual-2", "west"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss.tau": 0.5}, r"--set loss\.tau=0\.5 would change the runs called 'plain \+ CE, loss\.tau=0\.0'"),
        ({"loss.guide_weight": 0.5}, r"which have loss\.guide_weight = 0\.0"),
        ({"loss": {"tau": 0.5}}, "would change the runs called"),
        ({"data.skew.seed": 4}, r"which have data\.skew\.seed = 3"),
        ({"seed": 7}, "another seed"),
        ({"clinics.held_out": ["east"]}, r"another clinics\.held_out"),
        ({"clinics": {"train": ["east"]}}, r"another clinics\.held_out"),
    ],
    ids=str,
)
def test_a_change_of_what_the_name_of_a_run_says_is_refused(changes: dict[str, Any], message: str) -> None:
    methods = (Method(name="plain + CE", settings=PLAIN), Method(name="dealt", changes={"data.skew.seed": 3}))
    experiment = an_experiment({"loss.tau": (0.0, 1.0)}, methods=methods)
    with pytest.raises(SettingError, match=message) as refused:
        cells_of(experiment, changes, seeds=[0], folds=["west"])
    assert "study file" in refused.value.remedy


def test_a_change_that_agrees_with_every_name_is_made() -> None:
    changes = {"loss.guide_weight": 0.0, "loss.tau_x": 1}
    with pytest.raises(SettingError, match=r"unknown setting 'loss\.tau_x'"):  # not taken for loss.tau
        cells_of(an_experiment({"loss.tau": (0.0, 1.0)}), changes, seeds=[0], folds=["west"])
    cells = cells_of(an_experiment(), {"loss.guide_weight": 0.0, "rounds": 7}, seeds=[0], folds=["west"])
    assert [(cell.study.loss.guide_weight, cell.study.rounds) for cell in cells] == [(0.0, 7)] * 2


def test_a_change_meets_only_the_methods_that_are_run() -> None:
    (cell,) = cells_of(an_experiment(), {"loss.guide_weight": 0.25}, seeds=[0], folds=["west"], methods=["full"])
    assert cell.study.loss.guide_weight == 0.25


def test_an_experiment_without_methods_is_swept_as_it_is() -> None:
    cells = cells_of(tiny_experiment(), seeds=[3], folds=["west"])
    assert [(cell.method, cell.study.seed, cell.study.name) for cell in cells] == [("study", 3, "tiny")]


@pytest.mark.parametrize(
    ("wanted", "methods"),
    [
        (["full"], ["full, rounds=1", "full, rounds=2"]),
        (["full, rounds=2"], ["full, rounds=2"]),
        (["full", "plain + CE, rounds=1"], ["plain + CE, rounds=1", "full, rounds=1", "full, rounds=2"]),
    ],
)
def test_a_method_is_meant_at_all_points_or_at_one(wanted: list[str], methods: list[str]) -> None:
    cells = cells_of(an_experiment({"rounds": (1, 2)}), methods=wanted, seeds=[0], folds=["west"])
    assert [cell.method for cell in cells] == methods


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"folds": ["south"]}, "no clinic is called south"),
        ({"seeds": [7]}, "no seed 7"),
        ({"methods": ["half"]}, "no method is called half"),
    ],
    ids=str,
)
def test_a_filter_that_meets_nothing_is_refused(filters: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message) as refused:
        cells_of(an_experiment(), **filters)
    assert " of " in refused.value.remedy or "choose among" in refused.value.remedy


def test_methods_that_would_share_a_folder_are_refused() -> None:
    with pytest.raises(SettingError, match="share a folder: a b; a-b"):
        cells_of(an_experiment(methods=(Method(name="a b"), Method(name="a-b"))))


def begin(cell: Cell, output: Path) -> None:
    start_run(cell.experiment, cell.study, cell.folder(output))


def test_where_each_cell_stands_is_told(tmp_path: Path) -> None:
    finished, failed, begun, left = cells_of(an_experiment(), seeds=[0], folds=["east", "west"])
    for cell in (finished, failed, begun):
        begin(cell, tmp_path)
    finished.folder(tmp_path).report.touch()
    Record("no space", None, "make room").write(failed.folder(tmp_path))
    cells = [finished, failed, begun, left]
    assert [state_of(cell, tmp_path) for cell in cells] == ["finished", "failed", "begun", "left"]
    text = status_text(status(cells, tmp_path))
    assert text.splitlines()[0] == "4 runs: 1 finished, 1 failed, 1 begun, 1 left"
    assert "east held out, plain + CE: finished seed 0" in text
    assert "failed: east, full, seed 0: no space; next step: make room" in text
    with pytest.raises(WbcError, match="1 of 4 runs failed") as refused:
        refuse_failures(cells, tmp_path)
    assert "east held out, full, seed 0: no space; next step: make room" in refused.value.problem


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_with_a_run_of_another_plan_is_refused(tmp_path: Path, finished: bool) -> None:
    (cell,) = cells_of(an_experiment(), seeds=[0], folds=["west"], methods=["full"])
    begin(cells_of(an_experiment(), {"rounds": 3}, seeds=[0], folds=["west"], methods=["full"])[0], tmp_path)
    if finished:
        cell.folder(tmp_path).report.touch()
    with pytest.raises(SettingError, match="another plan"):
        state_of(cell, tmp_path)


def test_a_run_on_other_data_is_not_taken_for_a_finished_one(tmp_path: Path) -> None:
    (cell,) = cells_of(an_experiment(), seeds=[0], folds=["west"], methods=["full"])
    (other,) = cells_of(an_experiment(), {"data.seed": 1}, seeds=[0], folds=["west"], methods=["full"])
    assert cell.study.hash == other.study.hash
    begin(other, tmp_path)
    other.folder(tmp_path).report.touch()
    with pytest.raises(SettingError, match="of other data"):
        state_of(cell, tmp_path)


def test_a_run_is_the_same_wherever_its_weights_file_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (study := tmp_path / "study").mkdir()
    (study / "start.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    named = cells_of(an_experiment({"model.weights": ("start.safetensors", "none")}), seeds=[0], folds=["west"])
    found = with_found_weights(named, study)
    assert [cell.study.model.weights for cell in found[::2]] == [str(study / "start.safetensors"), "none"]
    assert [cell.method for cell in found] == [cell.method for cell in named]
    begin(named[0], tmp_path / "older")
    begin(found[0], tmp_path / "newer")
    for cell in (named[0], found[0]):
        assert state_of(cell, tmp_path / "older") == state_of(cell, tmp_path / "newer") == "begun"
    (other,) = cells_of(an_experiment({"model.weights": ("other.safetensors",)}), seeds=[0], folds=["west"])[:1]
    assert not same_plan(other.study, found[0].study)
    assert not same_plan(named[2].study, found[0].study)


def test_a_missing_weights_file_stops_a_sweep_before_its_first_run(tmp_path: Path) -> None:
    (missing, plain) = cells_of(an_experiment(), {"model.weights": "none"}, seeds=[0], folds=["west"])
    missing = replace(missing, study=plan_study(an_experiment(), changes={"model.weights": "start.safetensors"}))
    with pytest.raises(DataError, match=r"no such file") as refused:
        check_start_weights([plain, missing], tmp_path / "out", tmp_path)
    assert "wbc-simulate pretrain start.safetensors" in refused.value.remedy
    begin(missing, tmp_path / "out")
    missing.folder(tmp_path / "out").report.touch()
    check_start_weights([plain, missing], tmp_path / "out", tmp_path)  # finished: it needs no start any more


def test_a_damaged_record_says_nothing(tmp_path: Path) -> None:
    (cell,) = cells_of(an_experiment(), seeds=[0], folds=["west"], methods=["full"])
    begin(cell, tmp_path)
    (cell.folder(tmp_path).path / "cell.json").write_text("{")
    assert state_of(cell, tmp_path) == "begun"


def test_time_left_is_what_each_methods_cells_took_shared_by_the_workers() -> None:
    cells = cells_of(an_experiment(), seeds=[0, 1], folds=["west"])  # plain, full, plain, full
    clock = Clock(cells, {}, jobs=2)
    assert clock.seconds_left(now=0) is None
    for cell in cells[:2]:
        clock.note(cell, None, ended=False, now=0)
    clock.note(cells[0], 10.0, ended=True, now=10)
    clock.note(cells[2], None, ended=False, now=10)
    # Nothing is known of "full": both as long as "plain", the first of them overdue; 10 s of plain are under way.
    assert clock.seconds_left(now=10) == pytest.approx((0 + 10 + 10) / 2)
    clock.note(cells[1], 30.0, ended=True, now=30)
    clock.note(cells[2], 12.0, ended=True, now=30)
    clock.note(cells[3], None, ended=False, now=30)
    assert clock.seconds_left(now=40) == pytest.approx(20)  # one worker has it; the other has nothing to do
    clock.note(cells[3], 30.0, ended=True, now=60)
    assert clock.seconds_left(now=60) == 0.0


def test_time_left_is_known_from_earlier_sweeps() -> None:
    cells = cells_of(an_experiment(), seeds=[0], folds=["west", "east"], methods=["full"])
    assert Clock(cells, {"full": [20.0, 40.0]}, jobs=2).seconds_left(now=0) == pytest.approx(30)


def test_the_stated_clinics_can_be_held_out_together_in_one_run() -> None:
    experiment = tiny_experiment()
    stated = experiment.model_copy(update={"compare": Comparison(hold_out="stated", seeds=(0, 1))})
    cells = plan_cells(stated, Filters(), {})
    roles = plan_study(experiment).clinics
    assert [(str(cell.fold), cell.seed) for cell in cells] == [("stated", 0), ("stated", 1)]
    assert {cell.study.clinics for cell in cells} == {roles}


def test_a_stated_clinic_is_not_held_out_alone_where_others_would_train() -> None:
    compare = {"compare": Comparison(hold_out="stated", seeds=(0,))}
    clinics = {"train": ["east"], "held_out": ["north", "west"]}
    stated = tiny_experiment(clinics=clinics).model_copy(update=compare)
    for fold, others in (("west", "north"), ("north", "west"), ("east", "north, west")):
        with pytest.raises(SettingError, match=f"here {others} would train") as refused:
            cells_of(stated, folds=[fold])
        assert 'hold_out = "each"' in refused.value.remedy
    assert [str(cell.fold) for cell in cells_of(stated, folds=["stated"])] == ["stated"]
    (only,) = cells_of(tiny_experiment().model_copy(update=compare), folds=["west"])
    assert only.study.clinics.held_out == ("west",)


def test_the_stated_clinics_can_be_changed_where_they_are_held_out_together() -> None:
    stated = tiny_experiment().model_copy(update={"compare": Comparison(hold_out="stated", seeds=(0,))})
    changes = {"clinics.held_out": ["east"], "clinics.train": ["north", "west"]}
    assert cells_of(stated, changes)[0].study.clinics.held_out == ("east",)


def test_nested_folds_leave_each_other_clinic_out_of_a_run_altogether() -> None:
    nested = an_experiment(hold_out="nested", seeds=(0,), methods=(Method(name="full"),))
    cells = cells_of(nested)
    roles = {str(cell.fold): (cell.study.clinics.train, cell.study.clinics.held_out) for cell in cells}
    assert roles == {
        "north-without-east": (("west",), ("north",)),
        "west-without-east": (("north",), ("west",)),
        "east-without-north": (("west",), ("east",)),
        "west-without-north": (("east",), ("west",)),
        "east-without-west": (("north",), ("east",)),
        "north-without-west": (("east",), ("north",)),
    }
    assert str(cells[0]) == "north held out without east, full, seed 0"
    assert str(cells[0].folder(Path("out")).path) == "out/north-without-east/full/seed-0"
    some = cells_of(nested, folds=["west"])
    assert [str(cell.fold) for cell in some] == ["west-without-east", "west-without-north"]


def test_nested_folds_need_three_clinics() -> None:
    two = an_experiment(hold_out="nested")
    two = two.model_copy(update={"data": two.data.model_copy(update={"clinics": two.data.clinics[:2]})})
    with pytest.raises(SettingError, match="leaves two clinics out of each training, and there are 2"):
        cells_of(two)
