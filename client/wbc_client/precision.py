"""In which floating-point numbers a clinic computes: fp32, or bf16 where its processor multiplies bf16 by itself.

In bf16 the convolutions' inputs, weights and products are rounded to bfloat16 (autocast); parameters, optimiser,
losses, softmax and distances stay fp32, and norms compute in fp32 on what was rounded. `auto` takes bf16 only where
the hardware has it natively, as emulated bf16 is slower than fp32: AVX512-BF16 or AMX on a CPU, Ampere or later on a
GPU. Other machines then give other bits; `fp32` is the setting for figures that shall be compared across machines.
The two questions to `torch.cpu` are private and stand here alone.
"""

from contextlib import AbstractContextManager
from typing import Literal

import torch

from wbc_common.settings.training import PrecisionSetting

Precision = Literal["fp32", "bf16"]
_CPU_QUESTIONS = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


def resolve_precision(setting: PrecisionSetting, device: torch.device) -> Precision:
    """What a setting means on a device; "bf16" is taken at its word even where it is emulated."""
    if setting != "auto":
        return setting
    return "bf16" if has_native_bf16(device) else "fp32"


def has_native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and any(getattr(torch.cpu, question)() for question in _CPU_QUESTIONS)


def computing_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """A context for forward passes; what comes out of it may be bf16 and is for the caller to make fp32 again."""
    # Each weight is used once per pass, so that a cache of rounded weights would gain nothing.
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)
