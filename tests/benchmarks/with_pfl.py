"""The reference job under pfl-research (package `pfl`): its FederatedAveraging and SimulatedBackend in one process.

The rounds, the choice of clinics, the weighting by cells and the central step are pfl's; a clinic's epochs are
`reference_job.train`, so that cells, batches, augmentation and optimiser are the floor's. No evaluation: the floor has
none either. `python with_pfl.py CLINICS` prints what the floor prints.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics, StringMetricName, Weighted
from pfl.model.pytorch import PyTorchModel
from reference_job import train
from torch.nn import functional as F

from wbc_client.clinic import open_clinic
from wbc_client.dataset.cell_set import CellSet
from wbc_common.models import build_model
from wbc_common.seeds import derive_seed, torch_generator
from wbc_common.study import StudyConfig, read_study

_LOSS = StringMetricName("training loss")


class Classifier(torch.nn.Module):
    """The study's network with the loss that pfl asks a module for."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of images [B, 3, H, W]."""
        return self.network(images)

    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy."""
        return F.cross_entropy(self(images), labels)

    def metrics(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, Weighted]:
        """The loss as pfl's metric."""
        return {"loss": Weighted(float(self.loss(images, labels)) * len(labels), len(labels))}


class Unmeasured(PyTorchModel):
    """pfl always measures every clinic in the first round; the floor never does."""

    def evaluate(self, *_: object) -> Metrics:
        """No metrics."""
        return Metrics()


class ReferenceTraining(FederatedAveraging):
    """FedAvg whose local training is the reference job's."""

    def __init__(self, study: StudyConfig, cells: dict[str, CellSet]) -> None:
        super().__init__()
        self._study, self._cells = study, cells

    def train_one_user(self, initial_model_state, model, user_dataset, central_context):
        """A clinic's difference to the round's model, and its loss."""
        name, number = user_dataset.user_id, central_context.current_central_iteration + 1
        generator = torch_generator(self._study.seed, "training", name, number)
        loss = train(model.pytorch_model, self._cells[name], self._study, generator, number, "contiguous")
        difference = model.get_model_difference(initial_model_state)
        return difference, Metrics([(_LOSS, Weighted.from_unweighted(loss))])


class Record(TrainingProcessCallback):
    """Seconds and mean loss over clinics of each round."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self._started = 0.0

    def on_train_begin(self, *, model: PyTorchModel) -> Metrics:
        """The first round starts."""
        self._started = time.perf_counter()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """A round ends, the next one starts."""
        now = time.perf_counter()
        self.seconds.append(now - self._started)
        self.losses.append(aggregate_metrics[_LOSS].overall_value)
        self._started = now
        return False, Metrics()


def run(clinics: Path) -> dict[str, object]:
    """Seconds of each round and the mean loss of the last."""
    study = read_study(clinics.parent / "study.toml")
    names = sorted(study.clinics.train)
    cells = {name: open_clinic(clinics / f"{name}.toml").cells.part("train") for name in names}
    network = Classifier(build_model(study.model, study.head_rows, derive_seed(study.seed, "model")))
    model = Unmeasured(network, torch.optim.AdamW, torch.optim.SGD(network.parameters(), lr=1.0))
    data = FederatedDataset(
        lambda name: Dataset([cells[name].images, cells[name].labels], user_id=name),
        get_user_sampler("minimize_reuse", names),
    )
    record, settings = Record(), study.training
    ReferenceTraining(study, cells).run(
        NNAlgorithmParams(study.rounds, study.rounds, len(names), 0),
        SimulatedBackend(data, data, [WeightByDatapoints()]),
        model,
        NNTrainHyperParams(
            local_batch_size=settings.batch_size,
            local_num_epochs=settings.local_epochs,
            local_learning_rate=settings.learning_rate,
        ),
        callbacks=[record],
        send_metrics_to_platform=False,
    )
    return {"seconds": record.seconds, "loss": record.losses[-1]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clinics", type=Path, help="folder of clinic files, beside their study.toml")
    print(json.dumps(run(parser.parse_args().clinics)))
