"""The resident trainer: a GPU that is lost to it ends it, and the courier's task goes to the next one."""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from wbc_client.node.courier import ask_trainer
from wbc_client.node.trainer import ERROR, end_if_lost
from wbc_common.processes import Command, KeptProcess

GPU = torch.device("cuda")
ASSERTION_FAILED, OUT_OF_MEMORY = 710, 2  # as CUDA numbers them


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The codes that the process would have ended with."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


def fail_with(monkeypatch: pytest.MonkeyPatch, code: int | None) -> None:
    """Let the GPU fail with a code of CUDA, or not."""

    def synchronize(device: torch.device) -> None:
        if code is not None:
            error = torch.AcceleratorError("CUDA error")
            error.error_code = code  # type: ignore[attr-defined]
            raise error

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)


@pytest.mark.parametrize(("code", "codes"), [(ASSERTION_FAILED, [1]), (OUT_OF_MEMORY, []), (None, [])])
def test_a_gpu_that_fails_for_good_ends_the_process_and_full_memory_does_not(
    monkeypatch: pytest.MonkeyPatch, ended: list[int], code: int | None, codes: list[int]
) -> None:
    fail_with(monkeypatch, code)
    end_if_lost(GPU)
    assert ended == codes


def test_a_trainer_on_a_cpu_asks_no_gpu(monkeypatch: pytest.MonkeyPatch, ended: list[int]) -> None:
    fail_with(monkeypatch, ASSERTION_FAILED)
    end_if_lost(torch.device("cpu"))
    assert ended == []


_TRAINER = """
import sys
from pathlib import Path
from types import SimpleNamespace
import torch
from wbc_client import clinic
from wbc_client.node import trainer

def fail(device):
    raise torch.AcceleratorError("CUDA error: device-side assert triggered")

first = Path({folder!r}) / "first"
device = torch.device("cpu" if first.exists() else "cuda")
first.touch()
torch.cuda.synchronize = fail
opened = SimpleNamespace(site=SimpleNamespace(clinic="munich"), cells=[], device=device)
clinic.open_clinic = lambda path: opened
trainer.serve(Path("no-clinic.toml"), Path({folder!r}) / "trainer")  # so that each task fails
"""


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder for a socket, whose path must be short."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_the_task_that_lost_the_gpu_is_answered_by_the_next_trainer(short_folder: Path) -> None:
    code = _TRAINER.format(folder=str(short_folder))
    kept = KeptProcess(Command("trainer", [sys.executable, "-c", code], dict(os.environ), short_folder / "log"))
    with ThreadPoolExecutor() as threads:
        reply = threads.submit(ask_trainer, str(short_folder / "trainer"), b"task")
        end = time.monotonic() + 120
        while not reply.done() and time.monotonic() < end:
            kept.look()
            time.sleep(0.05)
    kept.end()
    assert (kept.starts, kept.last_code) == (2, 1)
    assert reply.result()[:1] == ERROR  # the second one's, which has no GPU to lose
    assert "cuda is lost to this process" in (short_folder / "log").read_text()
