"""Cells as JPEG in one .safetensors file: what is shipped with the package has to be small.

In-silico cells that clinics rehearse are kept so (`wbc_client.training.rehearsal`), prepared already as a study's are.
The file holds the pictures end to end, where each ends, and each cell's place in `CLASSES_13`; no pickle.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file

from wbc_client.dataset.cell_set import CellSet
from wbc_common.arrays_file import arrays_as_file
from wbc_common.cells import CLASSES_13, Registry
from wbc_common.errors import DataError
from wbc_common.files import write_atomically

_QUALITY = 90
_REMEDY = "install the package anew, or make the file with wbc-simulate rehearsal-cells"
_DAMAGED = (OSError, SafetensorError, LookupError, ValueError)


def write_compact(images: torch.Tensor, finest: torch.Tensor, path: Path) -> None:
    """Write prepared images uint8 [N, 3, S, S] and their places in CLASSES_13, int64 [N]; equal cells, equal bytes."""
    pictures = [_encoded(image.permute(1, 2, 0).numpy()) for image in images]
    arrays: dict[str, NDArray[Any]] = {
        "pictures": np.frombuffer(b"".join(pictures), dtype=np.uint8),
        "ends": np.cumsum([len(picture) for picture in pictures], dtype=np.int64),
        "classes": finest.numpy().astype(np.int64),
    }
    write_atomically(path, *arrays_as_file(arrays, {}))


def read_compact(path: Path, registry: Registry) -> CellSet:
    """The file's cells that are exactly one class of the registry; all in the training split, each a group of its own.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        arrays = load_file(path)
        pictures, ends, finest = arrays["pictures"], arrays["ends"], arrays["classes"]
        meanings = [registry.resolve(CLASSES_13[place]) for place in finest]
        kept = [place for place, meaning in enumerate(meanings) if len(meaning) == 1]
        starts = np.concatenate([[0], ends[:-1]])
        images = np.stack([_decoded(pictures[starts[place] : ends[place]].tobytes()) for place in kept])
    except _DAMAGED as error:
        raise DataError(f"cells {path} cannot be read: {type(error).__name__}: {error}", remedy=_REMEDY) from error
    labels = torch.tensor([meanings[place][0] for place in kept])
    return CellSet(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        torch.nn.functional.one_hot(labels, len(registry)).bool(),
        groups=torch.arange(len(kept)),
        split=torch.zeros(len(kept), dtype=torch.int64),
    )


def _encoded(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()


def _decoded(picture: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(picture), formats=("JPEG",)) as image:
        return np.asarray(image.convert("RGB"))
