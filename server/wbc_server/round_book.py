"""The facts of the round in flight, and the act that makes them last: checkpoint first, then one line in the journal.

A round exists once its line is on disk; a stop at any moment before that loses this round only. The model files that
selection may still want are kept, the others removed. Of past rounds only what does not grow with the number of clinics
stays in memory (`RoundDigest`), and their bytes summed.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wbc_common.errors import ClinicAbsent, SettingError, WbcError
from wbc_common.study import StudyConfig
from wbc_common.wire import Arrays, Evaluation, Update
from wbc_server import checkpoints, journal
from wbc_server.events import ClinicTrained, ReplyRefused, RoundFinished, announce
from wbc_server.participation import Roster
from wbc_server.run_folder import RunFolder
from wbc_server.selection import mean_macro_f1, select_scored
from wbc_server.server_step import averaged_model


@dataclass(frozen=True)
class RoundDigest:
    """What is still wanted of a past round; the journal has all of it."""

    round_number: int
    plan: str
    checkpoint: checkpoints.CheckpointRef
    validation_macro_f1: float
    seconds: float
    refused: tuple[dict[str, Any], ...]
    server_state: checkpoints.CheckpointRef | None = None


class RoundBook:
    """Collects what happens in a round and commits it."""

    def __init__(self, folder: RunFolder, study: StudyConfig, roster: Roster) -> None:
        self.folder = folder
        self.study = study
        self.roster = roster
        self.digests: list[RoundDigest] = []
        self.egress: dict[str, dict[str, int]] = {}
        self.epsilon: dict[str, float] = {}  # by clinic, as it stated last; empty without DP-SGD
        for record in journal.scan(folder.journal):
            self._keep(record)
        self._check_plan()
        self._open: dict[str, Any] = {}
        self._started = 0.0

    @property
    def rounds_done(self) -> int:
        """The last round in the journal; 0 before any."""
        return self.digests[-1].round_number if self.digests else 0

    @property
    def open_round_number(self) -> int:
        """The round in flight."""
        return int(self._open["round"])

    def open_round(self, round_number: int) -> None:
        """Begin a round."""
        self._started = time.perf_counter()
        self._open = {
            "round": round_number,
            "plan": self.study.hash,
            "train": {},
            "refused": [],
            "missing": [
                {"clinic": clinic, "round": round_number, "reason": "did not come when the roll was called"}
                for clinic in self.roster.absent
            ],
            "validation": {},
            "held_out": {},
            "coarse": {},
            "egress": {clinic: {} for clinic in self.roster.nodes},
        }

    def note_bytes(self, clinic: str, kind: str, num_bytes: int) -> None:
        """A reply of so many bytes arrived, whether or not it counts."""
        sizes = self._open["egress"][clinic]
        sizes[kind] = sizes.get(kind, 0) + num_bytes

    def note_update(self, clinic: str, update: Update) -> None:
        """An update counts."""
        losses = {name: round(value, 6) for name, value in update.losses.items()}
        self._open["train"][clinic] = {
            **losses,
            "cells": update.num_cells,
            "seconds": round(update.seconds, 3),
            "precision": update.precision,
        }
        if update.epsilon is not None:
            self._open["train"][clinic]["epsilon"] = round(update.epsilon, 4)
        announce(ClinicTrained(self._open["round"], clinic, update.losses.get("loss", float("nan"))))

    def note_evaluation(self, clinic: str, evaluation: Evaluation) -> None:
        """A clinic's confusion counts."""
        place = "validation" if clinic in self.roster.train else "held_out"
        self._open[place][clinic] = evaluation.confusion.tolist()
        self._open["coarse"][clinic] = evaluation.coarse.tolist()

    def refuse(self, clinic: str, stage: str, error: WbcError) -> None:
        """A reply does not count, or did not come."""
        round_number = self._open["round"]
        place = "missing" if isinstance(error, ClinicAbsent) else "refused"
        self._open[place].append(
            {"round": round_number, "clinic": clinic, "stage": stage, "kind": error.kind, "reason": error.problem}
        )
        announce(ReplyRefused(round_number, clinic, stage, error.problem))

    def refused_clinics(self, stage: str) -> set[str]:
        """Clinics of which a reply of that stage was refused, or did not come, in this round."""
        entries = [*self._open["refused"], *(entry for entry in self._open["missing"] if isinstance(entry, dict))]
        return {entry["clinic"] for entry in entries if entry.get("stage") == stage}

    def note_missing(self, clinics: list[str]) -> None:
        """Clinics that were asked to train and sent nothing."""
        self._open["missing"] = [*self._open["missing"], *clinics]

    def commit(self, model: Mapping[str, np.ndarray], state: Arrays | None = None) -> None:
        """Write the round: checkpoint and server state, then the journal's line; then drop what no one needs.

        Args:
            model: the global model.
            state: what the server carries into the next round beside it (`wbc_server.server_step`).
        """
        record = self._open
        metadata = {"study-hash": self.study.hash, "round": str(record["round"])}
        checkpoint = checkpoints.save(self.folder.checkpoints, record["round"], model, metadata)
        record["checkpoint"] = {"file": checkpoint.file, "sha256": checkpoint.sha256}
        if state:
            kept = checkpoints.save(self.folder.server_state, record["round"], state, metadata)
            record["server_state"] = {"file": kept.file, "sha256": kept.sha256}
        record["seconds"] = round(time.perf_counter() - self._started, 3)
        journal.append(self.folder.journal, record)
        self._keep(record)
        checkpoints.prune(self.folder.checkpoints, {self.rounds_done, self.selected_round})
        checkpoints.prune(self.folder.server_state, {self.rounds_done})
        self._announce_round(record)

    def _keep(self, record: Mapping[str, Any]) -> None:
        self.digests.append(
            RoundDigest(
                int(record["round"]),
                record["plan"],
                checkpoints.CheckpointRef(**record["checkpoint"]),
                mean_macro_f1(record["validation"]),
                record["seconds"],
                tuple(record["refused"]),
                checkpoints.CheckpointRef(**record["server_state"]) if "server_state" in record else None,
            )
        )
        stated = {clinic: values["epsilon"] for clinic, values in record["train"].items() if "epsilon" in values}
        self.epsilon.update(stated)
        for clinic, sizes in record["egress"].items():
            total = self.egress.setdefault(clinic, {})
            for kind, size in sizes.items():
                total[kind] = total.get(kind, 0) + size

    def _check_plan(self) -> None:
        plans = {digest.plan for digest in self.digests} - {self.study.hash}
        if plans:
            raise SettingError(
                f"study.toml changed: rounds ran by plan {min(plans)[:12]}, now it is {self.study.hash[:12]}",
                remedy="restore study.toml, or start a new run in another folder",
            )

    @property
    def selected_round(self) -> int:
        """The round whose model selection would export now."""
        scores = [(digest.round_number, digest.validation_macro_f1) for digest in self.digests]
        return select_scored(scores, self.study.evaluation)

    def load(self, round_number: int) -> Arrays:
        """The global model after a round of the journal, verified against its checksum."""
        digest = next(digest for digest in self.digests if digest.round_number == round_number)
        return dict(checkpoints.load(self.folder.checkpoints, digest.checkpoint))

    def load_state(self) -> Arrays:
        """What the server carries beside the model after the last round; nothing before any."""
        reference = self.digests[-1].server_state if self.digests else None
        return {} if reference is None else dict(checkpoints.load(self.folder.server_state, reference))

    def load_selected(self) -> Arrays:
        """The model that the plan exports: that of the selected round, or the average of the last third."""
        model = self.load(self.selected_round)
        return averaged_model(model, self.load_state()) if self.study.evaluation.selection == "average" else model

    def _announce_round(self, record: dict[str, Any]) -> None:
        announce(
            RoundFinished(
                record["round"],
                self.study.rounds,
                mean_macro_f1(record["validation"]),
                mean_macro_f1(record["held_out"]),
                record["seconds"],
            )
        )
