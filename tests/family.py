"""A process and all that descend from it, from Linux' /proc."""

from contextlib import suppress
from pathlib import Path


def family(root: int) -> list[int]:
    """Numbers of a process, first, and of all that descend from it now."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [root]
    for number in found:
        found += [child for child, parent in parents.items() if parent == number]
    return found


def command_line(number: int) -> str:
    """What a process was started with; empty if it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
