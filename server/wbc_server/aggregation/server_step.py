"""The server's step on the mean change, and what it carries from round to round (docs/method.md §2).

    sgd        θ ← θ + η·Δ
    FedAvgM    m ← β·m + Δ;                    θ ← θ + η·m              Hsu, Qi, Brown 2019 (arXiv 1909.06335)
    FedAdam    m ← β₁·m + (1 − β₁)·Δ,
               v ← β₂·v + (1 − β₂)·Δ²;         θ ← θ + η·m/(√v + τ)     Reddi et al., ICLR 2021, algorithm 2 (v₀ = τ²)

Moments and the running average of the last third of the rounds (SWA, Izmailov et al. 2018) are float64 arrays in one
`Arrays`, which the round book keeps beside each checkpoint: a resumed run goes on with the same bits.
"""

from collections.abc import Mapping

import numpy as np

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
    moved = {key: _moments(key, delta, state, settings) for key, delta in mean_delta.items()}
    steps = {key: _direction(first, second, settings) for key, (first, second) in moved.items()}
    state = {**state, **{_FIRST + key: first for key, (first, _) in moved.items()}}
    if settings.optimizer == "fedadam":
        state |= {_SECOND + key: second for key, (_, second) in moved.items()}
    return apply_step(model, steps, settings.step_size), state


def _moments(key: str, delta: Float64s, state: State, settings: AggregationSettings) -> tuple[Float64s, Float64s]:
    first = state.get(_FIRST + key, np.zeros_like(delta))
    if settings.optimizer == "fedavgm":
        return settings.momentum * first + delta, np.zeros(())
    second = state.get(_SECOND + key, np.full_like(delta, settings.adaptivity**2))
    beta = settings.second_momentum
    return settings.momentum * first + (1 - settings.momentum) * delta, beta * second + (1 - beta) * delta**2


def _direction(first: Float64s, second: Float64s, settings: AggregationSettings) -> Float64s:
    return first if settings.optimizer == "fedavgm" else first / (np.sqrt(second) + settings.adaptivity)


def is_averaged(round_number: int, rounds: int) -> bool:
    """Whether a round is in the last third, at least one round."""
    return round_number >= first_averaged_round(rounds)


def average_in(model: Mapping[str, np.ndarray], state: State, study: StudyConfig, round_number: int) -> State:
    """The state with a round's model in its running average, where the plan exports the average."""
    if study.evaluation.selection != "average" or not is_averaged(round_number, study.rounds):
        return state
    number = int(state.get(_AVERAGED, np.zeros(()))) + 1
    floats = {key: value for key, value in model.items() if np.issubdtype(value.dtype, np.floating)}
    means = {
        _AVERAGE + key: (mean := state.get(_AVERAGE + key, np.zeros(value.shape))) + (value - mean) / number
        for key, value in floats.items()
    }
    others = {key: state[key] for key in state if not key.startswith(_AVERAGE)}
    return {**others, **means, _AVERAGED: np.array(number, dtype=np.int64)}


def averaged_model(model: Mapping[str, np.ndarray], state: State) -> Arrays:
    """The average in the types of `model`; arrays that were not averaged (integer buffers) are those of `model`."""
    return {key: state.get(_AVERAGE + key, value).astype(value.dtype) for key, value in model.items()}
