"""The reference job under NVIDIA FLARE's simulator (package `nvflare`): its FedAvg controller, a process a client.

Two clients at a time would take less memory, but then the simulator starts a process anew for each turn, and the
command takes about eight times as long as the floor.

The rounds, the messages and the aggregation by cells are FLARE's; a clinic's epochs are `reference_job.train`, so that
cells, batches, augmentation and optimiser are the floor's. The simulator starts processes of its own, which import
this file: its folder must be on PYTHONPATH. `python with_nvflare.py CLINICS` prints what the floor prints, last.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.executor import Executor
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.app_opt.pt.job_config.model import PTModel
from nvflare.job_config.api import FedJob
from reference_job import train

from wbc_client.clinic import open_clinic
from wbc_common.models import build_model
from wbc_common.seeds import derive_seed, torch_generator
from wbc_common.study import read_study

_OURS = ["with_nvflare", "reference_job", "wbc_client", "wbc_common"]


class Classifier(torch.nn.Module):
    """The study's network as a class that FLARE can build from a name and arguments."""

    def __init__(self, study: str) -> None:
        super().__init__()
        config = read_study(Path(study))
        self.network = build_model(config.model, config.head_rows, derive_seed(config.seed, "model"))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of images [B, 3, H, W]."""
        return self.network(images)


class ReferenceTraining(Executor):
    """A clinic: trains as the reference job does and leaves its loss in `record`."""

    def __init__(self, clinics: str, record: str) -> None:
        super().__init__()
        self.clinics, self.record = clinics, record

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """The clinic's weights after its epochs, weighted by its cells."""
        name, number = fl_ctx.get_identity_name(), int(shareable.get_header(AppConstants.CURRENT_ROUND)) + 1
        study_file = Path(self.clinics).parent / "study.toml"
        study = read_study(study_file)
        cells = open_clinic(Path(self.clinics) / f"{name}.toml").cells.part("train")
        model = Classifier(str(study_file))
        arrays = from_shareable(shareable).data
        model.load_state_dict({key: torch.as_tensor(value) for key, value in arrays.items()})
        generator = torch_generator(study.seed, "training", name, number)
        loss = train(model, cells, study, generator, number, "contiguous")
        (Path(self.record) / f"loss-{number}-{name}.json").write_text(json.dumps(loss))
        weights = {key: value.numpy() for key, value in model.state_dict().items()}
        return DXO(DataKind.WEIGHTS, weights, {MetaKey.NUM_STEPS_CURRENT_ROUND: len(cells)}).to_shareable()


class Clock(FLComponent):
    """On the server: appends the seconds of each round, aggregation included, to a file in `record`."""

    def __init__(self, record: str) -> None:
        super().__init__()
        self.record = record
        self._started = 0.0

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """A round starts or its updates are aggregated."""
        if event_type == AppEventType.ROUND_STARTED:
            self._started = time.perf_counter()
        elif event_type == AppEventType.AFTER_AGGREGATION:
            with (Path(self.record) / "seconds.txt").open("a") as file:
                file.write(f"{time.perf_counter() - self._started}\n")


def allow_components(workspace: Path) -> None:
    """Let the simulator's site build our components and FLARE's: by default it takes a short list of its own."""
    local = workspace / "local"
    local.mkdir(parents=True)
    resources = {"format_version": 2, "class_allow_list": ["nvflare.", "with_nvflare."]}
    (local / "resources.json").write_text(json.dumps(resources))


def run(clinics: Path, folder: Path) -> dict[str, object]:
    """Seconds of each round and the mean loss of the last; FLARE's workspace and our record go into `folder`."""
    study_file = clinics.parent / "study.toml"
    study = read_study(study_file)
    names, record = sorted(study.clinics.train), folder / "record"
    record.mkdir()
    job = FedJob(name="reference-job", min_clients=len(names))
    job.set_app_packages(_OURS)
    model = PTModel({"path": "with_nvflare.Classifier", "args": {"study": str(study_file)}})
    persistor = job.to_server(model)["persistor_id"]
    job.to_server(FedAvg(num_clients=len(names), num_rounds=study.rounds, persistor_id=persistor))
    job.to_server(Clock(str(record)))
    for name in names:
        job.to(ReferenceTraining(str(clinics), str(record)), name, tasks=["train"])
    allow_components(folder / "workspace")
    job.simulator_run(str(folder / "workspace"), threads=len(names))
    seconds = [float(line) for line in (record / "seconds.txt").read_text().splitlines()]
    losses = [json.loads((record / f"loss-{study.rounds}-{name}.json").read_text()) for name in names]
    return {"seconds": seconds, "loss": sum(losses) / len(losses)}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clinics", type=Path, help="folder of clinic files, beside their study.toml")
    clinics = parser.parse_args().clinics.resolve()
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(run(clinics, Path(name))))


if __name__ == "__main__":
    # FLARE writes down the module of each class: `__main__` would mean nothing to its processes.
    import with_nvflare

    with_nvflare.main()
