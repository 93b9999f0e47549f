"""How large a share one clinic can have."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbc_common.study import AggregationSettings
from wbc_server.aggregation.weights import (
    backbone_shares,
    cap_shares,
    plan_weights,
)


@pytest.mark.parametrize(
    ("weights", "max_share", "expected"),
    [
        ([80, 10, 10], 1.0, [80, 10, 10]),
        ([80, 10, 10], 0.5, [20, 10, 10]),
        ([60, 30, 5, 5], 0.4, [20, 20, 5, 5]),
        ([5, 5, 5], 0.4, [5, 5, 5]),
        ([5, 3, 4], 0.2, [3, 3, 3]),  # 1/3 > 0.2: cannot hold, so uniform
        ([5, 3, 0], 0.4, [3, 3, 0]),  # only two have something to say
        ([7, 0], 0.5, [7, 0]),  # the only holder decides
        ([0, 0], 0.5, [0, 0]),
    ],
)
def test_shares_are_capped_as_worked_out_by_hand(weights, max_share, expected):
    np.testing.assert_allclose(cap_shares(np.array(weights, float), max_share), expected)


@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=12), st.floats(0.05, 1))
def test_a_cap_that_can_hold_holds_and_keeps_the_lighter_clinics(weights, max_share):
    before = np.array(weights)
    after = cap_shares(before, max_share)
    assert (after <= before).all()
    assert (after > 0).all()
    assert after.max() / after.sum() <= max(max_share, 1 / len(before)) * (1 + 1e-9)
    lowered = after < before
    np.testing.assert_allclose(after[lowered], after.max(), rtol=1e-12)


def test_a_cap_of_a_third_holds_beside_a_clinic_of_almost_no_weight():
    capped = cap_shares(np.array([9.0, 5.0, 1.0, 1e-18]), 1 / 3)
    np.testing.assert_allclose(capped, [1, 1, 1, 1e-18])


def test_each_head_row_is_capped_by_itself():
    settings = AggregationSettings(head_smoothing=0.0, alpha=0.0, max_share=0.5)
    weights = plan_weights(np.array([[80.0, 5.0], [10.0, 5.0], [10.0, 5.0]]), settings)
    np.testing.assert_allclose(weights.head, [[20, 5], [10, 5], [10, 5]])
    np.testing.assert_allclose(weights.backbone, [30, 15, 15])


def test_uniform_weighs_every_clinic_the_same_for_every_row() -> None:
    weights = plan_weights(np.array([[900.0, 0], [1, 9]]), AggregationSettings(rule="uniform"))
    assert (weights.backbone.tolist(), weights.head.tolist()) == ([1, 1], [[1, 1], [1, 1]])


def test_shares_of_the_backbone_are_those_of_the_weights_and_equal_under_an_order_statistic():
    counts = np.array([[6.0, 0], [2, 2]])
    # FedAvg: 6 and 4 cells. Class-count-aware, alpha 1: a = (5/8, 5/2), so 6·5/8 and 2·5/8 + 2·5/2.
    assert backbone_shares(counts, AggregationSettings(rule="fedavg")).tolist() == [0.6, 0.4]
    assert backbone_shares(counts, AggregationSettings(alpha=1.0)).tolist() == [0.375, 0.625]
    assert backbone_shares(counts, AggregationSettings(robust="krum")).tolist() == [0.5, 0.5]
