"""How many in-silico cells a second the renderer draws on one thread."""

import argparse
import statistics
import time

import torch

from wbc_common.cells import CLASSES_13
from wbc_simulations.phantom import Domain, domain_names, load_domain, render


def main() -> None:
    """Print a row a domain: the median rate of several repeats, with the slowest and the fastest."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    print(f"{arguments.cells} cells of {arguments.size_px} px, one thread, {arguments.repeats} repeats")
    print(f"{'domain':<20}{'cells/s':>10}{'slowest':>10}{'fastest':>10}")
    for name in arguments.domain or domain_names()[:2]:
        rates = measure(load_domain(name), arguments.cells, arguments.size_px, arguments.repeats)
        print(f"{name:<20}{statistics.median(rates):>10.1f}{min(rates):>10.1f}{max(rates):>10.1f}", flush=True)


def measure(domain: Domain, num_cells: int, size_px: int, repeats: int) -> list[float]:
    """Cells a second of each repeat, after one that warms up; every class in turn, four cells a patient."""
    classes = torch.arange(num_cells) % len(CLASSES_13)
    patients = torch.arange(num_cells) // 4
    rates = []
    for repeat in range(repeats + 1):
        started = time.perf_counter()
        render(classes, patients, domain, size_px=size_px, seed=repeat)
        rates.append(num_cells / (time.perf_counter() - started))
    return rates[1:]


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--domain", action="append", help="only this domain; may be given several times")
    parser.add_argument("--cells", type=int, default=64)
    parser.add_argument("--size-px", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
