"""[participation]: waiting for clinics between hospitals."""

import math

from pydantic import Field

from wbc_common.settings.reading import Settings


class ParticipationSettings(Settings):
    """Between hospitals: how long the coordinator waits, and with how few clinics it goes on; nothing waits for ever.

    Attributes:
        join_minutes: how long a start waits for the clinics that the plan names.
        round_minutes: how long an exchange waits for its answers; a message that is older is not worked on.
        quorum: share of the training clinics whose updates a round needs; with fewer the study stops, to be resumed.
    """

    join_minutes: float = Field(60.0, gt=0, le=10_080)
    round_minutes: float = Field(360.0, gt=0, le=10_080)
    quorum: float = Field(0.5, gt=0, le=1)

    def clinics_needed(self, training: int) -> int:
        """Updates that a round of `training` clinics needs; at least one."""
        return max(1, math.ceil(self.quorum * training - 1e-9))
