"""The initial model, and its share in the exported one."""

import numpy as np
import pytest

from wbc_common.errors import SettingError
from wbc_common.study import StudyConfig, parse_study
from wbc_server.initial import initial_model, with_initial_share


def a_study(share: float, weights: str = "phantom") -> StudyConfig:
    values = {"name": "s", "clinics": {"train": ["a", "b"]}, "model": {"weights": weights}}
    return parse_study({**values, "evaluation": {"initial_share": share}}, "test")


def test_without_a_share_the_model_is_itself() -> None:
    model = {"head.bias": np.ones(5, np.float32)}
    assert with_initial_share(model, a_study(0.0)) is model


def test_the_exported_model_lies_between_the_initial_one_and_the_trained_one() -> None:
    initial = initial_model(a_study(0.25))
    trained = {key: value + np.float32(1) for key, value in initial.items()}
    found = with_initial_share(trained, a_study(0.25))
    for key, value in initial.items():
        np.testing.assert_allclose(found[key], value + 0.75, rtol=1e-5, atol=1e-6)
        assert found[key].dtype == value.dtype


def test_integers_are_the_trained_models() -> None:
    study = a_study(0.5)
    trained = {**initial_model(study), "head.bias": np.array([7, 7, 7, 7, 7])}
    assert with_initial_share(trained, study)["head.bias"].tolist() == [7] * 5


def test_a_share_of_a_random_start_is_refused() -> None:
    with pytest.raises(SettingError, match="starts at random: set it to 0"):
        a_study(0.5, "none")
