"""A whole federation confined as the containers of deploy/ confine it, on a Linux machine without Docker. Needs root.

Each role runs in a mount namespace of its own whose root is read-only, as user 10001, without any capability and with
no_new_privs; the coordinator may write its study's folder, a clinic its state, and each a folder for temporary files.
First a probe tries to write elsewhere and to a clinic's key.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from federations import CLINICS, tiny_plan
from wbc_common.processes import flower_command
from wbc_simulations.federation import Federation, end, lay_out

USER = "10001"
_CONFINE = """
set -eu
writable=$1; temporary=$2; shift 2
mount --make-rprivate /
mount --bind "$writable" "$writable"
mount --bind "$temporary" "$temporary"
case "$BASE" in /root/*)  # an interpreter in a home that no other user may enter
  mkdir -p "$temporary/python"
  mount --bind "$BASE" "$temporary/python"
  mount -t tmpfs -o mode=755 tmpfs /root
  mkdir -p "$BASE"
  mount --bind "$temporary/python" "$BASE" ;;
esac
for place in $(awk '$3 != "proc" && $3 != "cgroup2" && $4 ~ /^rw/ {print $2}' /proc/mounts | sort -u); do
  case "$place" in "$writable"|"$temporary"|/dev*|/sys*) ;; *) mount -o remount,bind,ro "$place" ;; esac
done
export HOME="$temporary" TMPDIR="$temporary" OMP_NUM_THREADS=1
exec setpriv --reuid "$0" --regid "$0" --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all -- "$@"
"""
_PROBE = """
import os, sys
from pathlib import Path
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
told = {key: status[key].strip() for key in ("CapEff", "CapBnd", "NoNewPrivs")}
print("user", os.getuid(), told)
for place in sys.argv[1:]:
    try:
        with open(place, "ab"):
            print(place, "can be written")
    except OSError as error:
        print(Path(place).name, "cannot be written:", error.strerror)
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        os.environ["BASE"] = sys.base_prefix
        os.environ["WBC_CACHE"] = str(place / "cache")
        federation = lay_out(place / "federation", CLINICS, tiny_plan(rounds=2))
        for clinic in federation.clinics.values():
            (clinic / "state").mkdir(exist_ok=True)
        subprocess.run(["chown", "-R", f"{USER}:{USER}", name], check=True)
        probe(federation, place)
        began = time.monotonic()
        processes = [confined(place, "coordinator", federation.coordinator, "wbc-server", str(federation.coordinator))]
        for clinic, folder in federation.clinics.items():
            processes.append(confined(place, clinic, folder / "state", "wbc-client", str(folder / "clinic.toml")))
        try:
            code = processes[0].wait(500)
        finally:
            for process in reversed(processes):
                end(process)
        print(f"coordinator left with code {code} after {time.monotonic() - began:.0f} s")
        print(f"report written: {federation.report.exists()}")
        if code:
            print((place / "coordinator.log").read_text())
        raise SystemExit(code or not federation.report.exists())


def confined(place: Path, role: str, writable: Path, program: str, target: str) -> "subprocess.Popen[bytes]":
    """Start one of our commands, confined."""
    with (place / f"{role}.log").open("ab") as log:
        command = wrapped(place / f"tmp-{role}", writable, [flower_command(program), "start", target])
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)


def wrapped(temporary: Path, writable: Path, command: list[str]) -> list[str]:
    """A command line that confines a command."""
    temporary.mkdir(exist_ok=True)
    temporary.chmod(0o777)
    return ["unshare", "--mount", "bash", "-c", _CONFINE, USER, str(writable), str(temporary), *command]


def probe(federation: Federation, place: Path) -> None:
    """Say who a confined process is and what it cannot write."""
    clinic = next(iter(federation.clinics.values()))
    places = [str(clinic / "keys" / "clinic.key"), str(clinic / "study.toml"), "/etc/passwd", str(place / "anything")]
    command = [sys.executable, "-c", _PROBE, *places]
    done = subprocess.run(wrapped(place / "tmp-probe", clinic / "state", command), capture_output=True, text=True)
    print(done.stdout + done.stderr, flush=True)
    if done.returncode or "can be written" in done.stdout:
        raise SystemExit("not confined")


if __name__ == "__main__":
    main()
