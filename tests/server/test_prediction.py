"""Predicting for a known case mix by the head's bias."""

import numpy as np
import pytest

from wbc_common.errors import SettingError
from wbc_common.study import StudyConfig, parse_study
from wbc_server.prediction import check_counts, for_prediction, source_prior, target_prior

COUNTS = np.array([700.0, 200, 100, 0, 0])


def a_study(*, fine: bool = False, **evaluation: object) -> StudyConfig:
    clinics, model = {"train": ["a", "b"]}, {"fine_classes": fine}
    return parse_study({"name": "s", "clinics": clinics, "model": model, "evaluation": evaluation}, "test")


def a_model() -> dict[str, np.ndarray]:
    return {"head.weight": np.ones((5, 2), np.float32), "head.bias": np.arange(5, dtype=np.float32)}


def test_balanced_prediction_is_the_model_itself() -> None:
    model = a_model()
    assert for_prediction(model, a_study(), COUNTS) is model


def test_the_training_mix_is_added_to_the_bias_with_its_strength_and_the_model_stays() -> None:
    model = a_model()
    found = for_prediction(model, a_study(prediction_prior="training", prediction_tau=0.5), COUNTS)
    expected = [0 + 0.5 * np.log(700.2 / 1001), 1 + 0.5 * np.log(200.2 / 1001), 2 + 0.5 * np.log(100.2 / 1001)]
    np.testing.assert_allclose(found["head.bias"][:3], expected, rtol=1e-6)
    np.testing.assert_array_equal(model["head.bias"], np.arange(5))
    assert found["head.bias"].dtype == np.float32


def test_a_table_of_shares_is_the_prior_whatever_it_sums_to() -> None:
    table = {"neutrophil": 3.0, "monocyte": 1.0}
    study = a_study(prediction_prior=table)
    prior = target_prior(study, COUNTS)
    places = [study.classes.index("neutrophil"), study.classes.index("monocyte")]
    np.testing.assert_allclose(prior[places], [750.2 / 1001, 250.2 / 1001])
    assert prior.sum() == pytest.approx(1)


def test_a_prior_without_a_cell_behind_it_is_refused_by_name() -> None:
    with pytest.raises(SettingError, match="works on class counts, and b declares no training cell"):
        check_counts(a_study(), {"a": COUNTS, "b": 0 * COUNTS})
    check_counts(a_study(), {"a": COUNTS, "b": COUNTS})


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("evaluation", [{}, {"prediction_prior": "training", "prediction_tau": 0.3}])
@pytest.mark.parametrize("fine", [False, True])
def test_posteriors_of_the_exported_model_are_those_under_the_source_prior(
    tau: float, evaluation: dict[str, object], fine: bool
) -> None:
    study = a_study(fine=fine, **evaluation)
    study = study.model_copy(update={"loss": study.loss.model_copy(update={"tau": tau})})
    rows = study.head_rows
    training = (COUNTS + 0.2) / 1001
    likelihood = np.array([0.1, 0.3, 0.2, 0.5, 0.4])  # p(x | y) of one image
    # What a network reaches whose training loss adds τ·log π of each row to its logits: log p(row | x) − τ·log π.
    with np.errstate(divide="ignore", invalid="ignore"):
        logits = np.log(rows.shared(training * likelihood)) - tau * np.log(rows.shared(training))
    named = np.array(rows.class_of)
    model = {"head.bias": np.where(named < 0, 0.0, logits)}
    of_rows = np.exp(for_prediction(model, study, COUNTS)["head.bias"])
    predicted = np.bincount(named[named >= 0], of_rows[named >= 0])
    under = source_prior(study, COUNTS) * likelihood
    np.testing.assert_allclose(predicted / predicted.sum(), under / under.sum())


def test_a_loss_without_adjustment_assumes_the_training_mix() -> None:
    study = a_study()
    plain = study.model_copy(update={"loss": study.loss.model_copy(update={"classification": "cross-entropy"})})
    np.testing.assert_allclose(source_prior(plain, COUNTS), (COUNTS + 0.2) / 1001)
