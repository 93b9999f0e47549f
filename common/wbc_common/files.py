"""Files that hold either their old bytes or their new ones, whatever happens while they are written."""

import os
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file or nothing: to a temporary name, to disk, then renamed; its folder is made where needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
