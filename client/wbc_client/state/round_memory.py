"""What a clinic keeps from one round for the next, in files of its state folder, so that it survives a restart.

A file belongs to a plan and a round and is written whole, with a checksum of its arrays, before the round's reply
leaves. The files of two rounds are kept: a round that is asked again, after a kill on either side, finds what the first
asking found and gives the same bits.
"""

import hashlib
import json
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open

from wbc_common.arrays_file import arrays_as_file
from wbc_common.errors import DataError
from wbc_common.files import write_atomically
from wbc_common.wire import Arrays

FOLDER_NAME = "rounds"
_NAME = re.compile(r"(?P<what>[a-z-]+)-(?P<round>\d{4,})\.safetensors(?P<torn>\.part)?")
_OWNER_ONLY = 0o600


def keep(state_dir: Path, what: str, arrays: Arrays, *, study_hash: str, round_number: int) -> None:
    """Write what a round leaves for the next; beside it only the latest round before it stays."""
    folder = state_dir / FOLDER_NAME
    header = json.dumps({"study": study_hash, "sha256": _checksum(arrays)})
    parts = arrays_as_file(arrays, {"wbc": header})
    write_atomically(_path(folder, what, round_number), *parts, mode=_OWNER_ONLY)
    lasting = {_path(folder, what, number) for number in (round_number, *_earlier(folder, what, round_number)[-1:])}
    for path in folder.iterdir():
        match = _NAME.fullmatch(path.name)
        if match and match["what"] == what and path not in lasting:
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
            header = json.loads((file.metadata() or {})["wbc"])
            arrays: Arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (no mapping)
        intact = header["sha256"] == _checksum(arrays)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path) from error
    if not intact:
        raise _damaged(path)
    return arrays if header.get("study") == study_hash else None


def recall_last(state_dir: Path, what: str, *, study_hash: str, before: int) -> Arrays | None:
    """What the latest round before `before` left; None and DataError as in `recall`."""
    numbers = _earlier(state_dir / FOLDER_NAME, what, before)
    return recall(state_dir, what, study_hash=study_hash, round_number=numbers[-1]) if numbers else None


def _earlier(folder: Path, what: str, before: int) -> list[int]:
    """Rounds before `before` that left a whole file of this kind, in order."""
    matches = [_NAME.fullmatch(path.name) for path in folder.iterdir()] if folder.is_dir() else []
    rounds = [int(match["round"]) for match in matches if match and match["what"] == what and not match["torn"]]
    return sorted(number for number in rounds if number < before)


def _checksum(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(arrays.items()):
        digest.update(f"{key} {value.dtype} {value.shape}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _damaged(path: Path) -> DataError:
    return DataError(
        f"{path} is damaged or cannot be read, expected arrays with their checksum",
        remedy="remove that file; the clinic's next round starts without it",
    )


def _path(folder: Path, what: str, round_number: int) -> Path:
    return folder / f"{what}-{round_number:04d}.safetensors"
