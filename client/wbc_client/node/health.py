"""How a clinic's node is, for whoever asks from outside: `wbc-client status`, a service manager, a container's check.

The node writes its state beside its ledger and touches the file while it works; a lock that the kernel frees with its
process tells whether it lives. So a node that was killed is not taken for a well one, nor is one that hangs, nor one
whose trainer cannot open the clinic: a node serves once its trainer does.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wbc_client.site import Site
from wbc_common.errors import ConnectionFailure, PolicyError, SettingError, WbcError
from wbc_common.files import write_atomically
from wbc_common.locks import holding, is_held

State = Literal["up", "registered", "opening", "failing", "approved", "training"]
_TOUCH_SECONDS = 5.0
_HANGS_AFTER_SECONDS = 120.0  # longer than ending processes and asking an unreachable coordinator takes


@dataclass
class StateFile:
    """The node's side: `state/node.json`, written when the state changes and touched while the node works."""

    path: Path
    state: State | None = None
    _touched_at: float = 0.0

    def note(self, state: State) -> bool:
        """Write the state down; whether it is another one than before."""
        if state != self.state:
            self.state = state
            write_atomically(self.path, json.dumps({"state": state, "since": round(time.time())}).encode())
            return True
        if time.monotonic() - self._touched_at > _TOUCH_SECONDS:
            self._touched_at = time.monotonic()
            self.path.touch()
        return False


@dataclass(frozen=True)
class Health:
    """What `wbc-client status` tells.

    Attributes:
        state: one of a node's states, or `stopped`, or `hangs`; it serves where it is `approved` or `training`.
        since: seconds since 1970 at which the state began; None without a node.
        error: what is wrong and what to do; None where the node serves.
    """

    state: State | Literal["stopped", "hangs"]
    since: int | None = None
    error: WbcError | None = field(default=None, compare=False)


def state_path(site: Site) -> Path:
    """Where the node of a clinic writes its state."""
    return site.state_dir / "node.json"


@contextmanager
def only_node(site: Site) -> Iterator[None]:
    """Hold the clinic's lock while its node runs.

    Raises:
        SettingError: a node of this clinic runs already.
    """
    taken = SettingError(
        f"a node of clinic {site.clinic} runs with {site.state_dir}", remedy="see wbc-client status; end the other one"
    )
    with holding(_lock(site), taken):
        yield


def read_health(site: Site) -> Health:
    """How the node of a clinic is."""
    if not is_held(_lock(site)):
        stopped = WbcError(f"no node of clinic {site.clinic} runs", remedy="start it: wbc-client start clinic.toml")
        return Health("stopped", error=stopped)
    try:
        values = json.loads(state_path(site).read_text(encoding="utf-8"))
        silent_seconds = time.time() - state_path(site).stat().st_mtime
    except (OSError, ValueError):
        return Health("up", error=_error(site, "up"))  # it has just started
    if silent_seconds > _HANGS_AFTER_SECONDS:
        hangs = WbcError(f"the node gave no sign for {silent_seconds:.0f} s", remedy="end it and start it again")
        return Health("hangs", error=hangs)
    return Health(values["state"], values["since"], _error(site, values["state"]))


def trainer_log(site: Site) -> Path:
    """Where the trainer of a clinic says what it does and why it ended."""
    return site.state_dir / "node" / "trainer.log"


def _error(site: Site, state: str) -> WbcError | None:
    """What is wrong in a state and what to do; None where the node serves."""
    errors: dict[str, WbcError] = {
        "up": ConnectionFailure(
            "the node runs; the coordinator does not answer it, or does not know its key",
            remedy="wbc-client check clinic.toml names the hop that fails",
        ),
        "registered": PolicyError(
            "the node runs and is known to the coordinator; the plan here is not approved",
            remedy="read it and agree to it: wbc-client approve clinic.toml",
        ),
        "opening": WbcError(
            "the node runs and is approved; its trainer still opens the cells",
            remedy=f"wait; if it takes too long see {trainer_log(site)}",
        ),
        "failing": WbcError(
            "the node runs and is approved; its trainer ended and none serves since, though it is started again",
            remedy=f"{trainer_log(site)} says why at its end; wbc-client check clinic.toml opens the same cells",
        ),
    }
    return errors.get(state)


def _lock(site: Site) -> Path:
    return site.state_dir / "node.lock"
