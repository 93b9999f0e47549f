"""[model]: the backbone, what it starts from, and the rows of its head (docs/method.md §4)."""

from typing import Any, Literal

from pydantic import model_validator

from wbc_common.settings.reading import Settings, table_of

_WITH_SHIPPED_WEIGHTS = ("cnn-small", "p4cnn-small")


def with_cells_by_themselves_from_random_weights(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan's values with `evaluation.together` off where the network starts at random and the plan does not say.

    What such a network sees alike is often not of one class, and rare classes are outvoted (docs/results.md).
    """
    model, evaluation = table_of(plan, "model"), plan.get("evaluation", {})
    shipped = "phantom" if model.get("backbone", "cnn-small") in _WITH_SHIPPED_WEIGHTS else "none"
    if not isinstance(evaluation, dict) or "together" in evaluation or model.get("weights", shipped) != "none":
        return plan
    return {**plan, "evaluation": {**evaluation, "together": False}}


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
