"""Random numbers that belong to one cell, whatever else is rendered beside it.

A counter-based generator: every draw is a hash of (seed, domain, purpose, identity of the cell or patient). So a
cell looks the same in a batch of one and in a batch of thousands, and a new parameter leaves all other draws as
they were. A sequential generator would tie a cell to its place in the batch. The hash is the finaliser of
SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), on int64 tensors.
"""

import functools
import math
from dataclasses import dataclass

import torch

from wbc_common.seeds import derive_seed

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
_TAIL = 0.0062  # normals are cut at ±2.5 standard deviations: no parameter leaves its plausible range


def _shifted(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical right shift of int64; torch's own is arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finaliser, elementwise on int64."""
    x = x + _GOLDEN
    x = (x ^ _shifted(x, 30)) * _MIX_1
    x = (x ^ _shifted(x, 27)) * _MIX_2
    return x ^ _shifted(x, 31)


@functools.lru_cache(maxsize=8192)
def _keys(seed: int, name: str, count: int, device: str) -> torch.Tensor:
    """What tells a purpose's draws from another's, int64 [count]; kept, since every chunk asks for the same ones."""
    return mix(torch.arange(count, device=device) + derive_seed(seed, name))


@dataclass(frozen=True)
class Draws:
    """Named draws for B things, each known by one int64.

    Attributes:
        seed: of the purpose (study seed, domain, "cell" or "patient"), from `derive_seed`.
        identity: int64 [B].
    """

    seed: int
    identity: torch.Tensor

    def uniform(self, name: str, count: int = 1) -> torch.Tensor:
        """Uniform on [0, 1), float32 [B, count]."""
        bits = mix(self.identity[:, None] ^ _keys(self.seed, name, count, str(self.identity.device)))
        return (_shifted(bits, 40).to(torch.float32)) * 2.0**-24  # [B, count]

    def between(self, name: str, low: float, high: float, count: int = 1) -> torch.Tensor:
        """Uniform on [low, high), float32 [B, count]."""
        return low + (high - low) * self.uniform(name, count)

    def normal(self, name: str, count: int = 1) -> torch.Tensor:
        """Standard normal, cut at ±2.5, float32 [B, count]."""
        centred = self.uniform(name, count).clamp(_TAIL, 1 - _TAIL) * 2 - 1
        return torch.erfinv(centred) * math.sqrt(2.0)

    def chance(self, name: str, probability: torch.Tensor | float) -> torch.Tensor:
        """1.0 with the given probability, else 0.0, float32 [B, 1]."""
        return (self.uniform(name) < probability).to(torch.float32)

    def angle(self, name: str, count: int = 1) -> torch.Tensor:
        """An angle in radians on [0, 2π), float32 [B, count]."""
        return self.between(name, 0.0, 2 * math.pi, count)
