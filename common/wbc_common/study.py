"""StudyConfig: the plan that every party of a study approves, and the hash by which they know it is the same plan.

One frozen pydantic tree, read from TOML. An unknown key is refused by name; every default is the method of
docs/method.md, so that each ablation is one setting. `hash` covers the whole plan and the class registry: a clinic
compares it with each message.
"""

import difflib
import hashlib
import json
import math
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from wbc_common.cells import REGISTRIES, Registry, registry
from wbc_common.errors import SettingError

Model = TypeVar("Model", bound=BaseModel)
ClinicId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Role = Literal["train", "held-out"]
PrecisionSetting = Literal["auto", "fp32", "bf16"]


class Settings(BaseModel):
    """Frozen settings that refuse unknown keys and values that are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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
        size_px: side of the square image that enters the network.
        white_balance: divide each image by its own background colour (docs/method.md §3).
        framing: `nucleus` windows each image on its nucleus, so that cells are of one size whatever the clinic's crops
            (`wbc_common.framing`); `as-is` takes the crops as they come.
    """

    size_px: int = Field(64, ge=16, le=512)
    white_balance: bool = True
    framing: Literal["nucleus", "as-is"] = "nucleus"

    @property
    def source_px(self) -> int:
        """Side at which images are read, before framing: larger, so that a window keeps its detail."""
        return self.size_px if self.framing == "as-is" else self.size_px * 3 // 2


class ModelSettings(Settings):
    """Backbone and its initial weights.

    `weights` is `phantom` (the backbone shipped with the package, trained on in-silico cells only), `none` (random),
    a local .safetensors/.pth file, or a torchvision weights name. Left out, it is `phantom` for the backbone that we
    ship one for, as a hospital may have no way to download any, and `none` for others.
    """

    backbone: Literal["cnn-small", "resnet18"] = "cnn-small"
    weights: str = "phantom"

    @model_validator(mode="before")
    @classmethod
    def _random_where_none_is_shipped(cls, values: Any) -> Any:
        if isinstance(values, dict) and "weights" not in values and values.get("backbone", "cnn-small") != "cnn-small":
            return {**values, "weights": "none"}
        return values


class TrainingSettings(Settings):
    """Local training at a clinic.

    Attributes:
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
    augmentation: Literal["none", "geometric", "stain"] = "stain"
    precision: PrecisionSetting = "auto"


class LossSettings(Settings):
    """The domain-aware loss L1 + w2·L2 + w3·L3 + (μ/2)·‖θ − θ_t‖²; a weight of 0 switches a term off."""

    classification: Literal["logit-adjusted", "cross-entropy"] = "logit-adjusted"
    tau: float = Field(1.0, ge=0, le=10, description="strength of the prior's correction")
    kappa: float = Field(1.0, gt=0, le=1000, description="pseudo-cells that smooth the prior")
    alignment_weight: float = Field(0.1, ge=0, le=10, description="w2")
    alignment_warmup: float = Field(0.15, ge=0, le=1, description="share of the rounds before L2 starts")
    alignment_temperature: float = Field(0.15, gt=0, le=10, description="T")
    alignment_exponent: float = Field(0.5, ge=0, le=2, description="ν")
    alignment_min_cells: int = Field(50, ge=1, description="n_min: cells of other clinics an anchor needs")
    guide_weight: float = Field(0.5, ge=0, le=10, description="w3")
    proximal_weight: float = Field(0.0, ge=0, le=10, description="μ, FedProx")

    def aligns(self, round_number: int, rounds: int) -> bool:
        """Whether L2 counts in a round (from 1): the first `alignment_warmup` share of the rounds goes without."""
        # The tolerance mends products such as 0.07·100 = 7.000000000000001, which would cost one round more.
        warm_up_rounds = math.ceil(self.alignment_warmup * rounds - 1e-9)
        return self.alignment_weight > 0 and round_number > warm_up_rounds


class AggregationSettings(Settings):
    """The server's rule, docs/method.md §2."""

    rule: Literal["class-count-aware", "fedavg"] = "class-count-aware"
    alpha: float = Field(0.5, ge=0, le=1, description="how much a rare class lifts the clinics that hold it")
    head_smoothing: float = Field(0.5, ge=0, description="λ: pulls a head row's weights towards FedAvg's")
    step_size: float = Field(1.0, gt=0, le=10, description="η")
    max_share: float = Field(1.0, gt=0, le=1, description="cap on one clinic's share of any weight")
    max_update_norm: float = Field(1e4, gt=0, description="an update with a larger L2 norm is refused")


class EvaluationSettings(Settings):
    """How the model is measured and chosen; selection looks at training clinics' validation cells alone."""

    every_rounds: int = Field(1, ge=1)
    selection: Literal["best-validation", "last"] = "best-validation"
    bootstrap_replicates: int = Field(500, ge=0, le=10_000)


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

    @property
    def classes(self) -> Registry:
        """The class registry."""
        return registry(self.registry)

    @property
    def hash(self) -> str:
        """SHA-256 of the plan and of the registry's meaning."""
        canonical = json.dumps([self.model_dump(mode="json"), REGISTRIES[self.registry].digest], sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

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
    path.write_bytes(tomli_w.dumps(study.model_dump(mode="json")).encode())


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file.

    Raises:
        SettingError: it cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"cannot read {path}: {error.strerror}", remedy="check the path and its rights") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"{path} is not valid TOML: {error}", remedy="correct that line") from error


def validated(model: type[Model], values: dict[str, Any], origin: str) -> Model:
    """`model` from plain values, with pydantic's complaints turned into one SettingError that names each key."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [_complaint(model, detail) for detail in error.errors()]
        raise SettingError(
            f"{origin}: " + "; ".join(lines), remedy="correct the settings named above and run again"
        ) from error


def _complaint(model: type[BaseModel], detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = _known_keys(model, detail["loc"][:-1])
        close = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        return f"unknown setting '{key}'" + (
            f" (did you mean '{close[0]}'?)" if close else f"; known: {', '.join(known)}"
        )
    if detail["type"] == "missing":
        return f"setting '{key}' is missing"
    return f"{key or 'settings'} = {detail['input']!r}: {detail['msg']}"


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        model = field.annotation
    return list(model.model_fields)
