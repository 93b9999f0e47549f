"""GroupNorm, max pool and ReLU in one go for bf16 activations on one thread of a CPU, where a C compiler is at hand.

torch makes six passes over a block's activations and six over their gradients, most of them in fp32. `norm_pool.c`
reads what the convolution wrote, in bf16, and writes the block's result; `tests/benchmarks/bench_step.py` measures a
step. Statistics, factors and sums are float32 or wider; input and output are rounded to bf16, as the next convolution
would round them anyway. On more threads torch shares the work, which this does not: then torch's way is taken.
"""

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wbc_common.compiled import load_library

SOURCE = Path(__file__).with_name("norm_pool.c")
_MOST_CHANNELS = 1024


class _Shape(ctypes.Structure):
    _fields_ = (*((name, ctypes.c_int) for name in ("B", "H", "W", "C", "G", "pool")), ("eps", ctypes.c_float))


def can_fuse(y: Tensor, *, pool: bool) -> bool:
    """Whether `norm_pool_relu` takes these activations [B, C, H, W]."""
    if y.dtype != torch.bfloat16 or y.device.type != "cpu" or torch.get_num_threads() > 1:
        return False
    even = y.shape[2] % 2 == 0 and y.shape[3] % 2 == 0
    return (even or not pool) and y.shape[1] <= _MOST_CHANNELS and load_library(SOURCE) is not None


def norm_pool_relu(y: Tensor, weight: Tensor, bias: Tensor, *, groups: int, eps: float, pool: bool) -> Tensor:
    """ReLU of the 2 × 2 max pool, where `pool` is set, of the GroupNorm of bf16 [B, C, H, W]; the result is bf16.

    `weight` and `bias` are float32 [C].
    """
    result: Tensor = _NormPoolReLU.apply(y, weight, bias, groups, pool, eps)  # type: ignore[no-untyped-call]
    return result


class _NormPoolReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor, bias: Tensor, groups: int, pool: bool, eps: float) -> Tensor:
        y = y.contiguous(memory_format=torch.channels_last)
        batch, channels, height, width = y.shape
        shape = _Shape(batch, height, width, channels, groups, pool, eps)
        size = (batch, channels, height // 2, width // 2) if pool else y.shape
        z = torch.empty(size, dtype=torch.bfloat16, memory_format=torch.channels_last)
        mean, rstd = torch.empty(batch, groups), torch.empty(batch, groups)
        _call("norm_pool_forward", shape, y, weight, bias, z, mean, rstd)
        ctx.shape = shape
        ctx.save_for_backward(y, weight, bias, mean, rstd)
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gz: Tensor) -> tuple[Tensor | None, ...]:
        y, weight, bias, mean, rstd = ctx.saved_tensors
        gz = gz.contiguous(memory_format=torch.channels_last)
        gy, gweight, gbias = torch.empty_like(y), torch.zeros_like(weight), torch.zeros_like(bias)
        _call("norm_pool_backward", ctx.shape, y, gz, weight, bias, mean, rstd, gy, gweight, gbias)
        return gy, gweight, gbias, None, None, None


def _call(function: str, shape: _Shape, *tensors: Tensor) -> None:
    """Call into the library, which `can_fuse` has loaded; Python's lock is free meanwhile."""
    library = load_library(SOURCE)
    assert library is not None, "can_fuse was not asked"
    getattr(library, function)(ctypes.byref(shape), *(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors))
