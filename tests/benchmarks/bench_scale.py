"""Memory and time of studies of many tiny clinics, and of many rounds: one process each, in-process engine.

The cells of one clinic are rendered once and stand for all: what is measured is the engine, not the renderer.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from processes import watch

CASES = ((10, 2), (100, 2), (1000, 2), (10, 100))  # clinics, rounds


def main() -> None:
    """Print a row a study."""
    arguments = parse_arguments()
    if arguments.one:
        print(json.dumps(study_of(*arguments.one)))
        return
    print(f"{'clinics':>8}{'rounds':>8}{'s/round':>10}{'s in all':>10}{'peak MB':>10}{'report kB':>11}")
    for clinics, rounds in CASES:
        command = [sys.executable, __file__, "--one", str(clinics), str(rounds)]
        found = json.loads(watch(command, dict(os.environ)).output)
        print(
            f"{clinics:>8}{rounds:>8}{found['round']:>10.2f}{found['seconds']:>10.1f}"
            f"{found['peak_mb']:>10.0f}{found['report_kb']:>11.0f}",
            flush=True,
        )


def study_of(num_clinics: int, rounds: int) -> dict[str, float]:
    """Run one study in this process: a clinic in ten held out, 25 cells of 32 px each."""
    from wbc_common.study import parse_study
    from wbc_server.run_folder import RunFolder
    from wbc_simulations.clinics import phantom_cells
    from wbc_simulations.engine.engines import run_study
    from wbc_simulations.experiment import DataSource, Experiment, PhantomClinic
    from wbc_simulations.running import start_run

    names = [f"clinic-{number:04d}" for number in range(num_clinics)]
    held_out = names[::10]
    values = {
        "name": "many clinics",
        "rounds": rounds,
        "clinics": {"train": [name for name in names if name not in set(held_out)], "held_out": held_out},
        "images": {"size_px": 32, "framing": "as-is"},
        "training": {"local_epochs": 1},
        "evaluation": {"bootstrap_replicates": 200},
    }
    study = parse_study(values, "bench_scale")
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place) / "run")
        one = PhantomClinic(clinic="one", domain="dm96_mgg", cells=25, patients=8)
        start_run(Experiment(study=values, data=DataSource(kind="phantom", clinics=(one,))), study, folder)
        clinics = write_clinic_files(names, folder.path / "clinics", phantom_cells(one, study, seed=0))
        started = time.perf_counter()
        run_study(folder, clinics, "in-process")
        seconds = time.perf_counter() - started
        lines = folder.journal.read_text(encoding="utf-8").splitlines()
        return {
            "seconds": seconds,
            "round": sum(json.loads(line)["seconds"] for line in lines) / rounds,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "report_kb": folder.report.stat().st_size / 1024,
        }


def write_clinic_files(names: list[str], folder: Path, cells: Path) -> Path:
    """A clinic file each, all with the same cells."""
    import tomli_w

    folder.mkdir()
    for name in names:
        data = {"kind": "packed", "path": str(cells)}
        values = {"clinic": name, "study": "../study.toml", "state_dir": f"../sites/{name}", "data": data}
        (folder / f"{name}.toml").write_bytes(tomli_w.dumps(values).encode())
    return folder


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=2, type=int, metavar=("CLINICS", "ROUNDS"), help="only this study, as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
