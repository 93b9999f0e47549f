"""Cautions that a plan's settings call for."""

from wbc_common.study import parse_study
from wbc_server.cautions import cautions


def test_a_plan_of_defaults_calls_for_none() -> None:
    assert cautions(parse_study({"name": "s", "clinics": {"train": ["a", "b"]}}, "test")) == []


def test_an_order_statistic_is_said_to_discard_the_minority() -> None:
    clinics = {"train": ["a", "b", "c"]}
    study = parse_study({"name": "s", "clinics": clinics, "aggregation": {"robust": "krum"}}, "test")
    (caution,) = cautions(study)
    assert "'krum' is an order statistic: it discards what only a minority of clinics knows" in caution
