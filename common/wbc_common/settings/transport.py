"""[transport]: how a clinic's update travels."""

from typing import Literal

from wbc_common.settings.reading import Settings

UpdatePrecision = Literal["fp32", "fp16", "int8"]


class TransportSettings(Settings):
    """What the numbers of an update are rounded to before it leaves; models travel to clinics in fp32.

    Attributes:
        update_precision: `fp32` sends them as they are, `fp16` half of the bytes, `int8` a quarter, with a scale a row.
            What rounding took off stays at the clinic and is added to its next update.
    """

    update_precision: UpdatePrecision = "fp32"
