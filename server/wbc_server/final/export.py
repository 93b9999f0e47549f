"""The model to use: one safetensors file that says what it is and how to feed it.

Everything needed to classify a cell stands in its metadata: classes, backbone, image size, colour handling. No pickle.
"""

from collections.abc import Mapping

import numpy as np
from safetensors.numpy import save

from wbc_common.study import StudyConfig
from wbc_server.run_folder import RunFolder, write_atomically


def export_model(folder: RunFolder, study: StudyConfig, arrays: Mapping[str, np.ndarray], round_number: int) -> None:
    """Write model.safetensors of a run."""
    metadata = {
        "format": "wbc-fl model 1",
        "study": study.model_dump_json(),
        "study-hash": study.hash,
        "registry-digest": study.classes.digest,
        "classes": ",".join(study.classes.classes),
        "round": str(round_number),
        "use": "research only; no clinical use",
    }
    contiguous = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
    write_atomically(folder.model, save(contiguous, metadata=metadata))
