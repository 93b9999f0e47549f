"""Which device a clinic computes on, and the switches that make it compute the same twice and not wait for memory."""

import ctypes
from contextlib import suppress

import torch

from wbc_common.errors import SettingError

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


def choose_device(name: str) -> torch.device:
    """The device of a clinic file: "auto" takes a GPU when there is one.

    Raises:
        SettingError: a GPU is named and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingError(
            f"device = '{name}', but torch sees no GPU",
            remedy="check nvidia-smi, or set device = 'auto'",
        )
    return device


def compute_reproducibly() -> None:
    """Choose cuDNN's deterministic kernels; on a CPU the same thread count gives the same bits already."""
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def keep_freed_memory() -> None:
    """Let glibc keep up to 256 MiB of freed memory for the next step, where it would hand it back after each.

    A step's activations are a few MB each: fetched anew they cost a page fault per 4 kB. Other C libraries are left
    alone. From then on blocks of 32 MiB or more are always handed back, as glibc does by itself at the most.
    """
    with suppress(OSError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_MMAP_THRESHOLD, 32 * 2**20)
        libc.mallopt(_TRIM_THRESHOLD, 256 * 2**20)


def as_input(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A batch [B, 3, H, W] on its device, channels last in memory: convolutions and pooling are faster so."""
    return images.to(device, memory_format=torch.channels_last)
