"""Which device a clinic computes on, in words and in errors; what needs a real GPU is in test_cuda."""

import weakref
from pathlib import Path

import pytest
import torch

from wbc_client.device import choose_device, describe_device, memory_of
from wbc_client.site import read_site
from wbc_common.errors import DeviceError, SettingError

CPU = torch.device("cpu")


def test_auto_takes_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert choose_device("auto").type == device


def test_a_named_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingError, match="sees no GPU"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1").index == 1
    with pytest.raises(SettingError, match=r"sees 2 GPU\(s\), numbered from 0"):
        choose_device("cuda:2")


def test_too_little_memory_becomes_an_error_with_a_next_step() -> None:
    with pytest.raises(DeviceError, match="too little memory on cpu") as caught, memory_of(CPU):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
    assert "gpu_share" in caught.value.remedy


def test_tensors_of_the_work_that_failed_are_let_go_before_memory_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    alive_when_emptied: list[bool] = []

    def work() -> None:
        activations = torch.zeros(8)
        held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive_when_emptied.append(held[0]() is not None))
    with pytest.raises(DeviceError), memory_of(CPU):
        work()
    assert alive_when_emptied == [False]


def test_a_device_in_words() -> None:
    assert describe_device(CPU) == f"cpu, {torch.get_num_threads()} threads"


@pytest.mark.parametrize("share", ["0", "1.5"])
def test_a_share_of_a_gpu_is_above_0_and_at_most_1(tmp_path: Path, share: str) -> None:
    file = tmp_path / "clinic.toml"
    text = 'clinic = "munich"\nstudy = "study.toml"\ngpu_share = {}\n[data]\nkind = "folders"\npath = "cells"\n'
    file.write_text(text.format("0.5"))
    assert read_site(file).gpu_share == 0.5
    file.write_text(text.format(share))
    with pytest.raises(SettingError, match="gpu_share"):
        read_site(file)
