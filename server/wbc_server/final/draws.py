"""The bootstrap draws behind a study's intervals, kept so that two studies can be compared on the same draws."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from wbc_common.arrays_file import arrays_as_file
from wbc_common.errors import DataError
from wbc_common.files import write_atomically
from wbc_common.wire import Evaluation
from wbc_server.run_folder import RunFolder


def write_draws(folder: RunFolder, evaluations: Mapping[str, Evaluation]) -> None:
    """Write each clinic's replicate confusion matrices int32 [R, C, C]."""
    arrays = {clinic: np.asarray(found.replicates, dtype=np.int32) for clinic, found in evaluations.items()}
    write_atomically(folder.draws, *arrays_as_file(arrays))


def read_draws(folder: RunFolder) -> dict[str, NDArray[np.int64]]:
    """Clinic → replicate confusion matrices int64 [R, C, C].

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        arrays = load(folder.draws.read_bytes())
    except (OSError, SafetensorError) as error:
        raise DataError(f"{folder.draws} cannot be read", remedy="remove that run's folder and run again") from error
    return {clinic: values.astype(np.int64) for clinic, values in arrays.items()}
