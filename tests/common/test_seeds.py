"""Random numbers by purpose."""

import subprocess
import sys

import numpy as np
import torch

from wbc_common.seeds import derive_seed, numpy_generator, torch_generator


def test_a_seed_is_pinned_so_that_a_resumed_study_draws_the_same_in_a_later_version() -> None:
    # First 8 bytes of SHA-256("int:0" 0x1f "str:training" 0x1f "str:east" 0x1f "int:1"), as computed with sha256sum.
    assert derive_seed(0, "training", "east", 1) == 0xE5541E8B032CC2A2 >> 1


def test_the_seed_is_the_same_in_another_process_whatever_its_hash_seed() -> None:
    code = "from wbc_common.seeds import derive_seed; print(derive_seed('bootstrap', 'east'))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONHASHSEED": "7"}, check=True
    )
    assert int(done.stdout) == derive_seed("bootstrap", "east")


def test_any_part_changes_the_seed_even_where_the_text_joined_would_be_equal() -> None:
    seeds = [derive_seed(*parts) for parts in [("a", "b"), ("ab",), ("a", "b", ""), ("b", "a"), (1,), ("1",), (11,)]]
    assert len(set(seeds)) == len(seeds)


def test_seeds_fit_the_generators() -> None:
    seeds = [derive_seed("x", number) for number in range(200)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**61


def test_generators_repeat_for_the_same_purpose_and_differ_for_another() -> None:
    same = [torch.rand(4, generator=torch_generator(0, "training", "east", 1)) for _ in range(2)]
    other = torch.rand(4, generator=torch_generator(0, "training", "north", 1))
    assert torch.equal(*same)
    assert not torch.equal(same[0], other)
    assert np.array_equal(numpy_generator("a", 1).random(4), numpy_generator("a", 1).random(4))
    assert not np.array_equal(numpy_generator("a", 1).random(4), numpy_generator("a", 2).random(4))
