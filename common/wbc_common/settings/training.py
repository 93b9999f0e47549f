"""[training]: how a clinic trains in a round."""

from typing import Literal

from pydantic import Field

from wbc_common.settings.reading import Settings

PrecisionSetting = Literal["auto", "fp32", "bf16"]


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
