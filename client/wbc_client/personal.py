"""A clinic's personal head: fitted on site to the finished model's features, kept in the clinic's state folder.

Only head rows are trained (as FedPer and FedRep do with their heads; Arivazhagan et al. 2019, Collins et al. 2021),
from the global head on, with the plan's classification loss under the clinic's own counts. `wbc-client predict --head`
uses it.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from wbc_client.dataset.cell_set import CellSet
from wbc_client.losses import imbalance_of
from wbc_client.training.course import Course
from wbc_client.training.head_only import fit_head
from wbc_client.training.virtual_stains import VirtualStains
from wbc_common.arrays_file import arrays_as_file
from wbc_common.errors import DataError
from wbc_common.files import write_atomically
from wbc_common.models import HEAD_KEYS, Network
from wbc_common.seeds import torch_generator
from wbc_common.study import StudyConfig

HEAD_NAME = "personal-head.safetensors"


def fit_personal_head(
    model: Network, cells: CellSet, study: StudyConfig, *, clinic: str, stains: VirtualStains | None
) -> None:
    """Fit the model's head, in place, to one clinic's training cells; the backbone keeps its bits."""
    course = Course(
        study.training,
        rate=study.personal.learning_rate,
        epochs=study.personal.epochs,
        generator=torch_generator(study.seed, "personal head", clinic),
        stains=stains,
    )
    counts = torch.from_numpy(cells.class_counts()).to(model.head.weight.device, torch.float32)
    fit_head(model, cells, course, study.loss, imbalance_of(counts, study.loss, model.rows))


def keep_head(model: Network, folder: Path, study: StudyConfig) -> None:
    """Write the head to the clinic's state folder; it belongs to the model of this plan alone."""
    state = model.state_dict()
    arrays = {key: state[key].detach().cpu().numpy() for key in HEAD_KEYS}
    metadata = {"wbc": json.dumps({"study-hash": study.hash})}
    write_atomically(folder / HEAD_NAME, *arrays_as_file(arrays, metadata))


def put_head(model: Network, path: Path, study: StudyConfig) -> None:
    """Put a kept head into the model of its plan.

    Raises:
        DataError: the file is none, or belongs to the model of another plan.
    """
    remedy = "give the personal-head.safetensors of this model's study, or leave --head out"
    try:
        with safe_open(path, framework="pt") as file:
            plan = json.loads((file.metadata() or {}).get("wbc", "{}")).get("study-hash")
            arrays = {key: file.get_tensor(key) for key in HEAD_KEYS}
    except (OSError, SafetensorError, ValueError, AttributeError) as error:
        raise DataError(f"cannot read personal head {path}", remedy=remedy) from error
    if plan != study.hash:
        raise DataError(f"personal head {path} belongs to the model of another plan", remedy=remedy)
    model.load_state_dict(arrays, strict=False)
