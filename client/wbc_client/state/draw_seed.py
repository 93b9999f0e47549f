"""The seed of a clinic's bootstrap draws: made here, kept here, told to nobody.

The coordinator gets confusion counts summed over each draw of patients. Who knows how often each patient was drawn can
solve those sums for every single patient's counts, so the draws must not follow from what a coordinator knows. All
models that a clinic measures see the same draws, which pairs them (docs/method.md §5.5).
"""

import secrets
from pathlib import Path

from wbc_common.errors import DataError
from wbc_common.files import write_atomically

SEED_NAME = "bootstrap.seed"
_BITS = 128


def bootstrap_seed(folder: Path) -> int:
    """The seed in a clinic's state folder, made at first use.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / SEED_NAME
    if not path.exists():
        keep_bootstrap_seed(folder, secrets.randbits(_BITS))
    try:
        return int(path.read_text(encoding="ascii"), 16)
    except ValueError as error:
        raise DataError(
            f"{path} holds no seed", remedy="remove it: a new one is made, and figures get other draws"
        ) from error


def keep_bootstrap_seed(folder: Path, seed: int) -> None:
    """Set the seed: in silico it follows from the clinic's name, so that studies can be paired and repeated."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / SEED_NAME, f"{seed:x}".encode(), mode=0o600)
