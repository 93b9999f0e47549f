"""Evaluation on site: counts by a plain loop, coarse cells apart, the same draws for every model."""

import numpy as np
import torch

from studies import rows
from wbc_client.dataset.cell_set import CellSet
from wbc_client.evaluation.counting import evaluate
from wbc_client.features import predict
from wbc_common.models import build_model
from wbc_common.study import ModelSettings

CPU = torch.device("cpu")


def cells(num: int = 30) -> CellSet:
    """Noise images; every fifth cell has the coarse label {0, 1}; five patients."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (num, 3, 16, 16), generator=generator, dtype=torch.uint8)
    allowed = torch.nn.functional.one_hot(torch.arange(num) % 5, 5).bool()
    allowed[::5, :2] = True
    return CellSet(images, allowed, torch.arange(num) % 5, torch.zeros(num, dtype=torch.int64))


def test_the_counts_are_those_of_a_plain_loop() -> None:
    model, data = build_model(ModelSettings(), rows(5), seed=0), cells()
    found = evaluate(model, data, CPU, replicates=0, draw_seed=1)
    expected, coarse = np.zeros((5, 5), dtype=int), [0, 0]
    for logits, allowed in zip(predict(model, data.images, CPU), data.allowed, strict=True):
        guess = int(logits.argmax())
        if int(allowed.sum()) == 1:
            expected[int(allowed.int().argmax()), guess] += 1
        else:
            coarse = [coarse[0] + 1, coarse[1] + int(allowed[guess])]
    np.testing.assert_array_equal(found.confusion, expected)
    assert found.coarse.tolist() == coarse
    assert coarse[0] == 6


def test_two_models_are_measured_on_the_same_drawn_patients() -> None:
    data = cells()
    draws = [
        evaluate(build_model(ModelSettings(), rows(5), seed=seed), data, CPU, replicates=7, draw_seed=1).replicates
        for seed in (0, 1)
    ]
    assert draws[0].shape == (7, 5, 5)
    np.testing.assert_array_equal(draws[0].sum(axis=2), draws[1].sum(axis=2))


def test_no_cell_gives_counts_of_zero() -> None:
    empty = cells().part("test")
    found = evaluate(build_model(ModelSettings(), rows(5), seed=0), empty, CPU, replicates=3, draw_seed=1)
    assert found.confusion.sum() == 0
    assert found.replicates.shape == (3, 5, 5)
    assert found.coarse.tolist() == [0, 0]
