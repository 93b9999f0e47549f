"""Where cells made for simulations are kept, so that seeds, methods and runs share them.

A file's name says the clinic and a digest of everything its cells depend on; a file that exists is right. Copies of
real cells (dealt or decoded once) lie here too: keep the folder where the images themselves may lie.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from wbc_common.files import cache_folder

# Raised when the same settings make other cells: by the renderer, the reader, the dealer or the rule of the splits.
_MAKERS = 2


def cell_file(clinic: str, *depends_on: object) -> Path:
    """The file of a clinic's cells that depend on these JSON values."""
    told = json.dumps([_MAKERS, *depends_on], sort_keys=True)
    digest = hashlib.sha256(told.encode()).hexdigest()[:20]
    return cache_folder() / "cells" / f"{clinic}-{digest}.safetensors"


def write_once(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file of the cache.

    Runs side by side may make the same cells at once: each writes a file of its own, the last one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_name(f"{path.stem}.{os.getpid()}{path.suffix}")
    write(own)
    own.replace(path)
