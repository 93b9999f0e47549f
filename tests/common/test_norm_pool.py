"""The compiled norm, pool and ReLU against torch's own in fp32, and what happens where nothing can be compiled."""

import ctypes
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from studies import rows
from wbc_common import compiled
from wbc_common.models import build_model
from wbc_common.norm_pool import SOURCE, can_fuse, norm_pool_relu
from wbc_common.study import ModelSettings

needs_a_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")
BF16_STEP = 2**-8  # relative, between neighbours
SHAPES = [(16, 8, False), (32, 8, True), (192, 4, False), (24, 6, True), (8, 3, False)]  # channels, side, pool


@pytest.fixture(autouse=True)
def _one_thread(torch_threads: Callable[[int], None]) -> None:
    torch_threads(1)


def activations(channels: int, side: int) -> Tensor:
    """bf16 [5, C, H, W], off centre, in few distinct values so that a pool's maxima are often tied."""
    values = torch.randn(5, channels, side, side, generator=torch.Generator().manual_seed(side)).mul(8).round().div(8)
    return (values + 0.5).to(torch.bfloat16, memory_format=torch.channels_last)


def a_norm(channels: int) -> nn.GroupNorm:
    """Factors of both signs: where one is negative the pool takes the smallest activation."""
    norm, generator = nn.GroupNorm(8, channels), torch.Generator().manual_seed(1)
    nn.init.normal_(norm.weight, generator=generator)
    nn.init.normal_(norm.bias, generator=generator)
    return norm


def fused(y: Tensor, norm: nn.GroupNorm, *, pool: bool) -> Tensor:
    return norm_pool_relu(y, norm.weight, norm.bias, groups=norm.num_groups, eps=norm.eps, pool=pool)


def by_torch(y: Tensor, norm: nn.GroupNorm, *, pool: bool) -> Tensor:
    normed = norm(y.float())
    return F.relu(F.max_pool2d(normed, 2) if pool else normed)


@needs_a_compiler
@pytest.mark.parametrize(("channels", "side", "pool"), SHAPES)
def test_result_and_gradients_are_torchs_but_for_rounding_to_bf16(channels: int, side: int, pool: bool) -> None:
    norm, found = a_norm(channels), []
    for way in (fused, by_torch):
        y = activations(channels, side).requires_grad_()
        assert can_fuse(y, pool=pool)
        z = way(y, norm, pool=pool)
        wanted = torch.randn(z.shape, generator=torch.Generator().manual_seed(2)).bfloat16().to(z.dtype)
        gradients = torch.autograd.grad(z, [y, norm.weight, norm.bias], wanted)
        found.append([z, *gradients])
    for ours, theirs in zip(*found, strict=True):
        largest = float(theirs.detach().abs().max())
        torch.testing.assert_close(ours.float(), theirs.float(), rtol=2 * BF16_STEP, atol=1e-3 * largest)


@needs_a_compiler
def test_a_value_that_is_not_finite_shows_and_stays_in_its_image_and_group() -> None:
    y = activations(16, 4)
    y[1, 0, 2, 2] = torch.nan
    z = fused(y, a_norm(16), pool=True)
    assert z[1, :2].isnan().all()  # 8 groups of 2 channels
    assert not z[1, 2:].isnan().any()
    assert not z[[0, 2, 3, 4]].isnan().any()


def test_only_bf16_on_one_thread_with_sides_that_a_pool_divides_is_taken(torch_threads: Callable[[int], None]) -> None:
    y = activations(16, 3)
    assert not can_fuse(y.float(), pool=False)
    assert not can_fuse(y, pool=True)
    torch_threads(2)
    assert not can_fuse(y, pool=False)


@needs_a_compiler
@pytest.mark.parametrize("backbone", ["cnn-small", "p4cnn-small"])
def test_the_small_networks_in_bf16_are_near_themselves_without_a_compiler(
    monkeypatch: pytest.MonkeyPatch, backbone: str
) -> None:
    model = build_model(ModelSettings(backbone=backbone, weights="none"), rows(5), seed=0)  # type: ignore[arg-type]
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        compiled_features = model.features(images)
        monkeypatch.setattr("wbc_common.models.can_fuse", lambda y, pool: False)
        features = model.features(images)
    assert compiled_features.dtype == torch.float32
    assert not torch.equal(compiled_features, features)
    torch.testing.assert_close(compiled_features, features, atol=0.03, rtol=0.03)


@needs_a_compiler
def test_a_library_is_compiled_once_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WBC_CACHE", str(tmp_path))
    load = compiled.load_library.__wrapped__
    assert isinstance(load(SOURCE), ctypes.CDLL)
    (library,) = tmp_path.rglob("*.so")
    monkeypatch.setattr(compiled, "_compile", lambda *_: pytest.fail("compiled again"))
    assert isinstance(load(SOURCE), ctypes.CDLL)
    monkeypatch.setattr(compiled, "_processor", lambda: "another")
    with pytest.raises(pytest.fail.Exception):
        load(SOURCE)
    assert library.exists()


@pytest.mark.parametrize("compiler", ["", "no-such-compiler", "false"])
def test_without_a_compiler_that_works_there_is_no_library(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("WBC_CACHE", str(tmp_path))
    assert compiled.load_library.__wrapped__(SOURCE) is None
    assert not list(tmp_path.rglob("*.so"))


def test_a_cache_that_cannot_be_written_means_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WBC_CACHE", str(tmp_path / "file"))
    assert compiled.load_library.__wrapped__(SOURCE) is None
