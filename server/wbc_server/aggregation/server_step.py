"""The server's step on the mean change, and what it carries from round to round (docs/method.md §2).

    sgd        θ ← θ + η·Δ
    FedAvgM    m ← β·m + Δ;                    θ ← θ + η·m              Hsu, Qi, Brown 2019 (arXiv 1909.06335)
    FedAdam    m ← β₁·m + (1 − β₁)·Δ,
               v ← β₂·v + (1 − β₂)·Δ²;         θ ← θ + η·m/(√v + τ)     Reddi et al., ICLR 2021, algorithm 2 (v₀ = τ²)

Moments and the running average of the last third of the rounds (SWA, Izmailov et al. 2018) are float64 arrays, which
the round book keeps beside each checkpoint: a resumed run goes on with the same bits. They are twice as long as the
model or more, so they are worked out array by array as they are looked up, from those of the round before on disk.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from wbc_common.lazily import Lazily, with_arrays
from wbc_common.study import AggregationSettings, StudyConfig
from wbc_common.wire import Arrays
from wbc_server.aggregation.weights import Float64s, apply_step
from wbc_server.selection import first_averaged_round

State = Mapping[str, np.ndarray]

_FIRST, _SECOND, _AVERAGE, _AVERAGED = "first/", "second/", "average/", "averaged"


def take_step(
    model: Mapping[str, np.ndarray], mean_delta: Mapping[str, Float64s], state: State, settings: AggregationSettings
) -> tuple[Arrays, State]:
    """The model and the state after a round; arrays without a change keep their value and their moments.

    Args:
        model: as the clinics received it.
        mean_delta: the aggregate, float64; fewer arrays than the model in head-only rounds.
        state: what this function gave after the round before; empty at first.
    """
    if settings.optimizer == "sgd":
        return apply_step(model, mean_delta, settings.step_size), state
    firsts = {key: partial(_first, key, mean_delta, state, settings) for key in mean_delta}
    seconds = {key: partial(_second, key, mean_delta, state, settings) for key in mean_delta}
    if settings.optimizer == "fedavgm":
        stepped = apply_step(model, Lazily(firsts), settings.step_size)
        return stepped, with_arrays(state, {_FIRST + key: first for key, first in firsts.items()})
    steps = {key: partial(_adam, firsts[key], seconds[key], settings.adaptivity) for key in mean_delta}
    moments = {_FIRST + key: first for key, first in firsts.items()}
    moments |= {_SECOND + key: second for key, second in seconds.items()}
    return apply_step(model, Lazily(steps), settings.step_size), with_arrays(state, moments)


def _first(key: str, deltas: Mapping[str, Float64s], state: State, settings: AggregationSettings) -> Float64s:
    delta = deltas[key]
    before = state.get(_FIRST + key, np.zeros_like(delta))
    weight = 1 if settings.optimizer == "fedavgm" else 1 - settings.momentum
    return np.asarray(settings.momentum * before + weight * delta)


def _second(key: str, deltas: Mapping[str, Float64s], state: State, settings: AggregationSettings) -> Float64s:
    delta, beta = deltas[key], settings.second_momentum
    before = state.get(_SECOND + key, np.full_like(delta, settings.adaptivity**2))
    return np.asarray(beta * before + (1 - beta) * delta**2)


def _adam(first: Callable[[], Float64s], second: Callable[[], Float64s], adaptivity: float) -> Float64s:
    return np.asarray(first() / (np.sqrt(second()) + adaptivity))


def is_averaged(round_number: int, rounds: int) -> bool:
    """Whether a round is in the last third, at least one round."""
    return round_number >= first_averaged_round(rounds)


def average_in(model: Mapping[str, np.ndarray], state: State, study: StudyConfig, round_number: int) -> State:
    """The state with a round's model in its running average, where the plan exports the average."""
    if study.evaluation.selection != "average" or not is_averaged(round_number, study.rounds):
        return state
    number = int(state.get(_AVERAGED, np.zeros(()))) + 1
    floats = [key for key, value in model.items() if np.issubdtype(value.dtype, np.floating)]
    means = {_AVERAGE + key: partial(_averaged, key, model, state, number) for key in floats}
    return with_arrays(state, {**means, _AVERAGED: partial(np.array, number, dtype=np.int64)})


def _averaged(key: str, model: Mapping[str, np.ndarray], state: State, number: int) -> Float64s:
    """mean + (value − mean)/number, in few arrays."""
    mean = state.get(_AVERAGE + key, np.zeros(model[key].shape))
    change: Float64s = np.asarray(model[key] - mean)
    change /= number
    change += mean
    return change


def averaged_model(model: Mapping[str, np.ndarray], state: State) -> Arrays:
    """The average in the types of `model`; arrays that were not averaged (integer buffers) are those of `model`."""
    return {key: state.get(_AVERAGE + key, value).astype(value.dtype) for key, value in model.items()}
