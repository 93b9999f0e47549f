"""The federation's stain: one exchange at start, kept in the run's folder so that a resumed run has the same stains.

Training clinics alone are asked; a held-out clinic would refuse, and its stain must stay unseen.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
from flwr.serverapp import Grid

from wbc_common.errors import ConnectionFailure, DataError, WbcError
from wbc_common.files import write_atomically
from wbc_common.stain_sums import StainSums
from wbc_common.study import StudyConfig
from wbc_common.wire import Task, decode_stain_sums, num_bytes
from wbc_server.events import ReplyRefused, announce
from wbc_server.exchange.participation import Roster, content_of, instruct, reason_of
from wbc_server.gate import check_stain_sums
from wbc_server.run_folder import RunFolder


@dataclass(frozen=True)
class StainPool:
    """Stain sums over training clinics, None where the plan pools none, and the bytes that each clinic sent."""

    totals: StainSums | None = None
    sent_bytes: Mapping[str, int] | None = None


def pool_stain(grid: Grid, study: StudyConfig, roster: Roster, folder: RunFolder, timeout_seconds: float) -> StainPool:
    """The pool of this run: read from its folder, or gathered and written there.

    Raises:
        ConnectionFailure: no training clinic sent sums that count.
        DataError: the run's file is damaged.
    """
    if not study.pools_stain:
        return StainPool()
    if folder.stain.exists():
        return _read(folder)
    pool = _gather(grid, study, roster, timeout_seconds)
    write_atomically(folder.stain, json.dumps(_as_json(pool), indent=1).encode())
    return pool


def _gather(grid: Grid, study: StudyConfig, roster: Roster, timeout_seconds: float) -> StainPool:
    found: dict[str, StainSums] = {}
    sent: dict[str, int] = {}
    messages = instruct(Task("stain-sums", study.hash), roster, roster.train)
    for reply in grid.send_and_receive(messages, timeout=timeout_seconds):
        clinic = roster.clinic_of(reply.metadata.src_node_id)
        if clinic not in roster.train or clinic in found:
            continue
        try:
            records = content_of(reply)
            sent[clinic] = num_bytes(records)
            sums = decode_stain_sums(records)
            check_stain_sums(sums, roster.declared_cells(clinic, "train"))
            found[clinic] = sums
        except WbcError as error:
            announce(ReplyRefused(0, clinic, "stain-sums", reason_of(error)))
    if not found:
        raise ConnectionFailure(
            "no training clinic sent stain sums that count", remedy="look into the clinics' own logs, or use 'stain'"
        )
    return StainPool(reduce(add, (found[clinic] for clinic in sorted(found))), sent)


def _as_json(pool: StainPool) -> dict[str, object]:
    assert pool.totals is not None, "only gathered pools are written"
    totals = {"images": pool.totals.images, "first": pool.totals.first.tolist(), "second": pool.totals.second.tolist()}
    return {**totals, "sent_bytes": dict(pool.sent_bytes or {})}


def _read(folder: RunFolder) -> StainPool:
    try:
        values = json.loads(folder.stain.read_text(encoding="utf-8"))
        sums = StainSums(int(values["images"]), np.array(values["first"], float), np.array(values["second"], float))
        return StainPool(sums, dict(values["sent_bytes"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder.stain} cannot be read", remedy="restore it from a backup, or start the run anew in another folder"
        ) from error
