"""[personal]: heads that clinics keep for themselves (docs/method.md §8)."""

from pydantic import Field

from wbc_common.settings.reading import Settings


class PersonalSettings(Settings):
    """Training clinics that fit a head of their own to the finished model.

    The head never leaves; its confusion counts on the clinic's test cells do, so that it is measured beside the global
    one.

    Attributes:
        clinics: training clinics that want one.
        epochs: passes over the clinic's training cells, with the plan's batch size, augmentation and loss L1.
        learning_rate: constant.
    """

    clinics: tuple[str, ...] = ()
    epochs: int = Field(10, ge=1, le=1000)
    learning_rate: float = Field(1e-3, gt=0, le=10)
