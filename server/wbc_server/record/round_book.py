"""The facts of the rounds in flight, and the acts that make them last.

A round is kept once its updates are added: its checkpoint is written, then its record, without the figures of its
model, to a file of its own. Those figures come with the next round; then its line goes into the journal. A round exists
once its record is on disk; a stop at any moment before that loses this round only, and figures that were lost with it
are asked for again. The model files that selection or a resumed run may still want are kept. Of past rounds only
what does not grow with the number of clinics stays in memory (`RoundDigest`), and their bytes summed.
"""

import time
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from wbc_common.errors import ClinicAbsent, SettingError, WbcError
from wbc_common.study import StudyConfig
from wbc_common.wire import Arrays, Evaluation, Update
from wbc_server.aggregation.server_step import averaged_model
from wbc_server.events import ClinicTrained, ReplyRefused, RoundFinished, announce
from wbc_server.exchange.participation import Roster, reason_of
from wbc_server.record import checkpoints, journal
from wbc_server.record.kept_round import read_kept, write_kept
from wbc_server.record.round_digest import RoundDigest, digest_of
from wbc_server.run_folder import RunFolder
from wbc_server.selection import mean_macro_f1, select_scored

Stage = Literal["update", "class-sums", "evaluation"]


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
            self._digest(record)
        self._awaiting = read_kept(folder.kept_round, after=self._committed)
        self._check_plan()
        self._open: dict[str, Any] = {}
        self._started = 0.0

    @property
    def rounds_done(self) -> int:
        """The last round that is kept; 0 before any."""
        return self.awaited_round or self._committed

    @property
    def _committed(self) -> int:
        """The last round in the journal; its model stays until the one after it is there too."""
        return self.digests[-1].round_number if self.digests else 0

    @property
    def awaited_round(self) -> int | None:
        """The round that is kept and waits for its model's figures; None where all have come."""
        return None if self._awaiting is None else int(self._awaiting["round"])

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

    def note_bytes(self, clinic: str, sizes: Mapping[str, int]) -> None:
        """A reply with parts of so many bytes, by stage, arrived, whether or not it counts."""
        for stage, size in sizes.items():
            total = self._page(stage)["egress"].setdefault(clinic, {})  # it may have been absent when the page began
            total[stage] = total.get(stage, 0) + size

    def _page(self, stage: str) -> dict[str, Any]:
        """The record that a part of a reply belongs to: figures are those of the round before."""
        if stage == "evaluation" and self._awaiting is not None:
            return self._awaiting
        return self._open

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
        page = self._page("evaluation")
        page[place][clinic] = evaluation.confusion.tolist()
        page["coarse"][clinic] = evaluation.coarse.tolist()

    def refuse(self, clinic: str, stage: Stage, error: WbcError) -> None:
        """A reply does not count, or did not come."""
        page = self._page(stage)
        round_number = page["round"]
        place = "missing" if isinstance(error, ClinicAbsent) else "refused"
        reason = reason_of(error)
        page[place].append(
            {"round": round_number, "clinic": clinic, "stage": stage, "kind": error.kind, "reason": reason}
        )
        announce(ReplyRefused(round_number, clinic, stage, reason))

    def refused_clinics(self, stage: str) -> set[str]:
        """Clinics of which a reply of that stage was refused, or did not come, in this round."""
        entries = [*self._open["refused"], *(entry for entry in self._open["missing"] if isinstance(entry, dict))]
        return {entry["clinic"] for entry in entries if entry.get("stage") == stage}

    def note_missing(self, clinics: list[str]) -> None:
        """Clinics that were asked to train and sent nothing."""
        self._open["missing"] = [*self._open["missing"], *clinics]

    def keep(self, model: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray] | None = None) -> None:
        """Make the round last: checkpoint and server state, then its record, which waits for its figures.

        Args:
            model: the global model.
            state: what the server carries into the next round beside it (`wbc_server.aggregation.server_step`).
        """
        record = self._open
        metadata = {"study-hash": self.study.hash, "round": str(record["round"])}
        checkpoint = checkpoints.save(self.folder.checkpoints, record["round"], model, metadata)
        record["checkpoint"] = {"file": checkpoint.file, "sha256": checkpoint.sha256}
        if state:
            kept = checkpoints.save(self.folder.server_state, record["round"], state, metadata)
            record["server_state"] = {"file": kept.file, "sha256": kept.sha256}
        record["seconds"] = round(time.perf_counter() - self._started, 3)
        write_kept(self.folder.kept_round, record)
        self._awaiting = record
        lasting = {self.rounds_done, self._committed}
        checkpoints.prune(self.folder.checkpoints, lasting | ({self.selected_round} if self.digests else set()))
        checkpoints.prune(self.folder.server_state, lasting)

    def commit(self) -> None:
        """Write the journal's line of the kept round, now that its figures have come; nothing where it is written."""
        record = self._awaiting
        if record is None:
            return
        journal.append(self.folder.journal, record)
        self._awaiting = None
        self._digest(record)
        checkpoints.prune(self.folder.checkpoints, {self.rounds_done, self.selected_round})
        checkpoints.prune(self.folder.server_state, {self.rounds_done})
        self._announce_round(record)

    def _digest(self, record: Mapping[str, Any]) -> None:
        self.digests.append(digest_of(record))
        stated = {clinic: values["epsilon"] for clinic, values in record["train"].items() if "epsilon" in values}
        self.epsilon.update(stated)
        for clinic, sizes in record["egress"].items():
            total = self.egress.setdefault(clinic, {})
            for kind, size in sizes.items():
                total[kind] = total.get(kind, 0) + size

    def _check_plan(self) -> None:
        waiting = set() if self._awaiting is None else {self._awaiting["plan"]}
        plans = ({digest.plan for digest in self.digests} | waiting) - {self.study.hash}
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
        """The global model after a round, verified against its checksum."""
        return dict(self._read(round_number))

    def _read(self, round_number: int) -> Mapping[str, np.ndarray]:
        """The same, each array read as it is looked up."""
        digest = next(digest for digest in reversed(self._kept()) if digest.round_number == round_number)
        return checkpoints.load(self.folder.checkpoints, digest.checkpoint)

    def load_state(self) -> Mapping[str, np.ndarray]:
        """What the server carries beside the model after the last round, read as looked up; nothing before any."""
        kept = self._kept()
        reference = kept[-1].server_state if kept else None
        return {} if reference is None else checkpoints.load(self.folder.server_state, reference)

    def _kept(self) -> list[RoundDigest]:
        """Every round that is kept: those of the journal, and the one that waits for its figures."""
        return self.digests if self._awaiting is None else [*self.digests, digest_of(self._awaiting)]

    def load_selected(self) -> Arrays:
        """The model that the plan exports: that of the selected round, or the average of the last third."""
        model = self._read(self.selected_round)
        return averaged_model(model, self.load_state()) if self.study.evaluation.selection == "average" else dict(model)

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
