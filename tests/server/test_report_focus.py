"""A report of very many clinics shows a few one by one, and says so."""

from wbc_server.report.focus import MOST, note, only, shown_clinics
from wbc_server.report.inputs import Evaluation, Metrics, Round, Run


def a_run(training: int, held_out: int) -> Run:
    """Clinics t000… and h000…, macro-F1 rising with the number."""

    def evaluations(letter: str, number: int) -> dict[str, Evaluation]:
        return {
            f"{letter}{place:03d}": Evaluation.model_validate(
                {"confusion": [[place, 1], [1, 1]], "macro_f1": {"value": place / 1000}}
            )
            for place in range(number)
        }

    inside, outside = evaluations("t", training), evaluations("h", held_out)
    roles = {**dict.fromkeys(inside, "train"), **dict.fromkeys(outside, "held-out")}
    metrics = Metrics.model_validate(
        {
            "study": {"name": "many", "hash": "0", "seed": 0, "registry": "r", "classes": ["a", "b"], "rounds": 1},
            "clinics": {name: {"role": role} for name, role in roles.items()},
            "egress_bytes": {name: {"update": 5} for name in roles},
            "in_domain": inside,
            "held_out": outside,
        }
    )
    matrix = [[1, 0], [0, 1]]
    record = Round.model_validate(
        {
            "round": 1,
            "train": {name: {"loss": 1.0} for name in inside},
            "validation": dict.fromkeys(inside, matrix),
            "held_out": dict.fromkeys(outside, matrix),
        }
    )
    return Run(metrics=metrics, rounds=(record,))


def test_of_a_few_clinics_all_are_shown_and_nothing_is_said() -> None:
    run = a_run(MOST, 2)
    names = shown_clinics(run.metrics)
    assert names == set(run.metrics.clinics)
    assert note(run.metrics, names) == ""
    assert only(run, names) == run


def test_of_many_those_with_the_lowest_macro_f1_of_each_role_are_shown() -> None:
    run = a_run(1000, 2)
    names = shown_clinics(run.metrics)
    assert names == {f"t{place:03d}" for place in range(MOST)} | {"h000", "h001"}
    few = only(run, names)
    assert set(few.metrics.clinics) == set(few.metrics.egress_bytes) == names
    assert len(few.rounds[0].train) == len(few.rounds[0].validation or {}) == MOST
    assert note(run.metrics, names).startswith(f"1,002 clinics took part. Tables and charts show the {MOST} of each")
    assert f"the other {1002 - len(names)} are in metrics.json" in note(run.metrics, names)


def test_a_clinic_without_any_figure_is_shown_before_those_with_one() -> None:
    run = a_run(50, 0)
    silent = {name: one for name, one in run.metrics.in_domain.items() if name != "t049"}
    metrics = run.metrics.model_copy(update={"in_domain": silent})
    assert "t049" in shown_clinics(metrics)
