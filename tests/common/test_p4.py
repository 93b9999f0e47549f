"""p4 layers: a turned image gives turned activations and the same features, and gradients as of one shared filter."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from studies import rows
from wbc_common.models import Network, build_model
from wbc_common.p4 import TURNS, P4Convolution, P4Norm
from wbc_common.study import ModelSettings


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def network(backbone: str = "p4cnn-small") -> Network:
    return build_model(ModelSettings(backbone=backbone, weights="none"), rows(5), seed=0)  # type: ignore[arg-type]


def quarter_turned(x: Tensor) -> Tensor:
    """Activations [B, 4·F, H, W] of an image after a quarter turn: turned maps, each filter's turns moved on by one."""
    maps = torch.rot90(x, 1, dims=(2, 3)).unflatten(1, (-1, TURNS))
    return maps.roll(1, dims=2).flatten(1, 2)


@pytest.mark.parametrize(("kernel", "stride", "side"), [(6, 2, 32), (3, 1, 16), (3, 1, 7)])
@pytest.mark.parametrize("lifting", [True, False])
def test_a_turned_input_gives_turned_activations(kernel: int, stride: int, side: int, lifting: bool) -> None:
    convolution = P4Convolution(3 if lifting else 8, 5, kernel=kernel, stride=stride, lifting=lifting)
    x = random(2, 3 if lifting else 8, side, side)
    turned = torch.rot90(x, 1, dims=(2, 3)) if lifting else quarter_turned(x)
    found = convolution(x)
    assert found.shape == (2, TURNS * 5, side // stride, side // stride)
    assert not torch.allclose(found, convolution(turned))
    torch.testing.assert_close(convolution(turned), quarter_turned(found), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("filters", [4, 6, 96])
def test_norms_turn_with_their_input(filters: int) -> None:
    norm = P4Norm(filters)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = random(2, TURNS * filters, 6, 6)
    torch.testing.assert_close(norm(quarter_turned(x)), quarter_turned(norm(x)), atol=1e-5, rtol=1e-5)
    assert filters % norm.num_groups == 0


@pytest.mark.parametrize("side", [32, 64, 128])
def test_features_are_the_same_however_a_cell_lies_and_the_other_networks_are_not(side: int) -> None:
    for backbone, same in (("p4cnn-small", True), ("cnn-small", False)):
        model, images = network(backbone).eval(), random(2, 3, side, side)
        with torch.no_grad():
            upright = model.features(images)
            for turn in (1, 2, 3):
                turned = model.features(torch.rot90(images, turn, dims=(2, 3)))
                assert torch.allclose(turned, upright, atol=1e-4) == same


def test_features_tell_cells_apart() -> None:
    features = network().features(random(4, 3, 32, 32))
    assert torch.pdist(features).min() > 0.1


def test_a_filters_gradient_is_the_sum_over_its_turns() -> None:
    convolution = P4Convolution(3, 2, kernel=3, stride=1, lifting=True)
    x, wanted = random(2, 3, 8, 8), random(2, 8, 8, 8)
    (convolution(x) * wanted).sum().backward()
    expected = torch.zeros_like(convolution.weight)
    for turn in range(TURNS):
        weight = torch.rot90(convolution.weight.detach(), turn, dims=(2, 3)).requires_grad_()
        (F.conv2d(x, weight, padding=1) * wanted[:, turn::TURNS]).sum().backward()
        assert weight.grad is not None
        expected += torch.rot90(weight.grad, -turn, dims=(2, 3))
    torch.testing.assert_close(convolution.weight.grad, expected, atol=1e-4, rtol=1e-4)
