"""How real are the in-silico cells? Two measurements that say it without a figure of speech.

*Transfer*: a network trained on phantoms alone, measured on each real clinic. *Told apart*: a network trained to tell
phantoms from real cells, by its area under the ROC curve (0.5: it cannot; 1: always). A number of the second kind means
little alone, so the same network is asked to tell each real clinic from the other real ones. Real cells are measured on
and, in the second, told apart; they take no part in rendering, training or selection.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import nn

from wbc_client.dataset.cell_set import CellSet, joined
from wbc_client.dataset.manifest import manifest_clinics
from wbc_client.dataset.opening import open_cells
from wbc_client.evaluation.counting import evaluate
from wbc_client.features import predict
from wbc_client.site import DataSettings, Site
from wbc_client.training.augmentation import augment
from wbc_common.appearance import normalise
from wbc_common.confusion import Interval, balanced_accuracy, draw_seeds, over_drawn_seeds, percentile_interval
from wbc_common.head_rows import one_row_a_class
from wbc_common.models import Network, build_model
from wbc_common.seeds import derive_seed, numpy_generator, torch_generator
from wbc_common.study import ModelSettings, StudyConfig
from wbc_simulations.pretrain import Recipe, pretrain

REPLICATES = 500
_TEST_SHARE = 0.3
_EPOCHS, _BATCH, _RATE = 8, 32, 1e-3


@dataclass(frozen=True)
class Realism:
    """What was found for each real clinic.

    Attributes:
        cells, classes: how many there are of each.
        transfer: balanced accuracy of networks trained on phantoms alone; its interval is over seeds and patients.
        told_from_phantoms, told_from_real: area under the ROC curve on patients that the classifier did not see; the
            second is None where there is no other clinic.
    """

    clinic: str
    cells: int
    classes: int
    transfer: Interval
    told_from_phantoms: float
    told_from_real: float | None

    @property
    def chance(self) -> float:
        """Balanced accuracy of guessing."""
        return 1 / self.classes


def measure_realism(data: Path, recipe: Recipe, seeds: Sequence[int], on_step: Callable[[str], None]) -> list[Realism]:
    """Both measurements for every clinic of a manifest.

    Args:
        data: a folder with manifest.csv.
        recipe: of the phantoms and the training; each seed renders and trains anew.
        on_step: is told what has been done.
    """
    study = recipe.study()
    clinics = {name: _open(data, name, study) for name in manifest_clinics(data)}
    scores = [_transfer(replace(recipe, seed=seed), clinics, on_step) for seed in seeds]
    drawn = draw_seeds(len(seeds), REPLICATES, numpy_generator("realism", "seeds"))
    most = max(len(cells) for cells in clinics.values())
    phantoms = recipe.phantoms(derive_seed(recipe.seed, "realism"), most)  # of a seed that no training used
    found = []
    for name, cells in clinics.items():
        others = [other for key, other in clinics.items() if key != name]
        found.append(
            Realism(
                clinic=name,
                cells=len(cells),
                classes=int((cells.class_counts() > 0).sum()),
                transfer=_over_seeds([score[name] for score in scores], drawn),
                told_from_phantoms=told_apart(cells, phantoms, seed=recipe.seed),
                told_from_real=told_apart(cells, joined(others), seed=recipe.seed) if others else None,
            )
        )
        on_step(f"{name} told apart from phantoms and from the other clinics")
    return found


def realism_table(found: Sequence[Realism]) -> str:
    """Markdown: a row a real clinic."""
    head = ("clinic", "cells", "classes", "balanced accuracy", "chance", "AUC to phantoms", "AUC to the other clinics")
    rows = [
        (
            one.clinic,
            str(one.cells),
            str(one.classes),
            f"{one.transfer.value:.2f} [{one.transfer.low:.2f}, {one.transfer.high:.2f}]",
            f"{one.chance:.2f}",
            f"{one.told_from_phantoms:.3f}",
            "–" if one.told_from_real is None else f"{one.told_from_real:.3f}",
        )
        for one in found
    ]
    lines = [head, ("---", *["---:"] * (len(head) - 1)), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def told_apart(one: CellSet, other: CellSet, *, seed: int) -> float:
    """Area under the ROC curve of the small network trained to tell two sets of cells apart.

    Equal numbers of both; 30 % of the patients are kept for testing. Flips, turns and zoom only, so that colour, grain
    and sharpness stay to be seen.
    """
    count = min(len(one), len(other))
    generator = numpy_generator(seed, "told apart")
    sides = [side.subset(torch.from_numpy(generator.permutation(len(side))[:count])) for side in (one, other)]
    tested = [_tested(side.groups.numpy(), generator) for side in sides]
    images = torch.cat([side.images for side in sides])
    is_other = torch.cat([torch.full((count,), place) for place in range(2)])
    test = torch.from_numpy(np.concatenate(tested))
    model = _train(images[~test], is_other[~test], seed)
    logits = predict(model, images[test], torch.device("cpu"))
    return float(roc_auc_score(is_other[test].numpy(), (logits[:, 1] - logits[:, 0]).numpy()))


def _open(data: Path, clinic: str, study: StudyConfig) -> CellSet:
    settings = DataSettings(kind="manifest", path=data, clinic=clinic, splits="assigned")
    return open_cells(Site(clinic=clinic, study=data / "study.toml", data=settings), study).cells


def _transfer(
    recipe: Recipe, clinics: dict[str, CellSet], on_step: Callable[[str], None]
) -> dict[str, tuple[float, NDArray[np.float64]]]:
    """Clinic → balanced accuracy, and the same for each bootstrap draw of its patients [R]."""
    trained = pretrain(recipe, on_epoch=lambda epoch, loss: None)
    scores = {}
    for name, cells in clinics.items():
        found = evaluate(
            trained.model, cells, torch.device("cpu"), replicates=REPLICATES, draw_seed=derive_seed("bootstrap", name)
        )
        draws = balanced_accuracy(found.replicates, found.confusion)
        scores[name] = (float(balanced_accuracy(found.confusion)), draws)
    listed = ", ".join(f"{name} {value:.2f}" for name, (value, _) in scores.items())
    on_step(f"seed {recipe.seed}, balanced accuracy: phantoms {trained.balanced_accuracy:.2f}, {listed}")
    return scores


def _over_seeds(scores: list[tuple[float, NDArray[np.float64]]], drawn: NDArray[np.int64]) -> Interval:
    """The mean over seeds; its interval from drawn seeds [R, S] on drawn patients."""
    draws = np.stack([replicates for _, replicates in scores])  # [S, R]
    return percentile_interval(float(np.mean([value for value, _ in scores])), over_drawn_seeds(draws, drawn))


def _tested(groups: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.bool_]:
    """bool [N]: cells of the patients kept for testing, at least one patient on either side."""
    names = generator.permutation(np.unique(groups))
    kept = names[: max(1, round(_TEST_SHARE * len(names)))]
    return np.isin(groups, kept)


def _train(images: torch.Tensor, is_other: torch.Tensor, seed: int) -> Network:
    """The small network from random weights on two classes, images uint8 [N, 3, H, W] and labels int64 [N]."""
    model = build_model(ModelSettings(), one_row_a_class(("own", "other")), derive_seed(seed, "told apart")).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, fused=True)
    generator = torch_generator(seed, "told apart")
    for _ in range(_EPOCHS):
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            batch = normalise(augment(images[chosen], "geometric", generator))
            loss = nn.functional.cross_entropy(model(batch), is_other[chosen])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    return model
