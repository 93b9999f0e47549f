"""Which device a clinic computes on, how it computes the same twice, and what to do when its memory is full."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from wbc_common.errors import DeviceError, SettingError


def choose_device(name: str) -> torch.device:
    """The device of a clinic file: "auto" takes a GPU when there is one.

    Raises:
        SettingError: a GPU is named and there is none, or none of that number.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingError(
            f"device = '{name}', but torch sees no GPU",
            remedy="check nvidia-smi, or set device = 'auto'",
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingError(
            f"device = '{name}', but torch sees {torch.cuda.device_count()} GPU(s), numbered from 0",
            remedy="check nvidia-smi and CUDA_VISIBLE_DEVICES, or set device = 'auto'",
        )
    return device


def describe_device(device: torch.device) -> str:
    """A device in words: a GPU's name and memory, or how many threads of the CPU."""
    if device.type != "cuda":
        return f"{device}, {torch.get_num_threads()} threads"
    free, total = torch.cuda.mem_get_info(device)
    return f"{device}, {torch.cuda.get_device_name(device)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"


def take_share(device: torch.device, share: float) -> None:
    """Let this process use at most a share of a GPU's memory, so that clinics or other programs can have the rest."""
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(share, device.index or 0)


@contextmanager
def memory_of(device: torch.device) -> Iterator[None]:
    """Say what to do when the device has too little memory for the work done within.

    Raises:
        DeviceError: that happened.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        traceback.clear_frames(error.__traceback__)  # the frames that failed hold their tensors until then
        torch.cuda.empty_cache()
        raise DeviceError(
            f"too little memory on {describe_device(device)}",
            remedy="end other programs on it (nvidia-smi shows them), raise gpu_share, or set device = 'cpu'",
        ) from error


def compute_reproducibly() -> None:
    """Choose cuDNN's deterministic kernels, and fp32 where fp32 is said; a CPU gives the same bits already.

    By default cuDNN rounds fp32 convolutions to TF32's 10 bits, and a GPU's figures would not be comparable to a CPU's.
    """
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False


def as_input(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A batch [B, 3, H, W] on its device, channels last in memory: convolutions and pooling are faster so."""
    return images.to(device, memory_format=torch.channels_last)
