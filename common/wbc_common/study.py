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
from wbc_common.settings.loss import LossSettings
from wbc_common.settings.participation import ParticipationSettings
from wbc_common.settings.personal import PersonalSettings
from wbc_common.settings.privacy import PrivacySettings, with_private_training
from wbc_common.settings.reading import Settings, read_toml, validated
from wbc_common.settings.rehearsal import with_rehearsal_where_it_fits
from wbc_common.settings.rules import contradictions
from wbc_common.settings.server import AggregationSettings, EvaluationSettings
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
PrecisionSetting = Literal["auto", "fp32", "bf16"]


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


class ImageSettings(Settings):
    """What the network sees.

    Attributes:
        size_px: side of the square image that enters the network. 128 did better at clinics left out than 96, and 96
            better than 64 (docs/results.md); the work grows with the pixels.
        white_balance: divide each image by its own background colour (docs/method.md §3).
        framing: `nucleus` windows each image on its nucleus, so that cells are of one size whatever the clinic's crops
            (`wbc_common.framing`); `as-is` takes the crops as they come.
        field_um: width of the field that each image shows around its centre, in µm, for clinics that all know their µm
            per pixel: cells keep their size relative to each other. Needs `as-is`; None leaves the crops' own scale.
        nuclear_stain: how far each image's dyes are brought to one strength of its nucleus, 0 (not at all) to 1
            (`wbc_common.nuclear_stain`). Needs `white_balance`, as dyes are measured from the background. Better in
            silico and not on the real clinics, so it is off (docs/results.md).
    """

    size_px: int = Field(128, ge=16, le=512)
    white_balance: bool = True
    framing: Literal["nucleus", "as-is"] = "nucleus"
    field_um: float | None = Field(None, ge=5, le=200)
    nuclear_stain: float = Field(0, ge=0, le=1)

    @model_validator(mode="after")
    def _one_scale(self) -> Self:
        if self.field_um is not None and self.framing != "as-is":
            raise ValueError("field_um keeps cells' sizes, framing = 'nucleus' evens them out: set framing = 'as-is'")
        return self

    @model_validator(mode="after")
    def _measured_from_white(self) -> Self:
        if self.nuclear_stain and not self.white_balance:
            raise ValueError(
                "nuclear_stain measures dyes from a balanced background: set it to 0, or white_balance = true"
            )
        return self

    @property
    def source_px(self) -> int:
        """Side at which images are read, before framing: larger, so that a window keeps its detail."""
        return self.size_px if self.framing == "as-is" else self.size_px * 3 // 2


_WITH_SHIPPED_WEIGHTS = ("cnn-small", "p4cnn-small")


class ModelSettings(Settings):
    """Backbone and its initial weights.

    `weights` is `phantom` (the backbone shipped with the package, trained on in-silico cells only), `none` (random),
    a local .safetensors/.pth file, or a torchvision weights name. Left out, it is `phantom` for the backbones that we
    ship one for, as a hospital may have no way to download any, and `none` for others. `fine_classes` keeps a row of
    the head for each of the 13 classes whatever the registry (`wbc_common.head_rows`); without it a class has one row.
    """

    backbone: Literal["cnn-small", "p4cnn-small", "resnet18", "convnext-tiny", "convnext-small"] = "cnn-small"
    weights: str = "phantom"
    fine_classes: bool = True

    @model_validator(mode="before")
    @classmethod
    def _random_where_none_is_shipped(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "weights" in values or "backbone" not in values:
            return values
        return values if values["backbone"] in _WITH_SHIPPED_WEIGHTS else {**values, "weights": "none"}


class TrainingSettings(Settings):
    """Local training at a clinic.

    Attributes:
        rehearsal: in-silico cells of all classes that local training sees for each of the clinic's own
            (`wbc_client.training.rehearsal`); 0 for none. Left out, it is 1 where cells are prepared as those
            are (`white_balance`, framing `nucleus`) and trained on in the usual way, 0 elsewhere.
        schedule: of the learning rate, over the rounds of the study.
        precision: numbers that convolutions compute in, in training and evaluation: `auto` is bf16 where the clinic's
            processor has it natively, else fp32; `fp32` gives figures that depend least on the machine.
    """

    local_epochs: int = Field(2, ge=1, le=100)
    batch_size: int = Field(32, ge=1, le=4096)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0, le=10)
    weight_decay: float = Field(1e-2, ge=0, le=1)
    schedule: Literal["cosine", "constant"] = "cosine"
    augmentation: Literal["none", "geometric", "stain", "federated-stain"] = "stain"
    stain_inflation: float = Field(1.75, ge=1, le=10, description="factor on the variance of federated stains")
    rehearsal: float = Field(1.0, ge=0, le=10)
    head_only_rounds: int = Field(0, ge=0, description="R₂: last rounds that train the head alone, on balanced batches")
    precision: PrecisionSetting = "auto"


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
    def _trained_as_privacy_needs(cls, values: Any) -> Any:
        return with_rehearsal_where_it_fits(with_private_training(values)) if isinstance(values, dict) else values

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
        shared = self.loss.alignment == "leave-self-out" and len(self.clinics.train) > 1
        return shared and self.aligns(round_number + 1)

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
