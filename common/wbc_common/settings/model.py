"""[model]: the backbone, what it starts from, and the rows of its head (docs/method.md §4)."""

from typing import Any, Literal

from pydantic import model_validator

from wbc_common.settings.reading import Settings, table_of, with_defaults

_WITH_SHIPPED_WEIGHTS = ("cnn-small", "p4cnn-small")


def _with_weights(model: dict[str, Any]) -> dict[str, Any]:
    """A table's values with random weights where it names none, and a backbone that we ship none for."""
    if "weights" in model or model.get("backbone", _WITH_SHIPPED_WEIGHTS[0]) in _WITH_SHIPPED_WEIGHTS:
        return model
    return {**model, "weights": "none"}


def with_cells_by_themselves_from_random_weights(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan's values with `evaluation.together` off where the network starts at random and the plan does not say.

    What such a network sees alike is often not of one class, and rare classes are outvoted (docs/results.md).
    """
    starts_at_random = _with_weights(table_of(plan, "model")).get("weights") == "none"
    return with_defaults(plan, "evaluation", together=False) if starts_at_random else plan


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
        return _with_weights(values) if isinstance(values, dict) else values
