"""C that is compiled on the machine that runs it, at first use, and kept in the user's cache.

Only for work that torch or numpy does several times slower, and never needed: without a compiler, or where anything
goes wrong, there is no library and the caller goes on with them. The compiler is `cc`, or what CC names; an empty CC
means none. A library is for one processor, so its name has a digest of the processor's features: a cache may lie on a
file system that different machines share.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from wbc_common.files import cache_folder

log = logging.getLogger(__name__)

# Without -ffast-math: NaN must stay NaN. What is switched off here is errno and floating-point signals.
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
_SECONDS = 60


@functools.cache
def load_library(source: Path, *flags: str) -> ctypes.CDLL | None:
    """The library of a C file, compiled with `FLAGS` and more if it is not in the cache; None where that cannot be."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None
    try:
        library = cache_folder() / "compiled" / f"{source.stem}-{_digest(source, compiler, flags)}.so"
        if not library.exists():
            _compile(compiler, source, library, flags)
        return ctypes.CDLL(str(library))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        log.warning("%s cannot be compiled here, going on without: %s", source.name, error)
        return None


def _compile(compiler: str, source: Path, library: Path, flags: Sequence[str]) -> None:
    """Compile into a name of its own, then rename: other processes see a whole library or none."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as place:
        own = Path(place) / library.name
        command = [compiler, *FLAGS, *flags, "-o", str(own), str(source), "-lm"]
        subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
        own.replace(library)


def _digest(source: Path, compiler: str, flags: Sequence[str]) -> str:
    parts = [source.read_text(encoding="utf-8"), compiler, *FLAGS, *flags, platform.machine(), _processor()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]


def _processor() -> str:
    """The first processor's name and features, as far as the system tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features")))
