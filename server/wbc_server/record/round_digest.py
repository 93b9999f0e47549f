"""What is still wanted of a past round: it does not grow with the number of clinics; the journal has all of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wbc_server.record.checkpoints import CheckpointRef
from wbc_server.selection import mean_macro_f1


@dataclass(frozen=True)
class RoundDigest:
    """A round's plan, where its model and the server's state lie, its score, its time, and who was refused."""

    round_number: int
    plan: str
    checkpoint: CheckpointRef
    validation_macro_f1: float
    seconds: float
    refused: tuple[dict[str, Any], ...]
    server_state: CheckpointRef | None = None


def digest_of(record: Mapping[str, Any]) -> RoundDigest:
    """The digest of a round's record."""
    return RoundDigest(
        int(record["round"]),
        record["plan"],
        CheckpointRef(**record["checkpoint"]),
        mean_macro_f1(record["validation"]),
        record["seconds"],
        tuple(record["refused"]),
        CheckpointRef(**record["server_state"]) if "server_state" in record else None,
    )
