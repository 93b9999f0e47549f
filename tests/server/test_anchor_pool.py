"""The pool of class sums: whose it holds, and that it survives in the server's state."""

import numpy as np

from wbc_common.study import parse_study
from wbc_common.wire import ClassSums
from wbc_server.anchor_pool import find_pool, pool_sums, put_pool

STUDY = parse_study(
    {"name": "pool", "clinics": {"train": ["north", "east", "south", "far"], "held_out": ["west"]}}, "test"
)


def sums(value: float) -> ClassSums:
    return ClassSums(np.full((2, 3), value), np.array([value, 2 * value]))


def test_the_pool_is_the_sum_and_knows_whose_it_is() -> None:
    pool = pool_sums({"east": sums(1.0), "north": sums(0.5), "south": sums(2.5)})
    assert pool is not None
    assert pool.totals.counts.tolist() == [4.0, 8.0]
    assert pool.clinics == ("east", "north", "south")


def test_fewer_than_three_clinics_are_no_pool_as_one_could_take_its_own_out_and_hold_the_others() -> None:
    assert pool_sums({}) is None
    assert pool_sums({"east": sums(1.0)}) is None
    assert pool_sums({"east": sums(1.0), "south": sums(2.5)}) is None


def test_a_pool_in_the_state_is_found_to_the_bit_and_the_rest_of_the_state_stays() -> None:
    pool = pool_sums({"east": sums(1 / 3), "far": sums(0.0), "south": sums(1e-300)})
    state = put_pool({"first/head.bias": np.ones(2)}, pool, STUDY)
    found = find_pool(state, STUDY)
    assert pool is not None
    assert found is not None
    assert found.clinics == ("east", "far", "south")
    assert found.totals.sums.tobytes() == pool.totals.sums.tobytes()
    assert state["first/head.bias"].tolist() == [1.0, 1.0]


def test_a_round_without_a_pool_forgets_the_one_before() -> None:
    state = put_pool(
        {"averaged": np.array(2)}, pool_sums({name: sums(1.0) for name in ("east", "far", "north")}), STUDY
    )
    assert list(put_pool(state, None, STUDY)) == ["averaged"]
    assert find_pool(put_pool(state, None, STUDY), STUDY) is None
