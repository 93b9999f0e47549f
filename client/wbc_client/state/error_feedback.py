"""What rounding takes off an update stays here and is added to the next one (docs/method.md §10).

    sent_t = Q(Δ_t + e_{t−1}),   e_t = Δ_t + e_{t−1} − sent_t        Seide et al. 2014; Karimireddy et al., ICML 2019

So Σ sent = Σ Δ − e_T: over the rounds nothing is lost but the last rest. The rest is kept in a file of the round, so
that a round that is asked again gives the same bytes. An array that is not sent any more (the backbone in head-only
rounds) loses its rest. An update that is not finite leaves no rest: it would spoil all that follow.
"""

from dataclasses import replace

import numpy as np

from wbc_client.clinic import Clinic
from wbc_client.state.round_memory import keep, recall_last
from wbc_common.wire import Arrays, Update, as_received

_WHAT = "update-rest"


def compensate(clinic: Clinic, update: Update, round_number: int) -> Update:
    """The update to send in the plan's precision: with the rest of the last one, and its own rest kept."""
    precision, plan, state = clinic.study.transport.update_precision, clinic.study.hash, clinic.site.state_dir
    if precision == "fp32":
        return update
    rest = recall_last(state, _WHAT, study_hash=plan, before=round_number) or {}
    wanted = {key: value + rest[key] if key in rest else value for key, value in update.delta.items()}
    if all(np.isfinite(value).all() for value in wanted.values()):
        keep(state, _WHAT, _rest(wanted, as_received(wanted, precision)), study_hash=plan, round_number=round_number)
    return replace(update, delta=wanted, sent_as=precision)


def _rest(wanted: Arrays, received: Arrays) -> Arrays:
    return {key: value - received[key] for key, value in wanted.items() if value.dtype == np.float32}
