"""The model to use: one safetensors file that says what it is and how to feed it.

Everything needed to classify a cell stands in its metadata: classes, backbone, image size, colour handling. No pickle.
"""

from collections.abc import Mapping

import numpy as np

from wbc_common.arrays_file import arrays_as_file
from wbc_common.files import write_atomically
from wbc_common.study import StudyConfig
from wbc_common.weights_file import CLASSES_KEY, ROWS_KEY
from wbc_server.run_folder import RunFolder


def export_model(folder: RunFolder, study: StudyConfig, arrays: Mapping[str, np.ndarray], round_number: int) -> None:
    """Write model.safetensors of a run; equal models of equal plans give equal bytes."""
    metadata = {
        "format": "wbc-fl model 1",
        "study": study.model_dump_json(),
        "study-hash": study.hash,
        "registry-digest": study.classes.digest,
        CLASSES_KEY: ",".join(study.classes.classes),
        ROWS_KEY: ",".join(study.head_rows.names),
        "round": str(round_number),
        "use": "research only; no clinical use",
    }
    write_atomically(folder.model, *arrays_as_file(arrays, metadata))
