"""Passes over arrays in pieces: every element once, whatever the sizes and threads."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbc_server.aggregation import pieces
from wbc_server.aggregation.pieces import PIECE, sweep


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("sizes", [[], [0], [5], [PIECE], [PIECE + 1], [3, 0, 4 * PIECE + 7, 2 * PIECE, 1], [10] * 50])
def test_every_element_is_visited_once(sizes, threads, torch_threads):
    torch_threads(threads)
    seen = {str(number): np.zeros(size, np.int64) for number, size in enumerate(sizes)}

    def visit(thread, share):
        for piece in share:
            assert 0 < piece.part.stop - piece.part.start <= PIECE
            seen[piece.key][piece.part] += 1
        return thread

    numbers = sweep(seen, visit)
    assert numbers == list(range(len(numbers)))
    assert len(numbers) == max(1, min(threads, sum(sizes) // PIECE))
    assert all((value == 1).all() for value in seen.values())


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 4))
def test_no_thread_has_more_than_its_share_and_a_piece(sizes, threads):
    parts = [pieces.Piece(str(number), slice(0, size)) for number, size in enumerate(sizes)]
    shares = pieces._share(parts, sum(sizes), threads)
    assert [piece for share in shares for piece in share] == parts
    loads = [sum(piece.part.stop for piece in share) for share in shares]
    assert max(loads) <= sum(sizes) / threads + max(sizes)


def test_threads_work_at_the_same_time(torch_threads):
    torch_threads(2)
    both = threading.Barrier(2, timeout=30)
    sweep({"x": np.zeros(2 * PIECE)}, lambda thread, share: both.wait())  # would time out in turn


def test_an_error_in_any_thread_is_raised(torch_threads):
    torch_threads(2)

    def fail_in_the_second(thread, share):
        if thread == 1:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sweep({"x": np.zeros(2 * PIECE)}, fail_in_the_second)
