"""The networks: size, norm layers, what a head row is, and that Opacus can take gradients per sample."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from studies import rows
from wbc_common.models import Network, build_model, is_head, model_arrays, network_of
from wbc_common.study import ModelSettings

PRIVATE_BACKBONES = pytest.mark.parametrize("backbone", ["cnn-small", "p4cnn-small", "resnet18"])
NUM_FEATURES = {"cnn-small": 384, "p4cnn-small": 192, "resnet18": 512, "convnext-tiny": 768}
BACKBONES = pytest.mark.parametrize("backbone", list(NUM_FEATURES))


def network(backbone: str, num_classes: int = 5, seed: int = 0) -> Network:
    return build_model(ModelSettings(backbone=backbone), rows(num_classes), seed)  # type: ignore[arg-type]


def images(number: int = 2, size_px: int = 32) -> torch.Tensor:
    return torch.randn(number, 3, size_px, size_px, generator=torch.Generator().manual_seed(0))


def test_the_small_network_has_about_0_3_million_parameters() -> None:
    assert 0.25e6 < sum(parameter.numel() for parameter in network("cnn-small").parameters()) < 0.4e6


@BACKBONES
def test_no_norm_mixes_cells_and_there_are_no_running_statistics(backbone: str) -> None:
    model = network(backbone)
    kinds = ("Group", "Layer", "Batch", "P4Norm")
    norms = [module for module in model.modules() if type(module).__name__.startswith(kinds)]
    assert norms
    assert all(isinstance(module, nn.LayerNorm if backbone == "convnext-tiny" else nn.GroupNorm) for module in norms)
    assert not list(model.buffers())


@BACKBONES
def test_head_rows_are_one_per_class_and_the_backbone_knows_no_class(backbone: str) -> None:
    five, eleven = model_arrays(network(backbone, 5)), model_arrays(network(backbone, 11))
    assert five.keys() == eleven.keys()
    for key in five:
        if is_head(key):
            assert (len(five[key]), len(eleven[key])) == (5, 11)
        else:
            assert five[key].shape == eleven[key].shape
    assert {key for key in five if is_head(key)} == {"head.weight", "head.bias"}


@BACKBONES
def test_logits_are_features_through_the_head(backbone: str) -> None:
    model = network(backbone).eval()
    with torch.no_grad():
        features = model.features(images())
        assert features.shape == (2, NUM_FEATURES[backbone])
        expected = features @ model.head.weight.T + model.head.bias
        torch.testing.assert_close(model(images()), expected)


@BACKBONES
def test_a_cell_is_classified_alike_alone_and_in_a_batch(backbone: str) -> None:
    model = network(backbone).train()  # batch statistics would show in training mode
    with torch.no_grad():
        torch.testing.assert_close(model(images(3))[:1], model(images(3)[:1]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("backbone", ["cnn-small", "p4cnn-small"])
def test_the_smallest_images_of_a_plan_pass(backbone: str) -> None:
    assert network(backbone)(images(1, size_px=16)).shape == (1, 5)


def test_the_seed_decides_the_weights_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, same, other = (model_arrays(network("cnn-small", seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(np.array_equal(one[key], same[key]) for key in one)
    assert not np.array_equal(one["head.weight"], other["head.weight"])


def test_a_networks_arrays_are_copies() -> None:
    model = network("cnn-small")
    arrays = model_arrays(model)
    with torch.no_grad():
        model.head.bias.add_(1)
    assert not np.array_equal(arrays["head.bias"], model.head.bias.detach().numpy())


@pytest.mark.parametrize("change", ["missing", "surplus", "shape"])
def test_arrays_of_another_network_are_refused(change: str) -> None:
    arrays = model_arrays(network("cnn-small"))
    if change == "missing":
        del arrays["head.bias"]
    else:
        arrays["head.bias" if change == "shape" else "more"] = np.zeros(9, dtype=np.float32)
    with pytest.raises(RuntimeError):
        network_of(arrays, ModelSettings(), rows(5))


@pytest.mark.slow
def test_convnext_small_is_a_model_of_200_mb() -> None:
    assert 190e6 < sum(array.nbytes for array in model_arrays(network("convnext-small")).values()) < 210e6


def test_training_a_large_backbone_draws_nothing_from_the_global_generator() -> None:
    model = network("convnext-tiny").train()
    state = torch.get_rng_state()
    model(images()).sum().backward()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
@PRIVATE_BACKBONES
def test_opacus_gradients_per_sample_equal_those_of_single_cells(backbone: str) -> None:
    from opacus import GradSampleModule

    batch, labels = images(2), torch.tensor([0, 3])
    wrapped = GradSampleModule(network(backbone), loss_reduction="sum")
    nn.functional.cross_entropy(wrapped(batch), labels, reduction="sum").backward()
    for row in range(2):
        alone = network(backbone)
        nn.functional.cross_entropy(alone(batch[row : row + 1]), labels[row : row + 1]).backward()
        for ours, expected in zip(wrapped.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(ours.grad_sample[row], expected.grad, atol=1e-4, rtol=1e-3)


@BACKBONES
def test_a_network_of_arrays_holds_them_and_leaves_the_random_numbers_alone(backbone: str) -> None:
    settings = ModelSettings(backbone=backbone)  # type: ignore[arg-type]
    arrays = model_arrays(build_model(settings, rows(5), seed=3))
    state = torch.get_rng_state()
    model = network_of(arrays, settings, rows(5))
    assert torch.equal(torch.get_rng_state(), state)
    found = model_arrays(model)
    assert list(found) == list(arrays)
    assert all(np.array_equal(found[key], value) for key, value in arrays.items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        next(model.parameters()).add_(1)
    assert np.array_equal(arrays[next(iter(arrays))], found[next(iter(arrays))])  # a copy


def test_pooling_before_the_relu_is_the_same_as_after_it() -> None:
    x = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    before, after = torch.relu(F.max_pool2d(x, 2)), F.max_pool2d(torch.relu(x), 2)
    assert torch.equal(before, after)
    (one,) = torch.autograd.grad(before.square().sum(), x)
    (other,) = torch.autograd.grad(after.square().sum(), x)
    assert torch.equal(one, other)
