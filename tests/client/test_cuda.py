"""On a GPU: the same bits twice, the CPU's figures within rounding, mixed precision, DP-SGD, a whole study.

Skipped where torch sees none. `python -m pytest tests/client/test_cuda.py` on a machine that has one.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from studies import run_tiny, tiny_experiment
from wbc_client.dataset.cell_set import CellSet
from wbc_client.device import choose_device, compute_reproducibly, memory_of, take_share
from wbc_client.evaluation.stain_averaging import predict_averaged
from wbc_client.features import predict, sum_features
from wbc_client.precision import resolve_precision
from wbc_client.state.privacy_budget import Spending
from wbc_client.training.augmentation import augment
from wbc_client.training.local import train_locally
from wbc_client.training.private import train_privately
from wbc_client.training.round import changes
from wbc_common.errors import DeviceError, SettingError
from wbc_common.models import Network, build_model, model_arrays
from wbc_common.study import StudyConfig, parse_study
from wbc_common.wire import Arrays, ClassSums
from wbc_simulations.phantom import load_domain, render

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    compute_reproducibly()


def plan(backbone: str = "cnn-small", **tables: object) -> StudyConfig:
    values = {
        "name": "toy",
        "rounds": 4,
        "clinics": {"train": ["a", "b", "c"]},
        "images": {"size_px": 32},
        "model": {"backbone": backbone, "weights": "none"},
        "training": {"batch_size": 32, "precision": "fp32"},
        "loss": {"alignment_weight": 0.1, "alignment_min_cells": 1, "alignment_warmup": 0.0},
    }
    return parse_study({**values, **tables}, "toy")


def cells(num: int = 200) -> CellSet:
    """Class 0 is dark, class 1 is bright, with noise of a seed."""
    labels = torch.arange(num) % 2
    noise = torch.randint(0, 60, (num, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    images = (labels[:, None, None, None] * 120 + 40 + noise).to(torch.uint8)
    allowed = torch.nn.functional.one_hot(labels, 5).bool()
    return CellSet(images, allowed, torch.arange(num), torch.zeros(num, dtype=torch.int64))


def model_on(device: torch.device, study: StudyConfig) -> Network:
    model = build_model(study.model, study.head_rows, seed=0)
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def train(study: StudyConfig, device: torch.device) -> Arrays:
    model = model_on(device, study)
    before = model_arrays(model)
    own = sum_features(model, cells(), device)
    total = ClassSums(own.sums * 3, own.counts * 3)
    train_locally(model, cells(), study, clinic="a", round_number=1, sums=(own, total))
    return changes(model, before)


def flat(delta: Arrays) -> np.ndarray:
    return np.concatenate([value.ravel() for value in delta.values()])


def test_auto_takes_the_gpu_and_its_bf16() -> None:
    assert choose_device("auto") == GPU
    assert resolve_precision("auto", GPU) == "bf16"


@pytest.mark.parametrize("backbone", ["cnn-small", "p4cnn-small", "resnet18"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_round_gives_the_same_bits(backbone: str, precision: str) -> None:
    study = plan(backbone, training={"batch_size": 32, "precision": precision})
    first, again = flat(train(study, GPU)), flat(train(study, GPU))
    assert np.isfinite(first).all()
    assert np.abs(first).max() > 0
    assert np.array_equal(first, again)


def test_a_short_training_in_fp32_moves_the_weights_as_the_cpu_does() -> None:
    # SGD: Adam would turn the sign of a gradient that is all rounding into a full step.
    study = plan(training={"batch_size": 32, "local_epochs": 1, "precision": "fp32", "optimizer": "sgd"})
    on_gpu, on_cpu = flat(train(study, GPU)), flat(train(study, CPU))
    assert np.linalg.norm(on_gpu - on_cpu) < 0.01 * np.linalg.norm(on_cpu)


@pytest.mark.parametrize("level", ["geometric", "stain"])
def test_augmentation_draws_the_same_versions(level: str) -> None:
    images = render(torch.arange(40) % 13, torch.arange(40), load_domain("dm96_mgg"), size_px=64, seed=0)
    on_cpu, on_gpu = (
        augment(images.to(device), level, torch.Generator().manual_seed(3)).cpu()  # type: ignore[arg-type]
        for device in (CPU, GPU)
    )
    # Rounding moves a place of sampling by a millionth of a pixel; at mirrored edges a value may come from the next.
    difference = (on_cpu - on_gpu).abs()
    assert float(difference.mean()) < 1e-4
    assert float(difference.quantile(0.999)) < 1e-2


def test_predictions_and_class_sums_are_the_cpus_within_rounding() -> None:
    study = plan()
    images = cells().images
    on_cpu, on_gpu = (predict(model_on(device, study), images, device) for device in (CPU, GPU))
    assert torch.allclose(on_cpu, on_gpu, atol=1e-4)
    averaged = [predict_averaged(model_on(device, study), images, device, draws=3)[0] for device in (CPU, GPU)]
    assert torch.allclose(averaged[0].softmax(1), averaged[1].softmax(1), atol=1e-3)
    sums = [sum_features(model_on(device, study), cells(), device).sums for device in (CPU, GPU)]
    assert np.allclose(sums[0], sums[1], atol=1e-2)


def private_plan(**training: object) -> StudyConfig:
    return plan(
        loss={"alignment_weight": 0.0},
        privacy={"mode": "dp-sgd", "clip_norm": 0.1},
        training={
            "batch_size": 32,
            "augmentation": "none",
            "optimizer": "sgd",
            "learning_rate": 1.0,
            "weight_decay": 0.0,
            **training,
        },
    )


def train_with_noise(spending: Spending) -> np.ndarray:
    study = private_plan()
    model = model_on(GPU, study)
    before = model_arrays(model)
    train_privately(model, cells(), study, round_number=1, spending=spending)
    return flat(changes(model, before))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("backbone", ["cnn-small", "p4cnn-small", "resnet18"])
def test_dp_sgd_trains_with_either_optimiser(backbone: str, optimizer: str) -> None:
    study = private_plan(optimizer=optimizer, augmentation="stain")
    study = study.model_copy(update={"model": plan(backbone).model})
    model = model_on(GPU, study)
    before = model_arrays(model)
    train_privately(model, cells(), study, round_number=1, spending=Spending(1.0, 0.2, 3))
    assert np.isfinite(flat(changes(model, before))).all()


def test_dp_sgd_clips_and_adds_the_noise_that_the_accountant_is_told() -> None:
    quiet, loud = train_with_noise(Spending(0.0, 1.0, 1)), train_with_noise(Spending(50.0, 1.0, 1))
    assert 0 < np.linalg.norm(quiet) <= 0.1 + 1e-5
    assert float((loud - quiet).std()) == pytest.approx(50.0 * 0.1 / 200, rel=0.02)
    assert not np.array_equal(train_with_noise(Spending(1.0, 0.5, 2)), train_with_noise(Spending(1.0, 0.5, 2)))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_whole_study_gives_the_same_bits_twice(tmp_path: Path, precision: str) -> None:
    experiment = tiny_experiment(training={"local_epochs": 1, "batch_size": 16, "precision": precision})
    one, other = (load_file(run_tiny(tmp_path / name, experiment)[0].model) for name in ("one", "other"))
    assert all(one[key].tobytes() == other[key].tobytes() for key in one)


def test_phantoms_rendered_on_the_gpu_are_the_cpus_but_for_a_grey_level() -> None:
    classes, patients = torch.arange(26) % 13, torch.arange(26)
    domain = load_domain("rapid_yellow")
    on_cpu, on_gpu = (
        render(classes, patients, domain, size_px=64, seed=1, device=str(device)).cpu().int() for device in (CPU, GPU)
    )
    # JPEG makes a block of one grey level's difference.
    assert float((on_cpu - on_gpu).abs().float().mean()) < 0.5


def test_class_sums_are_the_same_bits_every_time() -> None:
    # A GPU adds up in any order, so features come to the CPU first.
    first, again = (sum_features(model_on(GPU, plan()), cells(), GPU).sums for _ in range(2))
    assert np.array_equal(first, again)


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(SettingError, match="numbered from 0"):
        choose_device("cuda:99")


def test_too_little_memory_is_said_with_the_next_step_and_the_next_task_goes_on() -> None:
    take_share(GPU, 1e-3)
    try:
        with pytest.raises(DeviceError, match=r"too little memory on cuda, NVIDIA.* GiB free"), memory_of(GPU):
            torch.empty(2**34, dtype=torch.uint8, device=GPU)
    finally:
        take_share(GPU, 1.0)
    with memory_of(GPU):
        assert torch.empty(2**20, device=GPU).device.type == "cuda"
