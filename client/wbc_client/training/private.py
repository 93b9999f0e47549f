"""Local training under DP-SGD (Abadi et al., CCS 2016) with Opacus: updates that are (ε, δ)-private for single cells.

Each step draws every training cell with probability q (Poisson sampling), clips each cell's gradient and adds Gaussian
noise. Neighbours are training sets that differ in one cell, and the class counts, which leave in the clear and fix the
loss's prior, count as public. Not covered: counts, confusion matrices, calibration bins and whatever else leaves beside
the update; L2's class sums, which is why a plan with alignment is refused. No mean loss leaves, as none is noised.

Sampling, augmentation and noise are drawn from seeds of this machine, never from the study's: whoever knows the seed
of the noise can take it off. So a private round gives other bits each time it is trained. torch's generators are not
cryptographic ones (Opacus's secure mode needs a package that this torch has not). Everything computes in fp32, whatever
`training.precision` says: norms of single cells' gradients decide what is clipped.
"""

import secrets
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wbc_client.dataset.cell_set import CellSet
from wbc_client.losses import DomainAwareLoss
from wbc_client.state.privacy_budget import Spending
from wbc_client.training.course import Batch, Course, build_optimizer, draw_batch, run_epochs
from wbc_client.training.local import build_loss, round_rate
from wbc_common.models import Network
from wbc_common.study import StudyConfig

if TYPE_CHECKING:
    from opacus.optimizers import DPOptimizer


def train_privately(
    model: Network, cells: CellSet, study: StudyConfig, *, round_number: int, spending: Spending
) -> None:
    """Train a received model, in place, on N ≥ 1 cells under DP-SGD; the whole of `spending` is used.

    In a head-only round the backbone is frozen.
    """
    from opacus import GradSampleModule

    model.backbone.requires_grad_(not study.trains_head_only(round_number))
    device = model.head.weight.device
    course = Course(
        study.training,
        rate=round_rate(study, round_number),
        epochs=1,
        generator=_secret_generator(torch.device("cpu")),
        proximal_weight=study.loss.proximal_weight,
    )
    loss = build_loss(model, cells, study.loss, None)
    received = [parameter.detach().clone() for parameter in model.parameters()]
    wrapped = GradSampleModule(model.train(), loss_reduction="mean")
    optimizer = _noisy_optimizer(model, course, study.privacy.clip_norm, spending, len(cells))
    batches = (draw_batch(cells, index, course, device) for index in _poisson_batches(len(cells), spending))
    run_epochs([batches], partial(_step, model, optimizer, loss, received, course.proximal_weight))
    wrapped.remove_hooks()


def _poisson_batches(num_cells: int, spending: Spending) -> Iterator[Tensor]:
    """Indices of each step's cells, each drawn with probability q; a step may have none and still adds noise."""
    generator = _secret_generator(torch.device("cpu"))
    for _ in range(spending.steps):
        yield (torch.rand(num_cells, generator=generator) < spending.sample_rate).nonzero().squeeze(1)


def _noisy_optimizer(
    model: Network, course: Course, clip_norm: float, spending: Spending, num_cells: int
) -> "DPOptimizer":
    from opacus.optimizers import DPOptimizer

    return DPOptimizer(
        build_optimizer(model, course.settings, course.rate),
        noise_multiplier=spending.noise_multiplier,
        max_grad_norm=clip_norm,
        expected_batch_size=spending.sample_rate * num_cells,
        loss_reduction="mean",
        generator=_secret_generator(model.head.weight.device),
    )


def _step(
    model: Network,
    optimizer: "DPOptimizer",
    loss: DomainAwareLoss,
    received: list[Tensor],
    proximal_weight: float,
    batch: Batch,
) -> dict[str, Tensor]:
    """One noisy step; no term is returned, as none is noised."""
    optimizer.zero_grad(set_to_none=True)
    _backward(model, loss, batch)
    optimizer.pre_step()  # clips, sums, adds noise
    _lay_out_as_parameters(model)
    _add_proximal(model, received, proximal_weight)
    optimizer.original_optimizer.step()
    return {}


def _backward(model: Network, loss: DomainAwareLoss, batch: Batch) -> None:
    """Gradients per cell of the drawn cells, as Opacus keeps them."""
    if len(batch.places) == 0:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad_sample = parameter.new_zeros(0, *parameter.shape)  # type: ignore[attr-defined]
        return
    # Opacus's hooks warn where no input needs a gradient; filters of warnings are no use where clinics share a process.
    features = model.features(batch.images.requires_grad_())
    loss(features, model.head(features), batch.allowed).total.backward()  # type: ignore[no-untyped-call]


def _lay_out_as_parameters(model: Network) -> None:
    """Opacus's sums are contiguous, the parameters channels last; on a GPU the fused optimiser wants both alike."""
    for parameter in model.parameters():
        if parameter.grad is not None and parameter.grad.stride() != parameter.stride():
            parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)


def _add_proximal(model: Network, received: list[Tensor], weight: float) -> None:
    """FedProx's gradient μ·(θ − θ_t): it looks at no cell, so it is added after the noise and costs no budget."""
    if weight == 0:
        return
    for parameter, then in zip(model.parameters(), received, strict=True):
        if parameter.grad is not None:
            parameter.grad += weight * (parameter.detach() - then)


def _secret_generator(device: torch.device) -> torch.Generator:
    return torch.Generator(device=device).manual_seed(secrets.randbits(63))
