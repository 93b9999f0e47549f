"""Checkpoints that were cut short or had a bit flipped: how many of them are loaded. It should be none."""

import argparse
import random
import tempfile
from pathlib import Path

import numpy as np

from wbc_common.errors import DataError
from wbc_server.record import checkpoints


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--files", type=int, default=1000)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    draw = random.Random(given.seed)
    arrays = {"weight": np.arange(5000, dtype=np.float32), "bias": np.zeros(10, dtype=np.float32)}
    loaded = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        reference = checkpoints.save(folder, 1, arrays, {"round": "1"})
        whole = (folder / reference.file).read_bytes()
        for number in range(given.files):
            damaged = bytearray(whole)
            if number % 2:
                damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
            else:
                del damaged[draw.randrange(len(damaged)) :]
            (folder / reference.file).write_bytes(damaged)
            try:
                checkpoints.load(folder, reference)
                loaded += 1
            except DataError:
                continue
    print(f"{given.files} damaged checkpoints (half cut short, half with one bit flipped): {loaded} loaded")
    raise SystemExit(loaded > 0)


if __name__ == "__main__":
    main()
