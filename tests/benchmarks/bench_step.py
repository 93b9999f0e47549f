"""Where a training step of the reference job goes, and what bf16 can save of it, on one thread.

CPU seconds, so that other work on the machine disturbs little; medians of steps of 32 cells of 64 px, in turns. The
convolutions alone are the network's five, each on inputs of its own shapes, forward and backward, and nothing else: no
engine that runs this network in this precision on this processor can be faster than they are.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from wbc_client.device import as_input
from wbc_client.precision import computing_in
from wbc_client.training.augmentation import augment
from wbc_client.training.course import build_optimizer
from wbc_common.appearance import normalise
from wbc_common.cells import CLASSES_13
from wbc_common.head_rows import one_row_a_class
from wbc_common.models import Network, build_model
from wbc_common.p4 import P4Convolution
from wbc_common.study import ModelSettings, TrainingSettings

NUM_CLASSES, BATCH, SIZE = 13, 32, 64
CPU = torch.device("cpu")
Part = Callable[[], object]


def main() -> None:
    """Print CPU milliseconds of each part, and their share of a whole step in fp32."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    parts = {
        name: part for precision in ("fp32", "bf16") for name, part in parts_of(precision, arguments.backbone).items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(arguments.steps):
        for name, part in parts.items():
            started = time.process_time()
            part()
            seconds[name].append(time.process_time() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        print(f"{name:<32}{1e3 * median:>8.1f} ms{median / medians['whole step, fp32']:>7.2f} ×")


def parts_of(precision: str, backbone: str) -> dict[str, Part]:
    """A whole step, and parts of it."""
    settings = TrainingSettings(precision=precision)
    model = build_model(
        ModelSettings.model_validate({"backbone": backbone, "weights": "none"}), one_row_a_class(CLASSES_13), seed=0
    ).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, settings, settings.learning_rate)
    generator = torch.Generator().manual_seed(0)
    cells = torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    labels = torch.arange(BATCH) % NUM_CLASSES

    def make_batch() -> torch.Tensor:
        return as_input(normalise(augment(cells, "stain", generator)), CPU)

    def learn(images: torch.Tensor) -> None:
        with computing_in(settings.precision, CPU):
            features = model.features(images)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(F.cross_entropy(model.head(features.float()), labels))

    def step() -> None:
        learn(make_batch())
        optimizer.step()

    images = make_batch()
    shared = {"augmentation": make_batch, "optimiser": optimizer.step} if precision == "fp32" else {}
    learn(images)  # the optimiser needs gradients
    return {
        f"whole step, {precision}": step,
        f"forward and backward, {precision}": lambda: learn(images),
        f"convolutions alone, {precision}": convolutions_alone(model, images, precision),
        **shared,
    }


def convolutions_alone(model: Network, images: torch.Tensor, precision: str) -> Part:
    """Forward and backward of each convolution on an input of its own."""
    inputs: list[tuple[nn.Module, torch.Tensor]] = []
    hooks = [
        layer.register_forward_hook(lambda layer, given, _: inputs.append((layer, given[0].detach().clone())))
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d)
    ]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    with torch.no_grad():
        model.features(images)
    for hook in hooks:
        hook.remove()
    # The first layer's input, the images, needs no gradient.
    given = [(layer, image.to(dtype).requires_grad_(place > 0)) for place, (layer, image) in enumerate(inputs)]
    weights = [filters(layer).detach().to(dtype).requires_grad_() for layer, _ in given]

    def run() -> None:
        for (layer, image), weight in zip(given, weights, strict=True):
            out = F.conv2d(image, weight, stride=layer.stride, padding=layer.padding)
            torch.autograd.grad(out, [tensor for tensor in (image, weight) if tensor.requires_grad], out.detach())

    return run


def filters(layer: nn.Module) -> torch.Tensor:
    """What a convolution convolves with: its weight, or that in its four turns."""
    weight: torch.Tensor = layer.turned_weight() if isinstance(layer, P4Convolution) else layer.weight
    return weight


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--backbone", default="cnn-small")
    return parser.parse_args()


if __name__ == "__main__":
    main()
