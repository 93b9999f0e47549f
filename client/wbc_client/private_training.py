"""Local training under DP-SGD (Abadi et al., CCS 2016) with Opacus: updates that are (ε, δ)-private for single cells.

Each step draws every training cell with probability q (Poisson sampling), clips each cell's gradient and adds Gaussian
noise. Neighbours are training sets that differ in one cell, and the class counts, which leave in the clear and fix the
loss's prior, count as public. Not covered: counts, confusion matrices, calibration bins and whatever else leaves beside
the update; L2's class sums, which is why a plan with alignment is refused. No mean loss leaves, as none is noised.

Sampling, augmentation and noise are drawn from seeds of this machine, never from the study's: whoever knows the seed
of the noise can take it off. So a private round gives other bits each time it is trained. torch's generators are not
cryptographic ones (Opacus's secure mode needs a package that this torch has not).
"""

import secrets
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from wbc_client.augmentation import augment
from wbc_client.dataset.cell_set import CellSet
from wbc_client.losses import DomainAwareLoss
from wbc_client.privacy_budget import Spending
from wbc_client.training import build_loss, build_optimizer, round_rate
from wbc_common.appearance import normalise
from wbc_common.models import Network, is_head, model_arrays
from wbc_common.study import StudyConfig
from wbc_common.wire import Update


def train_privately(
    model: Network, cells: CellSet, study: StudyConfig, *, round_number: int, spending: Spending, epsilon: float
) -> Update:
    """Train a received model on one clinic's training cells under DP-SGD; the whole of `spending` is used.

    Args:
        model: the global model, on the device to train on; changed in place.
        cells: training cells, N ≥ 1.
        spending: of this round, entered in the clinic's budget before.
        epsilon: spent on this plan with this round; travels with the update.

    Returns:
        The update; of head rows alone in a head-only round, where the backbone takes no step.
    """
    started = time.perf_counter()
    head_only = study.trains_head_only(round_number)
    received = {key: value for key, value in model_arrays(model).items() if is_head(key) or not head_only}
    model.backbone.requires_grad_(not head_only)
    _take_steps(model, cells, study, round_rate(study, round_number), spending)
    now = model_arrays(model)
    return Update(
        delta={key: now[key] - value for key, value in received.items()},
        class_counts=cells.class_counts(),
        losses={},
        num_cells=len(cells),
        seconds=time.perf_counter() - started,
        epsilon=epsilon,
    )


def _take_steps(model: Network, cells: CellSet, study: StudyConfig, rate: float, spending: Spending) -> None:
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    device = model.head.weight.device
    loss = build_loss(model, cells, study.loss, None)
    received = [parameter.detach().clone() for parameter in model.parameters()]
    model.train()
    wrapped = GradSampleModule(model, loss_reduction="mean")
    optimizer = DPOptimizer(
        build_optimizer(model, study.training, rate),
        noise_multiplier=spending.noise_multiplier,
        max_grad_norm=study.privacy.clip_norm,
        expected_batch_size=spending.sample_rate * len(cells),
        loss_reduction="mean",
        generator=_secret_generator(device),
    )
    for index in _poisson_batches(len(cells), spending):
        optimizer.zero_grad(set_to_none=True)
        _backward(model, cells, study, loss, index)
        optimizer.pre_step()  # clips, sums, adds noise
        _add_proximal(model, received, study.loss.proximal_weight)
        optimizer.original_optimizer.step()
    wrapped.remove_hooks()


def _poisson_batches(num_cells: int, spending: Spending) -> Iterator[Tensor]:
    """Indices of each step's cells, each drawn with probability q; a step may have none and still adds noise."""
    generator = _secret_generator(torch.device("cpu"))
    for _ in range(spending.steps):
        yield (torch.rand(num_cells, generator=generator) < spending.sample_rate).nonzero().squeeze(1)


def _backward(model: Network, cells: CellSet, study: StudyConfig, loss: DomainAwareLoss, index: Tensor) -> None:
    """Gradients per cell of the drawn cells, as Opacus keeps them."""
    if len(index) == 0:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad_sample = parameter.new_zeros(0, *parameter.shape)  # type: ignore[attr-defined]
        return
    device = model.head.weight.device
    images = augment(cells.images[index], study.training.augmentation, _secret_generator(torch.device("cpu")))
    # Opacus's hooks warn where no input needs a gradient; filters of warnings are no use where clinics share a process.
    pixels = normalise(images).to(device).requires_grad_()
    features = model.features(pixels)
    loss(features, model.head(features), cells.allowed[index].to(device)).total.backward()  # type: ignore[no-untyped-call]


def _add_proximal(model: Network, received: list[Tensor], weight: float) -> None:
    """FedProx's gradient μ·(θ − θ_t): it looks at no cell, so it is added after the noise and costs no budget."""
    if weight == 0:
        return
    for parameter, then in zip(model.parameters(), received, strict=True):
        if parameter.grad is not None:
            parameter.grad += weight * (parameter.detach() - then)


def _secret_generator(device: torch.device) -> torch.Generator:
    return torch.Generator(device=device).manual_seed(secrets.randbits(63))
