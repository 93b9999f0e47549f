"""What a clinic and the coordinator's gateway say to each other beside Flower's own traffic.

A clinic signs the time of each request with its key, as Flower's SuperNode does; `hello` uses the same headers, so that
`wbc-client check` proves exactly what a SuperNode will need: that the key is enrolled and the clock is right.
"""

from pydantic import BaseModel, ConfigDict

FLEET_PREFIX = "/v1/fleet/"
HEALTH_PATH = "/health"
HELLO_PATH = "/v1/wbc/hello"
BANDWIDTH_PATH = "/v1/wbc/bandwidth"

# Flower's headers and its tolerance of clocks (flwr.common.constant); a contract test compares them.
KEY_HEADER, SIGNATURE_HEADER, TIME_HEADER = "flwr-public-key", "flwr-signature", "flwr-timestamp"
CLOCK_AHEAD_SECONDS, CLOCK_BEHIND_SECONDS = 5.0, 305.0


class Welcome(BaseModel):
    """The gateway's answer to `hello`: who the key belongs to, the plan it runs, and the coordinator's time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clinic: str
    role: str
    plan: str
    bundle: str
    time: str
