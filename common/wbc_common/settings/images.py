"""[images]: what the network sees of a cell (docs/method.md §3)."""

from typing import Literal, Self

from pydantic import Field, model_validator

from wbc_common.settings.reading import Settings


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
