"""StudyConfig: the plan that every party of a study approves, and the hash by which they know it is the same plan.

One frozen pydantic tree, read from TOML. An unknown key is refused by name; every default is the method of
docs/method.md, so that each ablation is one setting. `hash` covers the whole plan and the class registry: a clinic
compares it with each message.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import Field, model_validator

from wbc_common.cells import REGISTRIES, Registry, registry
from wbc_common.errors import SettingError
from wbc_common.head_rows import HeadRows
from wbc_common.settings.images import ImageSettings
from wbc_common.settings.loss import LossSettings
from wbc_common.settings.model import ModelSettings, with_cells_by_themselves_from_random_weights
from wbc_common.settings.participation import ParticipationSettings
from wbc_common.settings.personal import PersonalSettings
from wbc_common.settings.privacy import PrivacySettings, with_private_training
from wbc_common.settings.reading import Settings, read_toml, validated
from wbc_common.settings.rehearsal import with_rehearsal_where_it_fits
from wbc_common.settings.rules import contradictions
from wbc_common.settings.server import AggregationSettings, EvaluationSettings
from wbc_common.settings.training import TrainingSettings
from wbc_common.settings.transport import TransportSettings, UpdatePrecision

__all__ = [
    "AggregationSettings",
    "ClinicId",
    "ClinicSettings",
    "EvaluationSettings",
    "ImageSettings",
    "LossSettings",
    "ModelSettings",
    "PersonalSettings",
    "PrivacySettings",
    "Role",
    "Settings",
    "StudyConfig",
    "TrainingSettings",
    "TransportSettings",
    "UpdatePrecision",
    "parse_study",
    "read_study",
    "read_toml",
    "validated",
    "write_study",
]

ClinicId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Role = Literal["train", "held-out"]


class ClinicSettings(Settings):
    """Who takes part, by name.

    `train` clinics send updates; `held_out` clinics never train and measure generalisation. No clinic is both.
    """

    train: tuple[ClinicId, ...] = Field(min_length=1)
    held_out: tuple[ClinicId, ...] = ()

    @model_validator(mode="after")
    def _each_clinic_once(self) -> Self:
        names = [*self.train, *self.held_out]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"each clinic has one role; named twice: {', '.join(twice)}")
        return self


class StudyConfig(Settings):
    """A federated study, whole."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]{0,99}$")
    registry: Literal["wbc5", "wbc11", "wbc13"] = "wbc5"
    seed: int = Field(0, ge=0, lt=2**31)
    rounds: int = Field(10, ge=1, le=10_000)
    clinics: ClinicSettings
    images: ImageSettings = ImageSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    loss: LossSettings = LossSettings()
    aggregation: AggregationSettings = AggregationSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    participation: ParticipationSettings = ParticipationSettings()
    transport: TransportSettings = TransportSettings()
    privacy: PrivacySettings = PrivacySettings()
    personal: PersonalSettings = PersonalSettings()

    @model_validator(mode="before")
    @classmethod
    def _defaults_that_hang_on_others(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = with_cells_by_themselves_from_random_weights(with_private_training(values))
        return with_rehearsal_where_it_fits(values)

    @model_validator(mode="after")
    def _nothing_contradicts(self) -> Self:
        found = contradictions(self)
        if found:
            raise ValueError("; ".join(found))
        return self

    @property
    def classes(self) -> Registry:
        """The class registry."""
        return registry(self.registry)

    @property
    def head_rows(self) -> HeadRows:
        """The rows of the network's head."""
        return self.classes.head_rows(fine=self.model.fine_classes)

    @property
    def hash(self) -> str:
        """SHA-256 of the plan and of the registry's meaning."""
        canonical = json.dumps(
            [self.model_dump(mode="json", exclude_none=True), REGISTRIES[self.registry].digest], sort_keys=True
        )
        return hashlib.sha256(canonical.encode()).hexdigest()

    def trains_head_only(self, round_number: int) -> bool:
        """Whether a round (from 1) is one of the last, balanced head-only ones (docs/method.md §1)."""
        return round_number > self.rounds - self.training.head_only_rounds

    def aligns(self, round_number: int) -> bool:
        """Whether L2 counts in a round: after its warm-up, and while the backbone learns."""
        return self.loss.aligns(round_number, self.rounds) and not self.trains_head_only(round_number)

    def evaluates(self, round_number: int) -> bool:
        """Whether the model after a round (from 1) is measured: at every so many rounds, and at the last."""
        return round_number >= 1 and (round_number % self.evaluation.every_rounds == 0 or round_number == self.rounds)

    def shares_sums(self, round_number: int) -> bool:
        """Whether class sums come with a round's updates: where the next round aligns to the anchors of others."""
        return self.loss.alignment == "leave-self-out" and self.aligns(round_number + 1)

    @property
    def pools_stain(self) -> bool:
        """Whether training clinics tell their stain sums at start."""
        return self.training.augmentation == "federated-stain"

    def role(self, clinic: str) -> Role:
        """The role of a clinic of this study.

        Raises:
            SettingError: the study does not name it.
        """
        if clinic in self.clinics.train:
            return "train"
        if clinic in self.clinics.held_out:
            return "held-out"
        named = ", ".join([*self.clinics.train, *self.clinics.held_out])
        raise SettingError(
            f"clinic '{clinic}' is not part of study '{self.name}', which names {named}",
            remedy="use one of these names, or have the coordinator add the clinic to the study",
        )


def parse_study(values: dict[str, Any], origin: str) -> StudyConfig:
    """A StudyConfig from plain values.

    Raises:
        SettingError: naming each wrong key, what it holds and what was expected.
    """
    return validated(StudyConfig, values, origin)


def read_study(path: Path) -> StudyConfig:
    """The study in a TOML file."""
    return parse_study(read_toml(path), path.name)


def write_study(study: StudyConfig, path: Path) -> None:
    """Write the whole plan, defaults included, as TOML."""
    path.write_bytes(tomli_w.dumps(study.model_dump(mode="json", exclude_none=True)).encode())
