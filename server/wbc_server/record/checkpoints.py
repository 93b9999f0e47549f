"""Checkpoints: one safetensors file a round, known by the SHA-256 of its bytes.

A file appears whole or not at all (temporary file, fsync, rename, fsync of the folder), and is parsed only after its
checksum was found right: a damaged model is never loaded. The checksum is kept in the journal, not beside the file.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wbc_common.arrays_file import arrays_as_file, arrays_in_file
from wbc_common.errors import DataError, WbcError
from wbc_common.files import write_parts_atomically

_FILE_NAME = re.compile(r"round-(\d{4,})\.safetensors")
_METADATA_KEY = "wbc"
_TEMPORARY_SUFFIX = ".part"


@dataclass(frozen=True)
class CheckpointRef:
    """A checkpoint's file name inside its folder, and the SHA-256 of its bytes in hexadecimal."""

    file: str
    sha256: str


def save(
    folder: Path, round_number: int, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> CheckpointRef:
    """Write the global model after a round. The same content gives the same bytes.

    Args:
        folder: made if it does not exist.
        round_number: from 1; an earlier file of this round is replaced.
        arrays: by name, any shape and dtype that safetensors knows; written one after the other as they are looked up.
        metadata: goes into the file's header, for whoever finds the file alone.

    Raises:
        WbcError: the file cannot be written; an earlier one is untouched.
    """
    name = f"round-{round_number:04d}.safetensors"
    digest = hashlib.sha256()

    def digested() -> Iterator[bytes | memoryview]:
        for part in arrays_as_file(arrays, {_METADATA_KEY: json.dumps(dict(metadata), sort_keys=True)}):
            digest.update(part)
            yield part

    replace_atomically(folder / name, digested())
    return CheckpointRef(name, digest.hexdigest())


def load(folder: Path, ref: CheckpointRef) -> Mapping[str, np.ndarray]:
    """The arrays of a checkpoint, each read from the file when it is looked up; the file may be removed meanwhile.

    Raises:
        DataError: the file is missing, or is not byte for byte what was saved.
    """
    if not _FILE_NAME.fullmatch(ref.file):
        raise DataError(f"'{ref.file}' is not a checkpoint's name, expected round-0001.safetensors", remedy=_RESTORE)
    try:
        with (folder / ref.file).open("rb") as file:
            got = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read checkpoint {folder / ref.file}: {error.strerror}", remedy=_RESTORE) from error
    if got != ref.sha256:
        raise DataError(
            f"checkpoint {folder / ref.file} is damaged: SHA-256 {got[:12]}…, expected {ref.sha256[:12]}…",
            remedy=_RESTORE,
        )
    try:
        return arrays_in_file(folder / ref.file)
    except (OSError, ValueError) as error:
        raise DataError(f"checkpoint {folder / ref.file} is no safetensors file: {error}", remedy=_RESTORE) from error


def prune(folder: Path, keep: set[int]) -> None:
    """Remove the checkpoints of all rounds but `keep`, and what a crash while writing left; other files stay."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        match = _FILE_NAME.fullmatch(path.name.removesuffix(_TEMPORARY_SUFFIX))
        if match and (path.name.endswith(_TEMPORARY_SUFFIX) or int(match[1]) not in keep):
            path.unlink(missing_ok=True)


def replace_atomically(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Make `path` hold these parts, durably: at any crash it holds either its old bytes or the new ones.

    Raises:
        WbcError: it cannot be written; the old bytes are untouched.
    """
    try:
        write_parts_atomically(path, parts, mode=0o666)  # less what the umask takes
    except OSError as error:
        with suppress(OSError):
            path.with_name(path.name + _TEMPORARY_SUFFIX).unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> WbcError:
    """The error of a full disk, missing rights, or the like."""
    return WbcError(
        f"cannot write {path}: {error.strerror or error}; what was written before is intact",
        remedy="free space on that disk or correct its rights, then start the run again: it resumes by itself",
    )


_RESTORE = "restore the file from a backup, or resume from an earlier round whose checkpoint is intact"
