"""What the figures say, in sentences: the answer, its interval, how many cells stand behind it, and who was absent.

Each sentence is made from the figures alone and weakens itself where they are weak: no held-out clinic, no rare cell,
few cells, an undefined figure. Nothing here compares with other work or judges whether a figure is good.
"""

from collections import defaultdict
from dataclasses import dataclass

from wbc_common.confusion import Counts

from wbc_server.report.inputs import Evaluation, Figure, MeanRecord, Metrics, Refusal, Run
from wbc_server.report.words import count, counted, interval, listed, ranges, rate, readable, share

FEW_CELLS = 30


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
    shown = [
        Tile("Macro-F1", mean.macro_f1, "every class counts the same, however rare", reference.macro_f1.value),
        Tile("Rare-class recall", mean.rare_recall, _of(found, rare, "rare cells found"), reference.rare_recall.value),
        Tile("Accuracy", mean.accuracy, _of(right, cells, "cells named correctly"), reference.accuracy.value),
        Tile("Balanced accuracy", mean.balanced_accuracy, "mean recall of the classes present",
             reference.balanced_accuracy.value),
    ]  # fmt: skip
    return shown + _blast_tiles(run)


def absences(run: Run) -> list[Absence]:
    """Clinics that were missing, late or refused, with what they would have brought."""
    rounds: dict[str, set[int]] = defaultdict(set)
    reasons: dict[str, list[str]] = defaultdict(list)
    for refusal in _all_refusals(run):
        rounds[refusal.clinic].add(refusal.round or 0)
        if text := _reason(refusal):
            reasons[refusal.clinic].append(text)
    for record in run.rounds:
        for missing in record.missing:
            rounds[missing if isinstance(missing, str) else missing.clinic].add(record.round)
    silent = [name for name in run.metrics.clinics if _silent(run, name) and name not in rounds]
    named = [Absence(name, _when(rounds[name]), _weight(run, name), _unique(reasons[name])) for name in sorted(rounds)]
    return named + [Absence(name, "no result in the whole study", _weight(run, name)) for name in silent]


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
    return (
        f"{counted(len(training), 'clinic')} trained one classifier of {len(metrics.study.classes)} kinds of white "
        f"blood cell on {counted(cells, 'cell')}, in {counted(metrics.rounds_done, 'round')}; no image left a clinic."
    )


def _answer(metrics: Metrics) -> str:
    if not metrics.held_out:
        return (
            "No clinic was held out: the figures below are from test cells of the clinics that trained the model, and "
            "say nothing about a clinic it has not seen."
        )
    names = sorted(metrics.held_out)
    cells = sum(int(evaluation.counts.sum()) for evaluation in metrics.held_out.values())
    figure = _headline_means(metrics)[0].macro_f1
    if figure.value is None:
        return f"On {listed(names)}, held out of training, macro-F1 could not be computed ({counted(cells, 'cell')})."
    where = (
        f"On {names[0]}, a clinic that took no part in training,"
        if len(names) == 1
        else f"On {len(names)} clinics that took no part in training ({listed(names)}), the mean"
    )
    bounds = f"95 % interval {interval(figure)}, " if interval(figure) else ""
    return f"{where} macro-F1 is {rate(figure.value)} ({bounds}{counted(cells, 'cell')})."


def _rare(metrics: Metrics) -> str:
    if not metrics.held_out:
        return ""
    if not metrics.rare_classes:
        return "No class was rare in training."
    found, cells = _rare_cells(metrics, summed(metrics.held_out))
    names = listed([readable(name) for name in metrics.rare_classes])
    if cells == 0:
        return f"There were no cells of the rare classes ({names}) there, so nothing is known about them."
    caution = ", too few to conclude from" if cells < FEW_CELLS else ""
    return f"Of its {counted(cells, 'cell')} of rare classes ({names}{caution}), it recognised {count(found)}."


def _gap(metrics: Metrics) -> str:
    inside = metrics.mean_in_domain.macro_f1.value if metrics.mean_in_domain else None
    outside = _headline_means(metrics)[0].macro_f1.value
    if not metrics.held_out or inside is None or outside is None:
        return ""
    return f"On unseen cells of the clinics that trained it, mean macro-F1 is {rate(inside)}."


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


def _of(part: int, whole: int, what: str) -> str:
    return f"{count(part)} of {count(whole)} {what}" if whole else "no such cells in these test sets"


def _blast_tiles(run: Run) -> list[Tile]:
    """Blasts by themselves, clinic by clinic: a mean would hide the clinic where they are missed."""
    found = [(name, one.blast_recall) for name, one in measured(run).items() if one.blast_recall.value is not None]
    return [Tile("Blast recall", figure, f"at {name}") for name, figure in found[:2]]


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
    return tuple(dict.fromkeys(texts))[:3]


def _when(rounds: set[int]) -> str:
    known = rounds - {0}
    if not known:
        return "its reply was refused"
    return f"no counted reply in {'round' if len(known) == 1 else 'rounds'} {ranges(known)}"


def _silent(run: Run, name: str) -> bool:
    if run.metrics.clinics[name].role == "held-out":
        return name not in run.metrics.held_out
    return bool(run.rounds) and not any(name in record.train for record in run.rounds)


def _weight(run: Run, name: str) -> str:
    """What share of the cells that clinic holds: of training, or of the held-out test."""
    clinics = run.metrics.clinics
    if name not in clinics:
        return "its cells are not known"
    role = clinics[name].role
    split = "train" if role == "train" else "test"
    own, all_cells = clinics[name].cells(split), sum(c.cells(split) for c in clinics.values() if c.role == role)  # type: ignore[arg-type]
    if own == 0:
        return "its cells are not known"
    return f"{share(own, all_cells)} of the {'training' if role == 'train' else 'held-out test'} cells"
