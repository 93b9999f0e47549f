"""Calibration counts on site against plain loops, and the prior-shift correction where the answer is known."""

import numpy as np
import pytest
import torch

from wbc_client.evaluation.calibration import correct_prior_shift, count_calibration, estimate_prior
from wbc_common.calibration import EDGES, ONE, TEMPERATURES


def some_logits(number: int = 50, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(0, classes, (number,), generator=generator)
    return 2 * torch.randn(number, classes, generator=generator), labels


def test_sums_over_temperatures_are_those_of_each_cell() -> None:
    logits, labels = some_logits()
    counts = count_calibration(logits, labels, 2.0)
    for place in (0, ONE, 45):
        shares = torch.softmax(logits.double() / TEMPERATURES[place], dim=1)
        true = torch.nn.functional.one_hot(labels, 3)
        assert counts.nll[place] == pytest.approx(
            -sum(float(row[y].log()) for row, y in zip(shares, labels, strict=True))
        )
        assert counts.brier[place] == pytest.approx(float(((shares - true) ** 2).sum()))


@pytest.mark.parametrize(("place", "temperature"), [(0, 1.0), (1, 3.0)])
def test_bins_are_those_of_a_loop_over_cells_and_classes(place: int, temperature: float) -> None:
    logits, labels = some_logits()
    counts = count_calibration(logits, labels, 3.0)
    shares = torch.softmax(logits.double() / temperature, dim=1)
    cells, positives, mass = (
        np.zeros_like(counts.cells[0]),
        np.zeros_like(counts.cells[0]),
        np.zeros(counts.mass[0].shape),
    )
    confidence, correct = np.zeros_like(counts.confidence[0]), np.zeros_like(counts.confidence[0])
    for row, label in zip(shares.tolist(), labels.tolist(), strict=True):
        for cell_class, share in enumerate(row):
            found = int((share >= EDGES).sum())
            cells[cell_class, found] += 1
            positives[cell_class, found] += cell_class == label
            mass[cell_class, found] += share
        top = int((max(row) >= EDGES).sum())
        confidence[top] += 1
        correct[top] += row.index(max(row)) == label
    np.testing.assert_array_equal(counts.cells[place], cells)
    np.testing.assert_array_equal(counts.positives[place], positives)
    np.testing.assert_allclose(counts.mass[place], mass)
    np.testing.assert_array_equal(counts.confidence[place], confidence)
    np.testing.assert_array_equal(counts.correct[place], correct)


def test_counts_of_two_halves_add_to_those_of_the_whole() -> None:
    logits, labels = some_logits()
    added = count_calibration(logits[:20], labels[:20], 2.0) + count_calibration(logits[20:], labels[20:], 2.0)
    whole = count_calibration(logits, labels, 2.0)
    np.testing.assert_array_equal(added.cells, whole.cells)
    np.testing.assert_allclose(added.nll, whole.nll)
    assert added.num_cells == whole.num_cells == 50


def test_no_cell_gives_counts_of_zero() -> None:
    counts = count_calibration(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 2.0)
    assert counts.num_cells == 0
    assert counts.nll.tolist() == [0] * len(TEMPERATURES)


def two_gaussians(share: float, number: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Cells of two classes at −1 and +1, deviation 1: exact posteriors under equal priors, and the classes."""
    generator = np.random.default_rng(0)
    classes = (generator.random(number) < share).astype(int)
    x = 2 * classes - 1 + generator.normal(size=number)
    second = 1 / (1 + np.exp(-2 * x))
    return np.stack([1 - second, second], axis=1), classes


def test_expectation_maximisation_finds_the_mix_of_unlabelled_cells() -> None:
    posteriors, classes = two_gaussians(0.1)
    found = estimate_prior(posteriors, np.array([0.5, 0.5]))
    assert found[1] == pytest.approx(classes.mean(), abs=0.01)


def test_the_correction_names_more_cells_rightly_where_the_mix_is_skewed() -> None:
    posteriors, classes = two_gaussians(0.05)
    logits = torch.from_numpy(np.log(posteriors))
    plain = (posteriors.argmax(axis=1) == classes).mean()
    corrected = (correct_prior_shift(logits, np.array([0.5, 0.5])).numpy() == classes).mean()
    assert corrected > plain + 0.05


def test_where_the_mix_is_the_assumed_one_little_changes() -> None:
    posteriors, _ = two_gaussians(0.5)
    corrected = correct_prior_shift(torch.from_numpy(np.log(posteriors)), np.array([0.5, 0.5])).numpy()
    assert (corrected != posteriors.argmax(axis=1)).mean() < 0.01


def test_no_cell_is_no_prediction() -> None:
    assert len(correct_prior_shift(torch.zeros(0, 3), np.full(3, 1 / 3))) == 0
