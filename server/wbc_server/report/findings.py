"""What the figures say, in sentences: the answer, its interval, how many cells stand behind it, and who was absent.

Each sentence is made from the figures alone and weakens itself where they are weak: no held-out clinic, no rare cell,
few cells, an undefined figure. Nothing here compares with other work or judges whether a figure is good.
"""

from collections import defaultdict
from dataclasses import dataclass

from wbc_common.cells import BLASTS
from wbc_common.confusion import Counts, wilson_interval
from wbc_server.report.figures import Figure
from wbc_server.report.focus import MOST
from wbc_server.report.inputs import Evaluation, MeanRecord, Metrics, Refusal, Run, Split
from wbc_server.report.words import count, counted, interval, listed, ranges, rate, readable, share, spelled

FEW_CELLS = 30
_LAST, _LAST_STAGES = -1, ("calibration", "final evaluation")  # in place of a round's number


@dataclass(frozen=True)
class Absence:
    """A clinic that a reader must not take for a full participant."""

    clinic: str
    what: str
    cells: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tile:
    """A key figure: `reference` is the same figure on the training clinics' own test cells."""

    label: str
    figure: Figure
    note: str
    reference: float | None = None


def measured(run: Run) -> dict[str, Evaluation]:
    """The evaluations that the headline speaks of: held-out clinics, or in-domain ones where none is held out."""
    return run.metrics.held_out or run.metrics.in_domain


def summary(run: Run) -> list[str]:
    """The plain-language answer, one sentence each."""
    sentences = [_setting(run), _answer(run.metrics), _rare(run.metrics), _gap(run.metrics)]
    return [sentence for sentence in sentences if sentence]


def tiles(run: Run) -> list[Tile]:
    """The key figures of the first page."""
    metrics = run.metrics
    mean, reference = _headline_means(metrics)
    matrix = summed(measured(run))
    right, cells = (int(matrix.trace()), int(matrix.sum())) if matrix is not None else (0, 0)
    found, rare = _rare_cells(metrics, matrix)
    several = len(measured(run)) > 1
    rare_note = _of(found, rare, "rare cells found", several)
    all_note = _of(right, cells, "cells named correctly", several)
    shown = [
        Tile("Macro-F1", mean.macro_f1, "every class counts the same, however rare", reference.macro_f1.value),
        Tile("Rare-class recall", mean.rare_recall, rare_note, reference.rare_recall.value),
        Tile("Accuracy", mean.accuracy, all_note, reference.accuracy.value),
        Tile("Balanced accuracy", mean.balanced_accuracy, "mean recall of the classes present",
             reference.balanced_accuracy.value),
    ]  # fmt: skip
    return shown + _blast_tiles(metrics, matrix)


def absences(run: Run) -> list[Absence]:
    """Clinics that were missing, late or refused, with the share of the cells they hold."""
    refused: dict[str, set[int]] = defaultdict(set)
    missing: dict[str, set[int]] = defaultdict(set)
    reasons: dict[str, list[str]] = defaultdict(list)
    for refusal in _all_refusals(run):
        refused[refusal.clinic].add(_LAST if refusal.stage in _LAST_STAGES else refusal.round or 0)
        reasons[refusal.clinic].append(_reason(refusal))
    for record in run.rounds:
        for entry in record.missing:
            absent = Refusal(clinic=entry) if isinstance(entry, str) else entry
            missing[absent.clinic].add(record.round)
            reasons[absent.clinic].append(absent.reason)
    clinics = {*run.metrics.clinics, *run.metrics.planned}
    named = sorted({*refused, *missing, *(name for name in clinics if _silent(run, name))})
    return [Absence(name, _what(missing[name], refused[name]), _weight(run, name), _unique(reasons[name]))
            for name in named]  # fmt: skip


def summed(evaluations: dict[str, Evaluation]) -> Counts | None:
    """The confusion matrix [C, C] of all those clinics together."""
    matrices = [evaluation.counts for evaluation in evaluations.values()]
    return sum(matrices[1:], matrices[0]) if matrices else None


def rare_indices(metrics: Metrics) -> tuple[int, ...]:
    """Places of the rare classes among the study's classes."""
    return tuple(metrics.study.classes.index(name) for name in metrics.rare_classes if name in metrics.study.classes)


def _setting(run: Run) -> str:
    metrics = run.metrics
    training = [name for name, clinic in metrics.clinics.items() if clinic.role == "train"]
    cells = sum(metrics.clinics[name].cells("train") for name in training)
    clinics = "clinic" if len(training) == 1 else "clinics"
    return (
        f"{spelled(len(training))} {clinics} trained one classifier of {len(metrics.study.classes)} kinds of white "
        f"blood cell on {counted(cells, 'cell')}, in {counted(metrics.rounds_done, 'round')}; no image left a clinic."
    )


def _answer(metrics: Metrics) -> str:
    if not metrics.held_out:
        return (
            f"{unseen(metrics)}: the figures below are from test cells of the clinics that trained the model, and "
            "say nothing about a clinic it has not seen."
        )
    names = sorted(metrics.held_out)
    cells = sum(int(evaluation.counts.sum()) for evaluation in metrics.held_out.values())
    figure = _headline_means(metrics)[0].macro_f1
    if figure.value is None:
        who = listed(names) if len(names) <= MOST else f"{spelled(len(names)).lower()} clinics"
        return f"On {who}, held out of training, macro-F1 could not be computed ({counted(cells, 'cell')})."
    those = f" ({listed(names)})" if len(names) <= MOST else ""
    where = (
        f"On {names[0]}, a clinic that took no part in training,"
        if len(names) == 1
        else f"On {spelled(len(names)).lower()} clinics that took no part in training{those}, the mean"
    )
    bounds = f"95 % interval {interval(figure)}; " if interval(figure) else ""
    return f"{where} macro-F1 is {rate(figure.value)} ({bounds}{counted(cells, 'cell')})."


def unseen(metrics: Metrics) -> str:
    """Why there is no figure of a clinic that the model has not seen: none was planned, or none gave a result."""
    planned = metrics.planned
    if not planned:
        return "No clinic was held out"
    who = "clinic" if len(planned) == 1 else "clinics"
    return f"The held-out {who} of the plan ({listed(planned)}) gave no final result"


def _rare(metrics: Metrics) -> str:
    if not metrics.held_out:
        return ""
    if not metrics.rare_classes:
        return "No class was rare in training."
    found, cells = _rare_cells(metrics, summed(metrics.held_out))
    names = listed([readable(name) for name in metrics.rare_classes])
    if cells == 0:
        return f"There were no cells of the rare classes ({names}) there, so nothing is known about them."
    kind = "the rare class" if len(metrics.rare_classes) == 1 else "rare classes"
    caution = " So few cells settle nothing." if cells < FEW_CELLS else ""
    return f"The model recognised {count(found)} of the {counted(cells, 'cell')} of {kind} there ({names}).{caution}"


def _gap(metrics: Metrics) -> str:
    inside = metrics.mean_in_domain.macro_f1 if metrics.mean_in_domain else Figure()
    if not metrics.held_out or inside.value is None:
        return ""
    bounds = f" ({interval(inside)})" if interval(inside) else ""
    return f"On unseen cells of the clinics that trained it, mean macro-F1 is {rate(inside.value)}{bounds}."


def _headline_means(metrics: Metrics) -> tuple[MeanRecord, MeanRecord]:
    """The means the headline shows, and the in-domain means to compare them with."""
    inside = metrics.mean_in_domain or MeanRecord()
    if not metrics.held_out:
        return inside, MeanRecord()
    return metrics.mean_held_out or MeanRecord(), inside


def _rare_cells(metrics: Metrics, matrix: Counts | None) -> tuple[int, int]:
    rare = list(rare_indices(metrics))
    if matrix is None or not rare:
        return 0, 0
    return int(matrix.diagonal()[rare].sum()), int(matrix[rare].sum())


def _of(part: int, whole: int, what: str, several: bool) -> str:
    """The counts behind a rate; a mean over clinics is not the rate of their sum, and the note says so."""
    if not whole:
        return "no such cells in these test sets"
    return f"{'mean over clinics; together ' * several}{count(part)} of {count(whole)} {what}"


def _blast_tiles(metrics: Metrics, matrix: Counts | None) -> list[Tile]:
    """Blasts by themselves, where there are any: all clinics' blasts together, with Wilson's interval."""
    blasts = [place for place, name in enumerate(metrics.study.classes) if name in BLASTS]
    if matrix is None or not matrix[blasts].sum():
        return []
    found, cells = int(matrix.diagonal()[blasts].sum()), int(matrix[blasts].sum())
    bounds = wilson_interval(found, cells)
    figure = Figure(value=bounds.value, low=bounds.low, high=bounds.high)
    return [Tile("Blast recall", figure, f"{count(found)} of {count(cells)} blasts found, counted together")]


def _all_refusals(run: Run) -> list[Refusal]:
    """Refusals of the whole study, or those of its rounds where the summary has none."""
    by_round = [
        Refusal(clinic=entry, round=record.round)
        if isinstance(entry, str)
        else entry.model_copy(update={"round": entry.round or record.round})
        for record in run.rounds
        for entry in record.refused
    ]
    return list(run.metrics.refused) or by_round


def _reason(refusal: Refusal) -> str:
    return ": ".join(part for part in (" ".join((refusal.stage, refusal.kind)).strip(), refusal.reason) if part)


def _unique(texts: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in texts if text))[:3]


def _what(missing: set[int], refused: set[int]) -> str:
    in_rounds = refused - {_LAST}
    parts = [f"no reply in {_rounds(missing)}"] if missing else []
    parts += [f"reply not counted in {_rounds(in_rounds)}"] if in_rounds - {0} else []
    parts += ["reply not counted"] if in_rounds == {0} else []
    parts += ["no result in the measurements at the end"] if _LAST in refused else []
    return "; ".join(parts) or "no result in the whole study"


def _rounds(numbers: set[int]) -> str:
    known = numbers - {0}
    return f"{'round' if len(known) == 1 else 'rounds'} {ranges(known)}"


def _silent(run: Run, name: str) -> bool:
    if name in run.metrics.planned:
        return name not in run.metrics.held_out
    return bool(run.rounds) and not any(name in record.train for record in run.rounds)


def _weight(run: Run, name: str) -> str:
    """What share of the cells that clinic holds: of training, or of the held-out test."""
    clinics = run.metrics.clinics
    if name not in clinics:
        return "its cells are not known"
    role = clinics[name].role
    split: Split = "train" if role == "train" else "test"
    own = clinics[name].cells(split)
    all_cells = sum(clinic.cells(split) for clinic in clinics.values() if clinic.role == role)
    part = f"{share(own, all_cells)} of the {'training' if role == 'train' else 'held-out test'} cells"
    return part if own else "its cells are not known"
