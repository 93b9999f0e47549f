"""The plan: what it may say, how it complains, and the hash by which parties know it."""

import re
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from wbc_common.errors import SettingError
from wbc_common.study import LossSettings, ModelSettings, StudyConfig, parse_study, read_study, write_study

LEAST: dict[str, Any] = {"name": "s", "clinics": {"train": ["a", "b"], "held_out": ["c"]}}

ALIGNED = {"alignment_weight": 0.1}


def study(**changes: Any) -> StudyConfig:
    return parse_study({**LEAST, **changes}, "study.toml")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"round": 3}, r"unknown setting 'round' \(did you mean 'rounds'\?\)"),
        (
            {"loss": {"alignment_wieght": 1}},
            r"unknown setting 'loss.alignment_wieght' \(did you mean 'alignment_weight'",
        ),
        ({"clinics": {"train": ["a"], "heldout": ["b"]}}, r"'clinics.heldout' \(did you mean 'held_out'"),
        ({"qqq": 1}, "unknown setting 'qqq'; known: name, registry, seed, rounds"),
        ({"images": {"qqq": 1}}, "unknown setting 'images.qqq'; known: size_px, white_balance"),
        ({"rounds": 0}, "rounds = 0: .*greater than or equal to 1"),
        ({"rounds": "many"}, "rounds = 'many'"),
        ({"registry": "wbc7"}, "registry = 'wbc7'.*'wbc5', 'wbc11' or 'wbc13'"),
        ({"loss": {"tau": float("nan")}}, "loss.tau = nan"),
        ({"loss": {"guide_weight": float("inf")}}, "loss.guide_weight = inf"),
        ({"training": 3}, "training = 3"),
        ({"images": {"field_um": 20}}, "field_um keeps cells' sizes.* set framing = 'as-is'"),
        ({"images": {"field_um": 1, "framing": "as-is"}}, "images.field_um = 1"),
        ({"name": "../up"}, "name = '../up'"),
        ({"clinics": {"train": []}}, "clinics.train"),
        ({"clinics": {"train": ["a/b"]}}, "clinics.train.0 = 'a/b'"),
        ({"clinics": {"train": ["a", "b"], "held_out": ["b"]}}, "one role; named twice: b"),
        ({"clinics": {"train": ["a", "a"]}}, "one role; named twice: a"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_expected(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SettingError, match=complaint) as found:
        study(**changes)
    assert "study.toml" in found.value.problem


def test_all_wrong_settings_are_named_at_once() -> None:
    with pytest.raises(SettingError) as found:
        parse_study({"round": 1, "loss": {"tau": -1}}, "study.toml")
    for part in ("'name' is missing", "'clinics' is missing", "'round'", "loss.tau = -1"):
        assert part in found.value.problem


def test_a_plan_cannot_be_changed_once_read() -> None:
    with pytest.raises(ValueError, match="frozen"):
        study().rounds = 3  # type: ignore[misc]


def test_the_plan_and_its_hash_survive_toml_and_json(tmp_path: Path) -> None:
    before = study(loss={"tau": 0.1 + 0.2, "alignment_min_cells": 7}, training={"learning_rate": 1e-5})
    write_study(before, tmp_path / "study.toml")
    assert read_study(tmp_path / "study.toml") == before
    assert read_study(tmp_path / "study.toml").hash == before.hash
    assert StudyConfig.model_validate_json(before.model_dump_json()).hash == before.hash


def test_a_default_written_out_or_a_whole_number_for_a_float_is_the_same_plan() -> None:
    assert study(rounds=10, loss={"kappa": 1}).hash == study().hash


def _leaves(model: type[BaseModel], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found: list[tuple[tuple[str, ...], Any]] = []
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found += _leaves(annotation, (*path, name))
        else:
            found.append(((*path, name), annotation))
    return found


def _another(value: Any, annotation: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return (*value, "zz")
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 if value else 0.5
    if get_origin(annotation) in (Union, UnionType):  # a word, or a table of shares
        return {"neutrophil": 1.0}
    choices = [choice for choice in get_args(annotation) if choice != value]
    return choices[0] if get_origin(annotation) and choices else value + "x"


def _with_another(model: Any, path: tuple[str, ...], annotation: Any) -> Any:
    """The model with one leaf changed, not checked: some settings are only allowed together with others."""
    value = getattr(model, path[0])
    changed = _with_another(value, path[1:], annotation) if path[1:] else _another(value, annotation)
    return model.model_copy(update={path[0]: changed})


@pytest.mark.parametrize("leaf", _leaves(StudyConfig), ids=lambda leaf: ".".join(leaf[0]))
def test_the_hash_changes_with_every_setting(leaf: tuple[tuple[str, ...], Any]) -> None:
    path, annotation = leaf
    assert _with_another(study(), path, annotation).hash != study().hash


def test_the_hash_covers_the_meaning_of_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    before = study().hash
    monkeypatch.setattr("wbc_common.study.REGISTRIES", {"wbc5": type("R", (), {"digest": "other"})})
    assert study().hash != before


def test_a_clinic_has_the_role_the_plan_gives_it_and_a_stranger_has_none() -> None:
    assert [study().role(name) for name in "abc"] == ["train", "train", "held-out"]
    with pytest.raises(SettingError, match="'d' is not part of study 's', which names a, b, c"):
        study().role("d")


@pytest.mark.parametrize(
    ("warmup", "rounds", "first"),
    [
        (0.15, 10, 3),  # ⌈1.5⌉ = 2 rounds without
        (0.0, 10, 1),
        (0.2, 10, 3),
        (0.07, 100, 8),  # 0.07·100 is 7.000000000000001 in floating point
        (0.15, 1, 2),
        (0.5, 4, 3),
    ],
)
def test_the_alignment_term_starts_after_the_warm_up(warmup: float, rounds: int, first: int) -> None:
    settings = LossSettings(alignment_weight=0.1, alignment_warmup=warmup)
    starts = [number for number in range(1, rounds + 1) if settings.aligns(number, rounds)]
    assert starts == list(range(first, rounds + 1))


def test_a_weight_of_0_or_a_whole_warm_up_never_aligns() -> None:
    assert not any(LossSettings(alignment_weight=0).aligns(number, 10) for number in range(1, 11))
    assert not any(
        LossSettings(alignment_weight=0.1, alignment_warmup=1.0).aligns(number, 10) for number in range(1, 11)
    )


def test_a_file_that_windows_wrote_is_read(tmp_path: Path) -> None:
    write_study(study(), tmp_path / "study.toml")
    text = (tmp_path / "study.toml").read_text(encoding="utf-8").replace("\n", "\r\n")
    (tmp_path / "study.toml").write_bytes(text.encode("utf-8-sig"))
    assert read_study(tmp_path / "study.toml") == study()


@pytest.mark.parametrize(
    ("content", "complaint"), [(b"name = ", "not valid TOML"), (b'name = "\xff"', "not valid TOML")]
)
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "study.toml").write_bytes(content)
    with pytest.raises(SettingError, match=complaint):
        read_study(tmp_path / "study.toml")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"cannot read .*none\.toml"):
        read_study(tmp_path / "none.toml")


@pytest.mark.parametrize("backbone", ["convnext-tiny", "convnext-small"])
def test_a_backbone_that_shrinks_images_to_nothing_is_refused(backbone: str) -> None:
    told = {"name": "s", "clinics": {"train": ["a", "b"]}, "model": {"backbone": backbone}}
    assert parse_study({**told, "images": {"size_px": 32}}, "test").model.weights == "none"
    with pytest.raises(
        SettingError, match=f"'{backbone}' shrinks images 32 times, and images.size_px is 31: set it to 32"
    ):
        parse_study({**told, "images": {"size_px": 31}}, "test")


def test_a_study_starts_from_the_shipped_backbone_where_there_is_one() -> None:
    assert ModelSettings().weights == "phantom"
    assert ModelSettings(backbone="resnet18").weights == "none"
    assert ModelSettings(backbone="resnet18", weights="a.pth").weights == "a.pth"


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        (
            {"clinics": {"train": ["a"]}, "loss": ALIGNED},
            "alignment_weight = 0.1 aligns each clinic to the total of the others' class sums, and a sole training",
        ),
        (
            {"loss": ALIGNED},
            "of 2 training clinics is one clinic's own, never to be shared: set it to 0, or name at least 3",
        ),
        ({"loss": {"alignment": "boda-paper", **ALIGNED}}, "every domain's prototypes in one place"),
        ({"training": {"head_only_rounds": 11}}, "head_only_rounds = 11 exceeds the 10 rounds"),
        ({"aggregation": {"robust": "krum"}}, "needs 3 training clinics (2f + 3), and the study names 2"),
        ({"aggregation": {"robust": "trimmed-mean"}}, "trim_fraction = 0.2 of 2 training clinics cuts off none"),
        ({"aggregation": {"optimizer": "fedadam"}}, "step_size = 1.0 with 'fedadam' moves every weight"),
        (
            {"privacy": {"mode": "dp-sgd"}, "loss": ALIGNED},
            "does not cover the class sums that loss.alignment_weight > 0 sends",
        ),
        (
            {"privacy": {"mode": "dp-sgd", "noise_multiplier": 0.0}},
            "without noise there is no privacy",
        ),
        ({"personal": {"clinics": ["c"]}}, "clinics that do not train: c"),
        (
            {"personal": {"clinics": ["a"]}, "privacy": {"mode": "dp-sgd"}},
            "does not cover a personal head",
        ),
        ({"aggregation": {"alpha": 1.5}}, "aggregation.alpha = 1.5: Input should be less than or equal to 1"),
        (
            {"evaluation": {"prediction_prior": "training"}, "loss": {"classification": "cross-entropy"}},
            "other logits carry the training prior already",
        ),
        ({"evaluation": {"prediction_prior": "training"}, "loss": {"tau": 0.0}}, "loss.tau above 0"),
        ({"evaluation": {"prediction_prior": {"blast": 1.0}}}, "unknown classes: blast"),
        ({"evaluation": {"prediction_prior": {"monocyte": -1.0}}}, "shares from 0"),
    ],
)
def test_settings_that_cannot_be_together_are_refused_with_the_reason(tables: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingError, match=re.escape(reason)):
        study(**tables)


def test_the_last_rounds_train_the_head_alone_and_do_not_align() -> None:
    loss = {**ALIGNED, "alignment_warmup": 0.0}
    plan = study(rounds=6, clinics={"train": ["a", "b", "c"]}, training={"head_only_rounds": 2}, loss=loss)
    assert [plan.trains_head_only(number) for number in range(1, 7)] == [False] * 4 + [True] * 2
    assert [plan.aligns(number) for number in range(1, 7)] == [True] * 4 + [False] * 2


def test_a_plan_with_dp_sgd_has_batches_and_a_rate_of_its_own_where_it_names_none(tmp_path: Path) -> None:
    private = study(privacy={"mode": "dp-sgd"})
    assert (private.training.batch_size, private.training.learning_rate) == (256, 3e-4)
    assert private.training.local_epochs == study().training.local_epochs
    stated = study(privacy={"mode": "dp-sgd"}, training={"batch_size": 32, "local_epochs": 1})
    assert (stated.training.batch_size, stated.training.learning_rate, stated.training.local_epochs) == (32, 3e-4, 1)
    write_study(stated, tmp_path / "study.toml")
    assert read_study(tmp_path / "study.toml") == stated
    assert study().training.batch_size == study(privacy={"epsilon": 3.0}).training.batch_size == 32


@pytest.mark.parametrize(
    ("tables", "together"),
    [
        ({}, True),
        ({"model": {"weights": "none"}}, False),
        ({"model": {"backbone": "resnet18"}}, False),
        ({"model": {"backbone": "resnet18", "weights": "own.pth"}}, True),
        ({"model": {"weights": "none"}, "evaluation": {"together": True}}, True),
        ({"evaluation": {"together": False}}, False),
    ],
)
def test_cells_are_predicted_together_but_for_networks_that_start_at_random(
    tables: dict[str, Any], together: bool
) -> None:
    study = parse_study({"name": "t", "clinics": {"train": ["here"]}, **tables}, "t")
    assert study.evaluation.together is together
