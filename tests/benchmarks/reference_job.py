"""The reference job: 8 training clinics of 200–800 in-silico cells, 2 held out, 64 px, 0.3 M parameters, batch 32,
10 rounds of 2 epochs of FedAvg with cross-entropy, stain augmentation, AdamW. Cells as they are: no framing.

`python reference_job.py floor ...` is the floor: a plain PyTorch loop over the same clinics, batches and steps, with
nothing else: no messages, no evaluation, no record. It prints what the table needs as one line of JSON.
"""

import argparse
import copy
import json
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from wbc_client.clinic import open_clinic
from wbc_client.dataset.cell_set import CellSet
from wbc_client.training.augmentation import augment
from wbc_client.training.local import learning_rate
from wbc_common.appearance import normalise
from wbc_common.models import build_model
from wbc_common.seeds import derive_seed, torch_generator
from wbc_common.study import StudyConfig, read_study
from wbc_simulations.experiment import DataSource, Experiment, PhantomClinic

CELLS = (200, 800, 300, 700, 400, 600, 450, 550)
DOMAINS = ("dm96_mgg", "oil_mgg_aml", "pale_wright", "rapid_yellow")
_LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


def reference_experiment(precision: str, *, rounds: int = 10) -> Experiment:
    """The experiment file's content."""
    training = [(f"clinic-{number}", "train", cells) for number, cells in enumerate(CELLS, start=1)]
    clinics = tuple(
        PhantomClinic(
            clinic=name, role=role, domain=DOMAINS[place % 4], cells=cells, patients=20, case_mix={"infection": 1.0}
        )
        for place, (name, role, cells) in enumerate(
            [*training, ("held-out-1", "held-out", 500), ("held-out-2", "held-out", 500)]
        )
    )
    study = {
        "name": "reference job",
        "rounds": rounds,
        "images": {"size_px": 64, "framing": "as-is"},
        "training": {"precision": precision},
        "loss": {"classification": "cross-entropy", "alignment_weight": 0.0, "guide_weight": 0.0},
        "aggregation": {"rule": "fedavg"},
        "evaluation": {"stain_draws": 0, "together": False},  # the floors measure nothing at all
    }
    return Experiment(study=study, data=DataSource(kind="phantom", clinics=clinics))


def floor(clinics: Path, layout: str) -> dict[str, object]:
    """Train on all clinics for all rounds; seconds of each round and the mean loss of the last."""
    study = read_study(clinics.parent / "study.toml")
    cells = {name: open_clinic(clinics / f"{name}.toml").cells.part("train") for name in sorted(study.clinics.train)}
    model = build_model(study.model, study.head_rows, derive_seed(study.seed, "model"))
    model = model.to(memory_format=_LAYOUTS[layout])
    seconds, loss = [], 0.0
    for number in range(1, study.rounds + 1):
        started = time.perf_counter()
        loss = federated_round(model, cells, study, number, layout)
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds, "loss": loss}


def federated_round(
    model: torch.nn.Module, cells: dict[str, CellSet], study: StudyConfig, number: int, layout: str
) -> float:
    """FedAvg over the clinics, in place; the mean over clinics of the last epoch's mean loss."""
    total = sum(len(own) for own in cells.values())
    mean = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
    losses = []
    for name, own in cells.items():
        local = copy.deepcopy(model)
        losses.append(train(local, own, study, torch_generator(study.seed, "training", name, number), number, layout))
        for key, value in local.state_dict().items():
            mean[key].add_(value, alpha=len(own) / total)
    model.load_state_dict(mean)
    return sum(losses) / len(losses)


def train(
    model: torch.nn.Module, cells: CellSet, study: StudyConfig, generator: torch.Generator, number: int, layout: str
) -> float:
    """The epochs of one clinic in one round."""
    settings, labels = study.training, cells.labels
    rate = learning_rate(settings, number, study.rounds)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=settings.weight_decay, fused=True)
    model.train()
    for _ in range(settings.local_epochs):
        losses = []
        for index in torch.randperm(len(cells), generator=generator).split(settings.batch_size):
            images = normalise(augment(cells.images[index], settings.augmentation, generator))
            loss = F.cross_entropy(model(images.to(memory_format=_LAYOUTS[layout])), labels[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    return float(torch.stack(losses).mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clinics", type=Path, help="folder of clinic files, beside their study.toml")
    parser.add_argument("layout", choices=_LAYOUTS)
    arguments = parser.parse_args()
    print(json.dumps(floor(arguments.clinics, arguments.layout)))
