"""The server's optimisers on the mean change, by numbers worked by hand, and what has to survive a restart."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from wbc_common.study import AggregationSettings, StudyConfig, parse_study
from wbc_common.wire import Arrays
from wbc_server.aggregation.server_step import average_in, averaged_model, is_averaged, take_step
from wbc_server.record import checkpoints


def model(value: float = 1.0) -> Arrays:
    return {"backbone.weight": np.full(2, value, np.float32), "steps": np.array(7)}


def change(value: float) -> dict[str, np.ndarray]:
    return {"backbone.weight": np.full(2, value)}


def a_study(selection: str = "average", rounds: int = 6) -> StudyConfig:
    clinics = {"train": ["a", "b"]}
    return parse_study(
        {"name": "s", "rounds": rounds, "clinics": clinics, "evaluation": {"selection": selection}}, "test"
    )


def test_plain_steps_carry_nothing_along() -> None:
    stepped, state = take_step(model(), change(0.5), {}, AggregationSettings(step_size=2.0))
    assert stepped["backbone.weight"].tolist() == [2, 2]
    assert state == {}


def test_momentum_adds_up_over_rounds() -> None:
    settings = AggregationSettings(optimizer="fedavgm", momentum=0.5)
    first, state = take_step(model(), change(1.0), {}, settings)  # m = 1: 1 + 1
    second, state = take_step(first, change(1.0), state, settings)  # m = 1.5: 2 + 1.5
    third, _ = take_step(second, change(0.0), state, settings)  # m = 0.75
    assert [stepped["backbone.weight"][0] for stepped in (first, second, third)] == [2, 3.5, 4.25]
    assert first["backbone.weight"].dtype == np.float32
    assert first["steps"] == 7


def test_adam_steps_by_the_ratio_of_its_moments() -> None:
    settings = AggregationSettings(
        optimizer="fedadam", step_size=0.1, momentum=0.9, second_momentum=0.99, adaptivity=0.1
    )
    first, state = take_step(model(0.0), change(2.0), {}, settings)
    m, v = 0.1 * 2, 0.99 * 0.01 + 0.01 * 4
    assert first["backbone.weight"][0] == pytest.approx(0.1 * m / (v**0.5 + 0.1))
    second, _ = take_step(first, change(-1.0), state, settings)
    m, v = 0.9 * m - 0.1, 0.99 * v + 0.01
    expected = float(first["backbone.weight"][0]) + 0.1 * m / (v**0.5 + 0.1)
    assert second["backbone.weight"][0] == pytest.approx(expected)


def test_arrays_without_a_change_keep_value_and_moments() -> None:
    settings = AggregationSettings(optimizer="fedavgm")
    _, state = take_step(model(), change(1.0), {}, settings)
    stepped, after = take_step(model(), {}, state, settings)
    assert stepped["backbone.weight"].tolist() == [1, 1]
    assert after["first/backbone.weight"].tolist() == [1, 1]


@pytest.mark.parametrize(("rounds", "first"), [(6, 5), (7, 5), (1, 1), (2, 2), (9, 7)])
def test_the_average_begins_with_the_last_third(rounds: int, first: int) -> None:
    assert [number for number in range(1, rounds + 1) if is_averaged(number, rounds)] == list(range(first, rounds + 1))


def test_the_average_is_that_of_the_last_third_of_the_rounds() -> None:
    state: Arrays = {}
    for number in range(1, 7):
        state = average_in(model(float(number**2)), state, a_study(), number)
    found = averaged_model(model(), state)
    assert found["backbone.weight"].tolist() == [(25 + 36) / 2] * 2
    assert found["backbone.weight"].dtype == np.float32
    assert found["steps"] == 7


@pytest.mark.parametrize("optimizer", ["fedavgm", "fedadam"])
def test_what_is_carried_along_is_written_and_read_array_by_array(optimizer: str, tmp_path: Path) -> None:
    deltas = {f"backbone.{number}": np.ones(500_000) for number in range(8)}  # 32 MB
    before = {key: np.zeros(500_000, np.float32) for key in deltas}
    tracemalloc.start()
    try:
        stepped, state = take_step(before, deltas, {}, AggregationSettings(optimizer=optimizer))
        state = average_in(stepped, state, a_study(), 5)
        reference = checkpoints.save(tmp_path, 5, state, {})
        loaded = checkpoints.load(tmp_path, reference)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16e6 + 20e6  # the model, and a few arrays of 4 MB
    assert loaded.keys() == state.keys()
    assert all((loaded[key] == state[key]).all() for key in loaded)


def test_a_plan_that_exports_a_round_averages_nothing() -> None:
    assert average_in(model(), {}, a_study("last"), 6) == {}
