"""Random numbers that depend on what they are for, never on who ran before.

Every draw of a study comes from a generator seeded by (study seed, purpose, clinic, round …). So a clinic computes the
same bits in process, in another process, or after a restart, and a resumed run equals an uninterrupted one.
"""

import hashlib

import numpy as np
import torch


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from the named parts; any change of any part gives an unrelated seed."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(*parts: int | str, device: str = "cpu") -> torch.Generator:
    """A torch generator for the named purpose."""
    return torch.Generator(device=device).manual_seed(derive_seed(*parts))


def numpy_generator(*parts: int | str) -> np.random.Generator:
    """A numpy generator for the named purpose."""
    return np.random.default_rng(derive_seed(*parts))
