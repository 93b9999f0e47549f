"""What glibc does with freed memory, which a process knows best; other C libraries are left alone."""

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of malloc.h


def keep_freed_memory() -> None:
    """Keep up to 256 MiB of freed memory for the next training step, where it would be handed back after each.

    A step's activations are a few MB each: fetched anew they cost a page fault per 4 kB. From then on blocks of 32 MiB
    or more are always handed back, as glibc does by itself at the most.
    """
    _set({_MMAP_THRESHOLD: 32 * 2**20, _TRIM_THRESHOLD: 256 * 2**20})


def hand_back_freed_memory() -> None:
    """Hand freed arrays back to the system at once: for a process that holds many models for a moment and then waits.

    Of arrays that come and go on many threads, as in Flower's transfers, glibc keeps as much again in its heaps.
    """
    _set({_MMAP_THRESHOLD: 256 * 2**10, _TRIM_THRESHOLD: 2**20, _ARENA_MAX: 2})


def hand_back_now() -> None:
    """Hand all freed memory back once: between jobs of one process, whose heap would else grow with their number."""
    with suppress(OSError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _set(options: dict[int, int]) -> None:
    with suppress(OSError):
        libc = ctypes.CDLL("libc.so.6")
        for option, value in options.items():
            libc.mallopt(option, value)
