"""SIGKILL at random moments on both sides of a running federation; then: is the final model the same to the bit?

Victims are drawn among the coordinator's ServerApp, SuperLink, SuperExec and gateway, and each clinic's trainer,
starter and SuperExec, or among those that --only names. Flower lets a SuperNode in again only when its lease has ended,
after a minute, so these are killed where named alone. With --moments a clinic's process is killed when its SuperNode's
log says that one of these has come, taken in turn: a task is there and its pieces are not, it is being worked on, its
answer is being sent. At the end the model is compared with that of the same plan run in one process without a kill.
"""

import argparse
import itertools
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from federations import CLINICS, Running, kill, running, same_bits, same_study_in_process, tiny_plan, wait_for

COORDINATOR = ("flwr-serverapp", "link.superlink", "flower-superexec", "link.gateway")
CLINIC = ("node.trainer", "node.starter", "flower-superexec")
SUPERNODE = "flower-supernode"
# The first words of a SuperNode's log at each moment.
MOMENTS = {"receiving": "Receiving: ", "working": "Received successfully", "sending": "Sending: "}
_MOMENT_SECONDS = 120.0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kills", type=int, default=10)
    options.add_argument("--rounds", type=int, default=6)
    options.add_argument("--pause", type=float, default=8.0, help="seconds between kills, on average")
    options.add_argument("--precision", default="int8", help="of the updates: fp32, fp16 or int8")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--side", choices=("both", "coordinator", "clinics"), default="both")
    options.add_argument("--only", nargs="+", choices=sorted({*COORDINATOR, *CLINIC, SUPERNODE}))
    options.add_argument("--moments", nargs="+", choices=MOMENTS, help="of clinics' processes; else at random")
    given = options.parse_args()
    wanted = given.only or [*COORDINATOR, *CLINIC]
    victims = [("coordinator", what) for what in COORDINATOR if what in wanted]
    victims += [(clinic.clinic, what) for clinic in CLINICS for what in (*CLINIC, SUPERNODE) if what in wanted]
    if given.side != "both":
        victims = [victim for victim in victims if (victim[0] == "coordinator") == (given.side == "coordinator")]
    with tempfile.TemporaryDirectory() as place:
        study = tiny_plan(rounds=given.rounds, transport={"update_precision": given.precision})
        with running(Path(place) / "federation", study) as found:
            began = time.monotonic()
            killed = kill_at_random(found, victims, given)
            wait_for(found.federation.report.exists, 900, found)
            seconds, load = time.monotonic() - began, os.getloadavg()[0]
            print(f"{killed} processes killed, {given.rounds} rounds in {seconds:.0f} s; load {load:.1f}")
            print(f"missing in a round: {', '.join(missing(found)) or 'nobody'}")
            federated = load_file(found.federation.coordinator / "run" / "model.safetensors")
        alone = load_file(same_study_in_process(found.federation, Path(place) / "alone"))
    same = same_bits(federated, alone)
    print(f"final model is {'the same to the bit' if same else 'NOT the same'} as without kills")
    raise SystemExit(not same)


def missing(found: Running) -> list[str]:
    """Clinics that a round went on without, by round."""
    lines = (found.federation.coordinator / "run" / "rounds.jsonl").read_text().splitlines()
    return [f"{absent['clinic']} ({absent['round']})" for line in lines for absent in json.loads(line)["missing"]]


def kill_at_random(found: Running, victims: list[tuple[str, str]], given: argparse.Namespace) -> int:
    """Start everything, then kill until enough were killed or the study is finished; how many were."""
    draw = random.Random(given.seed)
    found.start_coordinator()
    for clinic in found.federation.clinics:
        found.start_clinic(clinic)
    wait_for((found.federation.coordinator / "run" / "events.log").exists, 300, found)
    killed, moments = 0, itertools.cycle(given.moments or [""])
    while killed < given.kills and not found.federation.report.exists():
        side, what = draw.choice(victims)
        moment = next(moments) if side != "coordinator" else ""
        if moment:
            await_moment(found, side, moment)
        if kill(found.processes[side], what):
            killed += 1
            when = f", {moment}," if moment else ""
            print(f"{killed}: {what} of {side}{when} after round {found.rounds_done()}", flush=True)
        time.sleep(draw.uniform(0, 2 * given.pause))
    return killed


def await_moment(found: Running, clinic: str, moment: str) -> None:
    """Wait until the log of a clinic's SuperNode says that it has come, or until the study is finished."""
    log = found.federation.clinics[clinic] / "state" / "node" / "supernode.log"
    end = time.monotonic() + _MOMENT_SECONDS
    wait_for(log.exists, _MOMENT_SECONDS, found)
    with log.open() as lines:
        lines.seek(0, os.SEEK_END)
        while time.monotonic() < end and not found.federation.report.exists():
            if MOMENTS[moment] in lines.read():
                return
            time.sleep(0.001)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
