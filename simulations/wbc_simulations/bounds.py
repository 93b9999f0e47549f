"""Bounds that federated methods stand beside, on the same folds and the same held-out cells (docs/method.md §5.6).

    local-only         one model for each training clinic, from its own cells; figures are the mean over those models
    centralised        one model from the pooled cells of all training clinics: what federation is said to cost
    centralised-boda   the same with BoDA as published, which needs every domain's prototypes in one place
    in-domain-oracle   the held-out clinic's own cells: cross-fitted, each model names the third it has not seen

Each is made of ordinary studies of one training clinic, run by the same apps under `bounds/` in the run's folder; their
settings are the method's, less what needs several clinics. The finished folder holds what a comparison reads.
"""

import html
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wbc_client.dataset.cell_set import SPLITS, CellSet, joined
from wbc_client.dataset.opening import read_cells
from wbc_client.dataset.packed import packed_metadata, write_packed
from wbc_client.evaluation.counting import count
from wbc_client.evaluation.prediction import predict_finished
from wbc_client.predict import load_model
from wbc_client.site import read_site
from wbc_common.appearance import prepare
from wbc_common.errors import SettingError
from wbc_common.files import write_atomically
from wbc_common.seeds import derive_seed, numpy_generator
from wbc_common.study import ClinicSettings, StudyConfig, parse_study, write_study
from wbc_common.wire import Evaluation
from wbc_server.exchange.participation import Roster
from wbc_server.final.draws import read_draws, write_draws
from wbc_server.final.summary import summarise
from wbc_server.run_folder import RunFolder
from wbc_simulations.clinics import write_clinic
from wbc_simulations.engine.engines import EngineName, run_study
from wbc_simulations.methods import MethodKind
from wbc_simulations.scores import measured_by

Clinics = Mapping[str, CellSet]
_ORACLE_FOLDS = 3


@dataclass(frozen=True)
class Part:
    """One study of a bound: a single training clinic, and the held-out cells that its model is measured on.

    Attributes:
        name: of its folder.
        train: cells to train on, splits included.
        held_out: clinic → cells.
    """

    name: str
    train: CellSet
    held_out: Clinics


def finish_bound(kind: MethodKind, study: StudyConfig, folder: RunFolder, clinics: Path, engine: EngineName) -> None:
    """Run what is left of a bound, and write its figures.

    Args:
        study: the plan of the federated method on this fold.
        clinics: folder of the clinic files.
    """
    names = (*study.clinics.train, *study.clinics.held_out)
    cells = {name: _cells_as_read(clinics / f"{name}.toml") for name in names}
    parts = _PARTS[kind](study, cells)
    plan = part_plan(study, kind)
    for part in parts:
        _finish_part(part, plan, _part_folder(folder, part), engine)
    if kind == "in-domain-oracle":
        found = {name: _cross_fitted(name, cells[name], study, folder) for name in study.clinics.held_out}
    else:
        found = _measured(parts, folder)
    _write_figures(kind, study, folder, cells, found)


def part_plan(study: StudyConfig, kind: MethodKind) -> StudyConfig:
    """The plan of each part, for clinics "train" and "held-out" that every part names anew.

    What needs several clinics (alignment from the others' sums, weights, order statistics) is off.

    Raises:
        SettingError: centralised BoDA with its term switched off.
    """
    if kind == "centralised-boda" and study.loss.alignment_weight == 0:
        raise SettingError(
            "kind = 'centralised-boda' with loss.alignment_weight = 0 is the kind 'centralised'",
            remedy="set the method's loss.alignment_weight, e.g. to 0.1",
        )
    values = study.model_dump(mode="json")
    values["clinics"] = {"train": ["pooled"], "held_out": []}
    values["loss"] |= {"alignment": "boda-paper"} if kind == "centralised-boda" else {"alignment_weight": 0.0}
    values["aggregation"] |= {"rule": "fedavg", "robust": "none"}
    values["privacy"] |= {"mode": "none"}
    values["training"] |= {"rehearsal": 0.0} if kind == "centralised-boda" else {}
    values["personal"] |= {"clinics": []}
    return parse_study(values, f"bound {kind}")


def _cells_as_read(clinic_file: Path) -> CellSet:
    """A clinic's cells before white balance: the parts' own studies prepare them, as the plan says."""
    site = read_site(clinic_file)
    return read_cells(site, site.read_study()).cells


def oracle_folds(name: str, cells: CellSet) -> NDArray[np.int64]:
    """Which third each cell is in, int64 [N]; a patient is in one third."""
    groups, places = np.unique(cells.groups.numpy(), return_inverse=True)
    thirds = numpy_generator("oracle", name).permutation(len(groups)) % _ORACLE_FOLDS
    folds: NDArray[np.int64] = thirds[places].astype(np.int64)
    return folds


def _local_parts(study: StudyConfig, cells: Clinics) -> list[Part]:
    held_out = {name: cells[name] for name in study.clinics.held_out}
    return [Part(name, cells[name], held_out) for name in study.clinics.train]


def _central_parts(study: StudyConfig, cells: Clinics) -> list[Part]:
    held_out = {name: cells[name] for name in study.clinics.held_out}
    return [Part("pooled", joined([cells[name] for name in study.clinics.train]), held_out)]


def _oracle_parts(study: StudyConfig, cells: Clinics) -> list[Part]:
    return [
        Part(f"{name}-{fold}", _but_fold(cells[name], oracle_folds(name, cells[name]) == fold), {})
        for name in study.clinics.held_out
        for fold in range(_ORACLE_FOLDS)
    ]


def _but_fold(cells: CellSet, unseen: NDArray[np.bool_]) -> CellSet:
    """The cells outside a third; its test cells train, as the third is what is tested."""
    rest = cells.subset(torch.from_numpy(~unseen))
    train, test = SPLITS.index("train"), SPLITS.index("test")
    return replace(rest, split=torch.where(rest.split == test, train, rest.split))


_PARTS: Mapping[MethodKind, Callable[[StudyConfig, Clinics], list[Part]]] = {
    "local-only": _local_parts,
    "centralised": _central_parts,
    "centralised-boda": _central_parts,
    "in-domain-oracle": _oracle_parts,
}


def _part_folder(folder: RunFolder, part: Part) -> RunFolder:
    return RunFolder(folder.path / "bounds" / part.name)


def _finish_part(part: Part, plan: StudyConfig, folder: RunFolder, engine: EngineName) -> None:
    if folder.is_finished:
        return
    names = ClinicSettings(train=(part.name,), held_out=tuple(part.held_out))
    study = plan.model_copy(update={"clinics": names})
    packed = folder.path / "cells"
    packed.mkdir(parents=True, exist_ok=True)
    write_study(study, folder.study_file)
    for name, cells in {part.name: part.train, **part.held_out}.items():
        path = packed / f"{name}.safetensors"
        write_packed(cells, path, packed_metadata(study.classes, study.images))
        write_clinic(folder.path, name, {"kind": "packed", "path": str(path.resolve())})
    run_study(folder, folder.path / "clinics", engine)
    shutil.rmtree(packed)


def _measured(parts: list[Part], folder: RunFolder) -> dict[str, Evaluation]:
    """Held-out clinic → counts; with several models, clinic-by-model → counts."""
    found: dict[str, Evaluation] = {}
    for part in parts:
        run = _part_folder(folder, part)
        figures, draws = run.read_metrics()["held_out"], read_draws(run)
        for name in part.held_out:
            coarse = np.array([figures[name]["coarse_cells"], figures[name]["coarse_right"]])
            label = name if len(parts) == 1 else measured_by(name, part.name)
            found[label] = Evaluation(np.array(figures[name]["confusion"]), draws[name], coarse)
    return found


def _cross_fitted(name: str, cells: CellSet, study: StudyConfig, folder: RunFolder) -> Evaluation:
    """Counts of a clinic's cells, each named by the model that has not seen its third; on the draws of all methods."""
    folds = torch.from_numpy(oracle_folds(name, cells))
    images = prepare(cells.images, study.images)
    settings, predicted = study.evaluation, torch.zeros(len(cells), dtype=torch.int64)
    for fold in range(_ORACLE_FOLDS):
        model, _ = load_model(RunFolder(folder.path / "bounds" / f"{name}-{fold}").model)
        third = folds == fold
        _, predicted[third] = predict_finished(model, images[third], torch.device("cpu"), settings)
    return count(predicted, cells, replicates=settings.bootstrap_replicates, draw_seed=derive_seed("bootstrap", name))


def _write_figures(
    kind: MethodKind, study: StudyConfig, folder: RunFolder, cells: Clinics, found: Mapping[str, Evaluation]
) -> None:
    """metrics.json and draws as a comparison reads them; the page, written last, says that the bound is finished."""
    counts = {name: np.stack([part.part(split).class_counts() for split in SPLITS]) for name, part in cells.items()}
    names = ClinicSettings(train=study.clinics.train, held_out=tuple(sorted(found)))
    measured = study.model_copy(update={"clinics": names})
    none = np.zeros((len(SPLITS), len(study.classes)))
    per_name = {name: counts.get(name, none) for name in (*names.train, *names.held_out)}
    nodes = {name: place for place, name in enumerate(per_name, start=1)}
    roster = Roster(nodes, per_name, tuple(sorted(names.train)), names.held_out)
    metrics = summarise(measured, roster, [], found, study.rounds)
    metrics |= {"bound": kind, "rounds_done": study.rounds}
    write_draws(folder, found)
    write_atomically(folder.metrics, json.dumps(metrics, indent=1, allow_nan=False).encode())
    write_atomically(folder.report, _page(kind, study, folder).encode())


def _page(kind: MethodKind, study: StudyConfig, folder: RunFolder) -> str:
    runs = sorted(path.name for path in (folder.path / "bounds").iterdir())
    links = "".join(
        f'<li><a href="bounds/{html.escape(name)}/report.html">{html.escape(name)}</a></li>' for name in runs
    )
    title = f"{html.escape(study.name)}: bound {kind}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><h1>{title}</h1>'
        f"<p>Not a federated study: a bound to compare with. It is made of these studies:</p><ul>{links}</ul></html>\n"
    )
