"""Trimmed mean against SciPy, Krum against a slow loop over its definition."""

import itertools

import numpy as np
import pytest
from scipy.stats import trim_mean

from wbc_common.study import AggregationSettings
from wbc_server.aggregation.robust import OrderStatistic, aggregate_of, krum_choice
from wbc_server.aggregation.weighted_sum import WeightedSum


def updates(number: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(seed)
    shapes = {"backbone.weight": (3, 4), "head.bias": (5,)}
    return [
        {key: generator.normal(size=shape).astype(np.float32) for key, shape in shapes.items()} for _ in range(number)
    ]


def aggregate(found: list[dict[str, np.ndarray]], settings: AggregationSettings) -> dict[str, np.ndarray]:
    total = aggregate_of(settings)
    for weight, update in enumerate(found, start=1):
        total.add(update, float(weight), np.full(5, float(weight)))
    return total.mean()


def test_the_trimmed_mean_is_scipys_whatever_the_weights() -> None:
    found = updates(7)
    mean = aggregate(found, AggregationSettings(robust="trimmed-mean", trim_fraction=0.3))
    for key in found[0]:
        stacked = np.stack([update[key] for update in found]).astype(np.float64)
        np.testing.assert_allclose(mean[key], trim_mean(stacked, 0.3, axis=0), rtol=1e-12)


def test_one_wild_clinic_does_not_move_the_trimmed_mean() -> None:
    found = updates(5)
    wild = [{key: value * 1e9 for key, value in found[0].items()}, *found[1:]]
    mean = aggregate(wild, AggregationSettings(robust="trimmed-mean", trim_fraction=0.2))
    assert max(float(np.abs(value).max()) for value in mean.values()) < 5


@pytest.mark.parametrize("num_malicious", [0, 1, 2])
def test_krum_selects_by_its_definition(num_malicious: int) -> None:
    found = updates(7, seed=3)
    flat = [np.concatenate([value.ravel() for value in update.values()]).astype(np.float64) for update in found]
    scores = []
    for one in range(7):
        squares = [float(np.square(flat[one] - flat[other]).sum()) for other in range(7) if other != one]
        nearest = min(sum(chosen) for chosen in itertools.combinations(squares, 7 - num_malicious - 2))
        scores.append(nearest)
    assert krum_choice(found, num_malicious) == int(np.argmin(scores))


def test_krum_hands_out_one_clinics_update_and_never_the_wild_one() -> None:
    found = updates(5)
    found[2] = {key: value + 1e6 for key, value in found[2].items()}
    mean = aggregate(found, AggregationSettings(robust="krum", krum_malicious=1))
    chosen = krum_choice(found, 1)
    assert chosen != 2
    np.testing.assert_array_equal(mean["head.bias"], found[chosen]["head.bias"].astype(np.float64))


def test_krum_of_one_update_is_that_update() -> None:
    assert krum_choice(updates(1), 0) == 0


def test_nothing_added_is_no_change_and_the_default_is_the_weighted_sum() -> None:
    assert OrderStatistic(AggregationSettings(robust="krum")).mean() == {}
    assert isinstance(aggregate_of(AggregationSettings()), WeightedSum)
