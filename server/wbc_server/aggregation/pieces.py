"""One pass over all arrays of an update: cut into pieces that stay in a processor's cache, shared among threads.

A pass over a whole array moves each intermediate result through memory, which is what such a pass waits for. Pieces
are large, so that threads seldom meet at Python's lock, and a thread takes one run of neighbouring pieces, so that
there is one hand-over a pass. As many threads as torch may use (`OMP_NUM_THREADS`); a small model takes one.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch

PIECE = 1 << 18  # elements; 1 MB of float32 and 2 MB of float64

Result = TypeVar("Result")


@dataclass(frozen=True)
class Piece:
    """Neighbouring elements `part` of the flat array `key`, at most `PIECE` of them."""

    key: str
    part: slice


def sweep(flat: Mapping[str, np.ndarray], work: Callable[[int, Sequence[Piece]], Result]) -> list[Result]:
    """Do some work on every piece of every array.

    Args:
        flat: arrays with one axis.
        work: called once a thread with the thread's number from 0 and its pieces. The calls run side by side.

    Returns:
        What `work` returned, by thread.
    """
    pieces = [
        Piece(key, slice(start, min(start + PIECE, value.size)))
        for key, value in flat.items()
        for start in range(0, value.size, PIECE)
    ]
    num_elements = sum(value.size for value in flat.values())
    num_threads = max(1, min(torch.get_num_threads(), num_elements // PIECE))
    first, *others = _share(pieces, num_elements, num_threads)
    running = [_threads(num_threads).submit(work, thread, share) for thread, share in enumerate(others, start=1)]
    return [work(0, first), *(future.result() for future in running)]


def _share(pieces: Sequence[Piece], num_elements: int, num_threads: int) -> list[list[Piece]]:
    """Runs of pieces with about as many elements each, one a thread."""
    shares: list[list[Piece]] = [[] for _ in range(num_threads)]
    passed = 0
    for piece in pieces:
        shares[passed * num_threads // num_elements].append(piece)
        passed += piece.part.stop - piece.part.start
    return shares


@lru_cache(maxsize=1)
def _threads(num_threads: int) -> ThreadPoolExecutor:
    """Threads that wait for the next pass; their number changes with torch's."""
    return ThreadPoolExecutor(num_threads, thread_name_prefix="wbc-sweep")
