"""DP-SGD at the coordinator: refused before anybody trains, and told afterwards."""

import numpy as np
import pytest
from torch import nn

from wbc_common.errors import SettingError
from wbc_common.privacy import check_backbone
from wbc_common.study import StudyConfig, parse_study
from wbc_server.privacy import check_privacy, privacy_spent

COUNTS = np.array([50.0, 30, 20, 0, 0])


def a_study(**privacy: object) -> StudyConfig:
    values = {"name": "s", "clinics": {"train": ["a", "b"]}, "loss": {"alignment_weight": 0.0}}
    return parse_study({**values, "privacy": {"mode": "dp-sgd", **privacy}}, "test")


@pytest.mark.parametrize("backbone", ["cnn-small", "p4cnn-small", "resnet18"])
def test_our_backbones_can_be_trained_privately(backbone: str) -> None:
    study = a_study().model_copy(update={"model": a_study().model.model_copy(update={"backbone": backbone})})
    check_privacy(study, {"a": COUNTS, "b": COUNTS})


def test_a_backbone_whose_scales_opacus_does_not_know_is_refused_before_anybody_trains() -> None:
    study = a_study()
    study = study.model_copy(update={"model": study.model.model_copy(update={"backbone": "convnext-tiny"})})
    with pytest.raises(SettingError, match=r"'convnext-tiny' cannot be trained .*CNBlock has parameters of its own"):
        check_privacy(study, {"a": COUNTS, "b": COUNTS})


def test_a_network_that_mixes_the_cells_of_a_batch_is_refused() -> None:
    with pytest.raises(SettingError, match=r"backbone 'other' cannot be trained under privacy.mode = 'dp-sgd'"):
        check_backbone(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), "other")


def test_a_delta_of_one_over_n_is_refused_with_the_clinics_name() -> None:
    with pytest.raises(SettingError, match=r"privacy.delta = 0.01 is not below 1/n for the 100 training cells of b"):
        check_privacy(a_study(delta=0.01), {"a": 0.9 * COUNTS, "b": COUNTS})


def test_the_last_stated_epsilon_of_each_clinic_is_told() -> None:
    found = privacy_spent(a_study(epsilon=3.0), {"a": 2.0, "b": 1.5})
    assert found is not None
    assert (found["epsilon"], found["delta"], found["spent"]) == (3.0, 1e-5, {"a": 2.0, "b": 1.5})


def test_without_dp_sgd_there_is_nothing_to_tell() -> None:
    assert privacy_spent(a_study(mode="none"), {}) is None
