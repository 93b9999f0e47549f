"""Calibration counts that contradict their confusion matrix are refused; what is fitted and told from good ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message

from wbc_client.evaluation.calibration import count_calibration
from wbc_common.calibration import EDGES, TEMPERATURES, fit_temperature
from wbc_common.confusion import confusion_matrix
from wbc_common.errors import UpdateRefused
from wbc_common.study import StudyConfig, parse_study
from wbc_common.wire import Evaluation, Task, decode_task, encode_reply
from wbc_server.exchange.participation import Roster
from wbc_server.final.calibration_gate import check_calibration
from wbc_server.final.calibration_summary import summarise_calibration
from wbc_server.final.measurement import Fitted, fit_calibration, measure
from wbc_server.run_folder import RunFolder
from wbc_simulations.engine.engines import InProcessGrid

NAMES = ("east", "north", "west")


def some_logits(clinic: str, number: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Overconfident: the logits of a good model, times three."""
    generator = torch.Generator().manual_seed(NAMES.index(clinic))
    labels = torch.arange(number) % 5
    right = torch.nn.functional.one_hot(labels, 5).float()
    return 3 * (right + torch.randn(number, 5, generator=generator)), labels


def an_evaluation(clinic: str = "east", temperature: float = 2.0) -> Evaluation:
    logits, labels = some_logits(clinic)
    confusion = confusion_matrix(labels.numpy(), logits.argmax(dim=1).numpy(), 5)
    counts = count_calibration(logits, labels, temperature)
    return Evaluation(confusion, np.zeros((0, 5, 5), dtype=np.int64), np.zeros(2, dtype=np.int64), counts, confusion)


def a_study(**evaluation: Any) -> StudyConfig:
    clinics = {"train": ["east", "north"], "held_out": ["west"]}
    settings = {"bootstrap_replicates": 0, **evaluation}
    return parse_study({"name": "s", "clinics": clinics, "evaluation": settings}, "test")


COUNTS = np.full((3, 5), 12.0)
ROSTER = Roster({"east": 1, "north": 2, "west": 3}, dict.fromkeys(NAMES, COUNTS), ("east", "north"), ("west",))


def a_grid(asked: list[Task]) -> InProcessGrid:
    """Every clinic answers with the same 60 cells of its own, whatever the split."""

    def client(message: Message, context: Context) -> Message:
        task = decode_task(message.content)
        asked.append(task)
        assert task.calibration is not None
        found = an_evaluation(NAMES[context.node_id - 1], task.calibration.temperature)
        return Message(encode_reply(found), reply_to=message)

    return InProcessGrid(client, {1: {}, 2: {}, 3: {}})  # type: ignore[arg-type]


def roster_of_held_out_twelve() -> Roster:
    """The held-out clinic is measured on all splits: 60 cells in all."""
    split = {"east": COUNTS, "north": COUNTS, "west": COUNTS / 3}
    return replace(ROSTER, class_counts=split)


def test_good_counts_pass() -> None:
    check_calibration(an_evaluation())


@pytest.mark.parametrize("spread", [0.0, 0.1, 10.0, 1000.0])
@pytest.mark.parametrize("number", [0, 1, 60])
def test_counts_of_any_network_pass_up_to_the_clamp_of_probabilities(spread: float, number: int) -> None:
    logits, labels = some_logits("east", number)
    tiny = torch.finfo(torch.float32).tiny
    clamped = (spread * logits).softmax(dim=1).clamp_min(tiny).log()  # as wbc_client.evaluation.stain_averaging
    confusion = confusion_matrix(labels.numpy(), clamped.argmax(dim=1).numpy(), 5)
    counts = count_calibration(clamped, labels, 0.125)
    check_calibration(replace(an_evaluation(), confusion=confusion, calibration=counts, shifted=confusion))


def tampered(**parts: Any) -> Evaluation:
    good = an_evaluation()
    assert good.calibration is not None
    return replace(good, calibration=replace(good.calibration, **parts))


def counts_of(name: str) -> np.ndarray:
    value: np.ndarray = getattr(an_evaluation().calibration, name).copy()
    return value


def one_more(name: str) -> np.ndarray:
    value = counts_of(name)
    value.reshape(-1)[0] += 1
    return value


def wrapping(name: str) -> np.ndarray:
    """Two bins of 2⁶³ − 1 cells and one that brings their sum, modulo 2⁶⁴, back to what it was."""
    value = counts_of(name)
    row = value.reshape(-1, value.shape[-1])[0]
    cells = int(row.sum())
    row[:] = 0
    row[:3] = [2**63 - 1, 2**63 - 1, cells + 2]
    return value


def wrapping_matrix() -> np.ndarray:
    matrix = an_evaluation().confusion.copy()
    matrix[0] = [2**63 - 1, 2**63 - 1, 14, 0, 0]  # sums to 12, as the row does
    return matrix


def chosen_temperature(place: int) -> np.ndarray:
    """True NLL, but none at all at the temperature that the clinic would like."""
    value = counts_of("nll")
    value[place] = 0.0
    return value


def heaped_mass() -> np.ndarray:
    """All probability in one bin of few cells."""
    value = np.zeros_like(counts_of("mass"))
    value[:, 0, 0] = 60
    return value


@pytest.mark.parametrize(
    ("evaluation", "reason"),
    [
        (replace(an_evaluation(), calibration=None), "without the calibration counts"),
        (replace(an_evaluation(), shifted=None), "without the calibration counts"),
        (tampered(nll=np.zeros(3)), r"nll has shape \(3,\), expected \(61,\)"),
        (tampered(nll=np.full(61, np.nan)), "not finite"),
        (tampered(brier=-counts_of("brier")), "not finite numbers from 0"),
        (tampered(cells=one_more("cells")), "bins do not hold the 60 cells"),
        (tampered(positives=one_more("positives")), "positives"),
        (tampered(positives=-counts_of("positives")), "positives: an entry is not from 0 to 60"),
        (tampered(cells=wrapping("cells")), "cells: an entry is not from 0 to 60"),
        (tampered(confidence=wrapping("confidence")), "confidence: an entry is not from 0 to 60"),
        (replace(an_evaluation(), shifted=wrapping_matrix()), "the shifted matrix: an entry is not from 0 to 60"),
        (tampered(brier=np.full(61, 120.1)), "Brier score is above 2 a cell"),
        (tampered(brier=np.full(61, 1e300)), "Brier score is above 2 a cell"),
        (tampered(nll=np.full(61, 1e300)), "NLL is above"),
        (tampered(nll=60 * (np.log(5) + 87.4 / TEMPERATURES)), "NLL is above"),
        (tampered(nll=np.zeros(61)), "the NLL at temperature 1 is not that of the bins"),
        (tampered(nll=chosen_temperature(50)), "the NLL is not convex"),
        (tampered(mass=heaped_mass()), "probabilities exceed their cells"),
        (tampered(mass=2 * counts_of("mass")), "probabilities do not sum to the cells"),
        (tampered(confidence=one_more("confidence")), "confidence does not hold the cells"),
        (tampered(correct=counts_of("confidence") + 1), "correct cells exceed cells"),
        (replace(an_evaluation(), shifted=np.eye(5, dtype=np.int64)), "shifted matrix is of other cells"),
    ],
)
def test_counts_that_contradict_the_confusion_matrix_are_refused(evaluation: Evaluation, reason: str) -> None:
    with pytest.raises(UpdateRefused, match=reason):
        check_calibration(evaluation)


def test_temperature_and_threshold_come_from_the_training_clinics_validation_cells_alone() -> None:
    asked: list[Task] = []
    fitted = fit_calibration(a_grid(asked), a_study(), ROSTER, {}, 1.0)
    assert [task.split for task in asked] == ["val", "val"]
    assert all(task.averaged for task in asked)  # as what the temperature is for is measured
    assert fitted is not None
    logits, labels = (torch.cat(parts) for parts in zip(some_logits("east"), some_logits("north"), strict=True))
    nll = [float(torch.nn.functional.cross_entropy(logits.double() / value, labels)) for value in TEMPERATURES]
    assert fitted.place == fit_temperature(np.array(nll))
    assert fitted.temperature > 1.5  # the logits are overconfident
    assert fitted.num_cells == 120
    true = torch.softmax(logits.double(), dim=1)[torch.arange(120), labels].numpy()
    assert fitted.threshold_bin is not None
    assert (true >= EDGES[fitted.threshold_bin - 1]).sum() >= np.ceil(121 * 0.9)
    assert (true >= EDGES[fitted.threshold_bin]).sum() < np.ceil(121 * 0.9)


def test_a_plan_without_calibration_asks_for_none() -> None:
    asked: list[Task] = []
    assert fit_calibration(a_grid(asked), a_study(calibration=False), ROSTER, {}, 1.0) is None
    assert asked == []


def test_figures_are_those_of_the_cells_themselves() -> None:
    study, fitted = a_study(), Fitted(place=45, threshold_bin=40, num_cells=120)
    final = measure(a_grid([]), study, roster_of_held_out_twelve(), {}, 1.0, fitted=fitted).found
    found = summarise_calibration(study, ROSTER, final, fitted)
    assert found is not None
    west = found["clinics"]["west"]
    logits, labels = some_logits("west")
    for name, temperature in (("before", 1.0), ("after", fitted.temperature)):
        scaled = logits.double() / temperature
        assert west["nll"][name] == pytest.approx(float(torch.nn.functional.cross_entropy(scaled, labels)))
        gaps = torch.softmax(scaled, dim=1) - torch.nn.functional.one_hot(labels, 5)
        assert west["brier"][name] == pytest.approx(float(gaps.square().sum(dim=1).mean()))
    shares = torch.softmax(logits.double(), dim=1).numpy()
    inside = shares >= found["conformal_threshold"]
    assert west["coverage"]["value"] == pytest.approx(inside[np.arange(60), labels].mean())
    assert west["mean_set_size"] == pytest.approx(inside.sum(axis=1).mean())
    assert west["coverage"]["low"] < west["coverage"]["value"] < west["coverage"]["high"]
    assert found["in_domain"]["cells"] == 120
    assert found["held_out"]["ece"] == west["ece"]


def test_a_finished_study_tells_how_far_its_probabilities_can_be_trusted(finished_run: RunFolder) -> None:
    found = finished_run.read_metrics()["calibration"]
    assert set(found["clinics"]) == {*NAMES, "south"}
    assert 0 <= found["clinics"]["west"]["coverage"]["value"] <= 1
    assert "How far its probabilities can be trusted" in Path(finished_run.report).read_text(encoding="utf-8")
