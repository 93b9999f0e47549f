"""The strategy: Flower's own round loop, with class-count-aware aggregation in its hooks.

Per round: where the alignment term counts, class sums are gathered; training clinics train; each update passes the
gate and is added as it arrives, in name order, so that the same updates give the same bits; all clinics evaluate; the
round is committed. A refused or missing reply is named in the round's record and the round goes on.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import reduce
from operator import add
from typing import TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from wbc_common.errors import ConnectionFailure, WbcError
from wbc_common.models import is_head
from wbc_common.stain_sums import StainSums
from wbc_common.study import StudyConfig
from wbc_common.wire import (
    Arrays,
    ClassSums,
    Evaluation,
    Task,
    Update,
    decode_class_sums,
    decode_evaluation,
    decode_update,
    encode_arrays,
    num_bytes,
    record_arrays,
)
from wbc_server.aggregation import plan_weights
from wbc_server.gate import check_class_sums, check_evaluation, check_update
from wbc_server.participation import Roster, content_of, instruct
from wbc_server.prediction import for_prediction
from wbc_server.robust import aggregate_of
from wbc_server.round_book import RoundBook
from wbc_server.server_step import average_in, take_step

Decoded = TypeVar("Decoded")


class WbcStrategy(Strategy):
    """One study's rounds, continued after the last round of its book."""

    def __init__(
        self,
        study: StudyConfig,
        roster: Roster,
        book: RoundBook,
        timeout_seconds: float,
        stain: StainSums | None = None,
    ) -> None:
        self.study = study
        self.roster = roster
        self.book = book
        self.timeout_seconds = timeout_seconds
        self.weights = plan_weights(roster.training_counts(), study.aggregation)
        self.model: Arrays = {}
        self.state: Arrays = book.load_state()
        self.stain = stain
        self._rounds_before = book.rounds_done

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Training tasks; class sums are gathered first where the alignment term counts."""
        round_number = server_round + self._rounds_before
        self.book.open_round(round_number)
        self.model = record_arrays(arrays)
        sums = self._gather_sums(grid, round_number)
        task = Task("train", self.study.hash, round_number, self.model, stain=self.stain)
        if len(sums) < 2:
            return instruct(task, self.roster, self.roster.train)
        aligned = replace(task, totals=reduce(add, sums.values()))
        # A clinic whose sums do not count must not subtract them from the totals: it trains without the term.
        without = [clinic for clinic in self.roster.train if clinic not in sums]
        return [*instruct(aligned, self.roster, list(sums)), *instruct(task, self.roster, without)]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Add the updates that pass the gate, one at a time, and take the server's step."""
        total = aggregate_of(self.study.aggregation)
        answered = []
        rows = {clinic: row for row, clinic in enumerate(self.roster.train)}
        for clinic, update in self._accepted("update", replies, self.roster.train, self._check_update):
            row = rows[clinic]
            total.add(update.delta, float(self.weights.backbone[row]), self.weights.head[row])
            self.book.note_update(clinic, update)
            answered.append(clinic)
        self._note_missing(answered)
        self._check_quorum(answered)
        if answered:
            self.model, self.state = take_step(self.model, total.mean(), self.state, self.study.aggregation)
        return encode_arrays(self.model), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Evaluation tasks: validation cells of training clinics, all cells of held-out ones."""
        round_number = server_round + self._rounds_before
        due = round_number % self.study.evaluation.every_rounds == 0 or round_number == self.study.rounds
        if not due:
            return []
        model = for_prediction(self.model, self.study, self.roster.training_counts().sum(axis=0))
        validate = Task("evaluate", self.study.hash, round_number, model, split="val", stain=self.stain)
        measure = replace(validate, split="all")
        return [
            *instruct(validate, self.roster, self.roster.train),
            *instruct(measure, self.roster, self.roster.held_out),
        ]

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Note the confusion counts and commit the round."""
        clinics = (*self.roster.train, *self.roster.held_out)
        for clinic, evaluation in self._accepted("evaluation", replies, clinics, self._check_evaluation):
            self.book.note_evaluation(clinic, evaluation)
        self.state = average_in(self.model, self.state, self.study, self.book.open_round_number)
        self.book.commit(self.model, self.state)
        return None

    def summary(self) -> None:
        """Nothing: the study's own log says what runs."""

    def _gather_sums(self, grid: Grid, round_number: int) -> dict[str, ClassSums]:
        """Class sums under the current model, by clinic in name order; none while the term is off."""
        if len(self.roster.train) < 2 or not self.study.aligns(round_number):
            return {}
        task = Task("class-sums", self.study.hash, round_number, self.model)
        replies = grid.send_and_receive(instruct(task, self.roster, self.roster.train), timeout=self.timeout_seconds)
        return dict(self._accepted("class-sums", replies, self.roster.train, self._check_sums))

    def _accepted(
        self,
        stage: str,
        replies: Iterable[Message],
        clinics: tuple[str, ...],
        check: Callable[[str, RecordDict], Decoded],
    ) -> Iterator[tuple[str, Decoded]]:
        """Checked content by clinic, in the order of `clinics`; what fails is refused by name."""
        for clinic, reply in in_order(replies, clinics, self.roster):
            try:
                yield clinic, self._open_reply(clinic, stage, reply, check)
            except WbcError as error:
                self.book.refuse(clinic, stage, error)

    def _open_reply(
        self, clinic: str, stage: str, reply: Message, check: Callable[[str, RecordDict], Decoded]
    ) -> Decoded:
        records = content_of(reply)
        self.book.note_bytes(clinic, stage, num_bytes(records))
        return check(clinic, records)

    def _check_update(self, clinic: str, records: RecordDict) -> Update:
        update = decode_update(records)
        declared = self.roster.class_counts[clinic][0]
        check_update(update.delta, update.class_counts, self._template(), declared, self.study.aggregation)
        return update

    def _template(self) -> Arrays:
        """The arrays that an update of this round must hold: in head-only rounds no backbone leaves a clinic."""
        if not self.study.trains_head_only(self.book.open_round_number):
            return self.model
        return {key: value for key, value in self.model.items() if is_head(key)}

    def _check_sums(self, clinic: str, records: RecordDict) -> ClassSums:
        sums = decode_class_sums(records)
        declared = self.roster.class_counts[clinic][0]
        check_class_sums(sums.sums, sums.counts, declared, num_features=self.model["head.weight"].shape[1])
        return sums

    def _check_evaluation(self, clinic: str, records: RecordDict) -> Evaluation:
        evaluation = decode_evaluation(records)
        split = "val" if clinic in self.roster.train else "all"
        num_cells = self.roster.declared_cells(clinic, split)
        check_evaluation(evaluation, num_cells, num_classes=len(self.study.classes))
        return evaluation

    def _check_quorum(self, answered: list[str]) -> None:
        """Between hospitals: stop before a round that too few decided is kept."""
        planned = len(self.study.clinics.train)
        needed = self.study.participation.clinics_needed(planned)
        if self.roster.message_seconds is not None and len(answered) < needed:
            raise ConnectionFailure(
                f"updates of {len(answered)} of {planned} training clinics count, the plan needs {needed}",
                remedy="look after the missing clinics, then go on from this round: wbc-server resume FOLDER",
            )

    def _note_missing(self, answered: list[str]) -> None:
        heard = self.book.refused_clinics("update") | set(answered)
        self.book.note_missing([clinic for clinic in self.roster.train if clinic not in heard])


def in_order(replies: Iterable[Message], clinics: tuple[str, ...], roster: Roster) -> Iterator[tuple[str, Message]]:
    """Replies with their clinics in the order of `clinics`, each as soon as its turn has come.

    Sums of floats depend on order; arrival does not repeat. A reply that comes early waits, so what is held is what
    is out of order. Replies of strangers and second replies of a clinic are dropped.
    """
    waiting: dict[str, Message] = {}
    places = {clinic: place for place, clinic in enumerate(clinics)}
    turn = 0
    for reply in replies:
        clinic = roster.clinic_of(reply.metadata.src_node_id)
        if clinic is not None and places.get(clinic, -1) >= turn:
            waiting.setdefault(clinic, reply)
        while turn < len(clinics) and clinics[turn] in waiting:
            yield clinics[turn], waiting.pop(clinics[turn])
            turn += 1
    for clinic in clinics[turn:]:
        if clinic in waiting:
            yield clinic, waiting.pop(clinic)
