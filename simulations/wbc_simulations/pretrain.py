"""A backbone trained on in-silico cells alone, for clinics that can download nothing.

All 13 classes in equal shares, every domain of the renderer (or those named), heavy augmentation, plain
cross-entropy; no real image has a part in it. The head is dropped: a study's classes get a new one. Kept in half
precision (0.65 MB).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from wbc_client.dataset.cell_set import CellSet
from wbc_client.evaluation import evaluate
from wbc_client.training import train_locally
from wbc_common.appearance import prepare
from wbc_common.cells import registry
from wbc_common.confusion import balanced_accuracy
from wbc_common.models import Network, build_model, is_head
from wbc_common.seeds import derive_seed, numpy_generator
from wbc_common.study import ImageSettings, StudyConfig, parse_study
from wbc_server.run_folder import write_atomically
from wbc_simulations.phantom import domain_names, load_domain, render

_CELLS_PER_PATIENT = 4
_TEST_SHARE = 0.1


@dataclass(frozen=True)
class Pretrained:
    """The trained network, and its balanced accuracy on phantom cells of patients it never saw."""

    model: Network
    balanced_accuracy: float


def pretrain(
    *,
    domains: Sequence[str],
    cells_per_domain: int,
    epochs: int,
    seed: int,
    size_px: int = 64,
    on_epoch: Callable[[int, float], None],
) -> Pretrained:
    """Train the small network on phantoms of `domains` (all of them if empty). `on_epoch` gets epoch and loss."""
    study = _study(epochs, seed, size_px)
    chosen = tuple(domains) or domain_names()
    cells = _join([phantom_cells(name, cells_per_domain, seed, study.images) for name in chosen])
    model = build_model(study.model, len(study.classes), derive_seed(seed, "pretrain"))
    for epoch in range(1, epochs + 1):
        update = train_locally(model, cells.part("train"), study, clinic="phantom", round_number=epoch, sums=None)
        on_epoch(epoch, update.losses["loss"])
    found = evaluate(model, cells.part("test"), torch.device("cpu"), replicates=0, clinic="phantom")
    return Pretrained(model, float(balanced_accuracy(found.confusion)))


def save_backbone(model: Network, path: Path) -> None:
    """Write the backbone's arrays as float16 safetensors."""
    arrays = {key: value.half().contiguous() for key, value in model.state_dict().items() if not is_head(key)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save(arrays))


def phantom_cells(domain: str, num_cells: int, seed: int, settings: ImageSettings) -> CellSet:
    """Cells of one domain in equal shares of the 13 classes; a tenth of the patients is kept for testing."""
    classes = registry("wbc13")
    generator = numpy_generator(seed, "pretrain", domain)
    labels = generator.permutation(np.arange(num_cells) % len(classes)).astype(np.int64)
    patients = np.arange(num_cells, dtype=np.int64) // _CELLS_PER_PATIENT
    images = render(
        torch.from_numpy(labels),
        torch.from_numpy(patients),
        load_domain(domain),
        size_px=settings.source_px,
        seed=derive_seed(seed, "pretrain", domain),
    )
    images = prepare(images, settings)
    is_test = generator.random(patients.max() + 1) < _TEST_SHARE
    split = np.where(is_test[patients], 2, 0).astype(np.int64)
    allowed = torch.nn.functional.one_hot(torch.from_numpy(labels), len(classes)).bool()
    return CellSet(images, allowed, torch.from_numpy(patients), torch.from_numpy(split))


def _study(epochs: int, seed: int, size_px: int) -> StudyConfig:
    values = {
        "name": "phantom pretraining",
        "registry": "wbc13",
        "seed": seed,
        "rounds": epochs,
        "clinics": {"train": ["phantom"]},
        "images": {"size_px": size_px},
        "training": {"local_epochs": 1, "batch_size": 64, "learning_rate": 2e-3},
        "loss": {"classification": "cross-entropy", "alignment_weight": 0.0, "guide_weight": 0.0},
    }
    return parse_study(values, "pretrain")


def _join(parts: Sequence[CellSet]) -> CellSet:
    """Cells of several domains; patients keep apart."""
    offsets = np.cumsum([0, *(int(part.groups.max()) + 1 for part in parts[:-1])])
    return CellSet(
        images=torch.cat([part.images for part in parts]),
        allowed=torch.cat([part.allowed for part in parts]),
        groups=torch.cat([part.groups + int(offset) for part, offset in zip(parts, offsets, strict=True)]),
        split=torch.cat([part.split for part in parts]),
    )
