"""Studies with DP-SGD, personal heads, federated stain and head-only rounds between real processes over TLS.

Each runs as a federation of three clinics on loopback, and in one process on the same cells: is the final model the
same to the bit, and are all figures? DP-SGD draws its noise from secrets of each clinic and never repeats; there the
clinics' spent budgets are compared.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from federations import running, same_bits, same_study_in_process, tiny_plan, wait_for

TRAINING = {"local_epochs": 1, "batch_size": 16}
STUDIES: dict[str, dict[str, object]] = {
    "dp-sgd": {
        "privacy": {"mode": "dp-sgd", "epsilon": 20.0, "delta": 1e-3},
        "training": {**TRAINING, "optimizer": "sgd", "learning_rate": 0.05},
    },
    "personal": {"personal": {"clinics": ["north"], "epochs": 2}},
    "federated-stain": {"training": {**TRAINING, "augmentation": "federated-stain"}},
    "head-only": {"training": {**TRAINING, "head_only_rounds": 2}},
}
_NOT_FIGURES = ("seconds", "egress_bytes")  # wall time; bytes have the length of clocks in them


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("studies", nargs="*", default=[], help=f"of {', '.join(STUDIES)}; default: all")
    given = options.parse_args()
    different = [name for name in given.studies or STUDIES if not try_one(name, STUDIES[name])]
    raise SystemExit(f"not the same: {', '.join(different)}" if different else 0)


def try_one(name: str, settings: dict[str, object]) -> bool:
    """Run one study both ways; whether what must be the same is the same."""
    with tempfile.TemporaryDirectory() as place:
        began = time.monotonic()
        with running(Path(place) / "federation", tiny_plan(name=name, **settings)) as found:
            found.start_coordinator()
            for clinic in found.federation.clinics:
                found.start_clinic(clinic)
            wait_for(found.federation.report.exists, 500, found)
            seconds = time.monotonic() - began
        run = found.federation.coordinator / "run"
        alone = same_study_in_process(found.federation, Path(place) / "alone").parent
        bits = same_bits(load_file(run / "model.safetensors"), load_file(alone / "model.safetensors"))
        one, other = read_figures(run), read_figures(alone)
    if name == "dp-sgd":
        print(f"{name}: {seconds:.0f} s; model differs, as it must: {not bits}; spent: {one['privacy']}")
        return one["privacy"] == other["privacy"] and not bits
    told = [key for key in one if one[key] != other[key]]
    print(
        f"{name}: {seconds:.0f} s; model the same to the bit: {bits}; figures that differ: {', '.join(told) or 'none'}"
    )
    return bits and not told


def read_figures(run: Path) -> dict[str, object]:
    """The figures of a run that do not depend on how it was run."""
    metrics: dict[str, object] = json.loads((run / "metrics.json").read_text())
    return {key: value for key, value in metrics.items() if key not in _NOT_FIGURES}


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
