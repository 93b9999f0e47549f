"""Cautions that a plan's settings call for."""

from wbc_common.study import parse_study
from wbc_server.cautions import cautions, heavy_cautions


def test_a_plan_of_defaults_calls_for_none() -> None:
    assert cautions(parse_study({"name": "s", "clinics": {"train": ["a", "b"]}}, "test")) == []


def test_an_order_statistic_is_said_to_discard_the_minority() -> None:
    clinics = {"train": ["a", "b", "c"]}
    study = parse_study({"name": "s", "clinics": clinics, "aggregation": {"robust": "krum"}}, "test")
    (caution,) = cautions(study)
    assert "'krum' is an order statistic: it discards what only a minority of clinics knows" in caution


def test_a_clinic_that_outweighs_all_others_is_named_with_its_share() -> None:
    (caution,) = heavy_cautions({"a": 0.625, "b": 0.25, "c": 0.125})
    assert caution.startswith("By the cells it declared, a has 62.5 % of the backbone's weight")


def test_equal_clinics_and_a_clinic_alone_call_for_no_word_about_weight() -> None:
    assert heavy_cautions({"a": 0.5, "b": 0.5}) == []
    assert heavy_cautions({"a": 1.0}) == []
