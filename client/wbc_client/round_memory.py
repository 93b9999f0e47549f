"""What a clinic keeps from one round for the next, in files of its state folder, so that it survives a restart.

A file belongs to a plan and a round and is written whole before the round's reply leaves. The files of two rounds are
kept: a round that is asked again, after a kill on either side, finds what the first asking found and gives the same
bits.
"""

import json
import re
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from wbc_common.errors import DataError
from wbc_common.files import write_atomically
from wbc_common.wire import Arrays

FOLDER_NAME = "rounds"
_NAME = re.compile(r"(?P<what>[a-z-]+)-(?P<round>\d{4,})\.safetensors(\.part)?")
_OWNER_ONLY = 0o600


def keep(state_dir: Path, what: str, arrays: Arrays, *, study_hash: str, round_number: int) -> None:
    """Write what a round leaves for the next, and drop what is older than the round before it."""
    folder = state_dir / FOLDER_NAME
    content = save(
        {key: np.ascontiguousarray(value) for key, value in arrays.items()}, {"wbc": json.dumps({"study": study_hash})}
    )
    write_atomically(_path(folder, what, round_number), content, mode=_OWNER_ONLY)
    for path in folder.iterdir():
        match = _NAME.fullmatch(path.name)
        if match and match["what"] == what and int(match["round"]) < round_number - 1:
            path.unlink(missing_ok=True)


def recall(state_dir: Path, what: str, *, study_hash: str, round_number: int) -> Arrays | None:
    """What a round left; None where it left nothing, or was of another plan.

    Raises:
        DataError: the file is damaged.
    """
    path = _path(state_dir / FOLDER_NAME, what, round_number)
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            if json.loads((file.metadata() or {}).get("wbc", "{}")).get("study") != study_hash:
                return None
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (no mapping)
    except (OSError, SafetensorError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path} cannot be read: {error}", remedy="remove that file; the clinic's next round starts without it"
        ) from error


def _path(folder: Path, what: str, round_number: int) -> Path:
    return folder / f"{what}-{round_number:04d}.safetensors"
