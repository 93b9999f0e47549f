"""The strategy: Flower's own round loop, with class-count-aware aggregation in its hooks.

A round is one message each way. With round t training clinics get the model, say how it does on their validation
cells, train it, and return both; held-out clinics measure the same model in the same exchange. So the figures of a
round's model come with the next round, and those of the last one with a closing exchange. Where the alignment term
counts, class sums come with the updates too, and their total goes out with the next round. Each update passes the
gate and is added as it arrives, in name order, so that the same updates give the same bits. A refused or missing reply
is named in the round's record and the round goes on.

The model is held once: encoded, as tasks carry it, and read as views of that. Flower's loop would hold the first model
beside the present one to the end; it carries an empty record.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

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
    EvaluationSplit,
    Task,
    Update,
    bytes_by_stage,
    decode_class_sums,
    decode_evaluation,
    decode_update,
    decode_validation,
    encode_arrays,
    num_bytes,
    record_arrays,
)
from wbc_server.aggregation.robust import Aggregate, aggregate_of, too_few
from wbc_server.aggregation.server_step import average_in, take_step
from wbc_server.aggregation.weights import plan_weights
from wbc_server.anchor_pool import find_pool, pool_sums, put_pool
from wbc_server.exchange.participation import Roster, content_of, in_order, instruct
from wbc_server.gate import check_class_sums, check_evaluation, check_precision, check_update
from wbc_server.prediction import for_prediction
from wbc_server.record.round_book import RoundBook, Stage
from wbc_server.record.statement_gate import check_statements


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
        self.weights = plan_weights(roster.training_counts(), study.aggregation, study.head_rows)
        self.take_up({})
        self._pool = find_pool(book.load_state(), study)
        self.stain = stain
        self._rounds_before = book.rounds_done

    def take_up(self, model: Arrays) -> None:
        """Go on from a model; the one before is let go first."""
        self._encoded, self.model = ArrayRecord(), {}
        self._encoded = encode_arrays(model)
        self.model = record_arrays(self._encoded)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Training tasks; and for held-out clinics to measure the same model, where its figures are due."""
        round_number = server_round + self._rounds_before
        self.book.open_round(round_number)
        task = Task("train", self.study.hash, round_number, self.model, stain=self.stain)
        predicting = self._predicting()
        if predicting is not self.model:
            task = replace(task, prediction_bias=predicting["head.bias"])
        return [*self._training(task), *self._measuring(self.roster.held_out, split="all")]

    def _training(self, task: Task) -> list[Message]:
        """A clinic whose sums are not in the pool must not take them out of it: it trains without the term."""
        pool = self._pool
        if pool is None:
            return instruct(task, self.roster, self.roster.train, model=self._encoded)
        within = [clinic for clinic in self.roster.train if clinic in pool.clinics]
        without = [clinic for clinic in self.roster.train if clinic not in pool.clinics]
        aligned = replace(task, totals=pool.totals)
        messages = [
            *instruct(aligned, self.roster, within, model=self._encoded),
            *instruct(task, self.roster, without, model=self._encoded),
        ]
        # In name order, in which replies are taken: one asked later than its turn would keep others in memory.
        return sorted(messages, key=lambda message: self.roster.clinic_of(message.metadata.dst_node_id) or "")

    def _measuring(self, clinics: tuple[str, ...], split: EvaluationSplit) -> list[Message]:
        """Tasks to measure the model of the round whose figures are due; none where none are."""
        number = self.book.awaited_round
        if number is None or not self.study.evaluates(number):
            return []
        predicting = self._predicting()
        task = Task("evaluate", self.study.hash, number, predicting, split=split)
        changed = {key: value for key, value in predicting.items() if value is not self.model[key]}
        return instruct(task, self.roster, clinics, model=ArrayRecord({**self._encoded, **encode_arrays(changed)}))

    def _predicting(self) -> Arrays:
        return for_prediction(self.model, self.study, self.roster.training_counts().sum(axis=0))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Add the updates that pass the gate, one at a time, and take the server's step.

        The round before is complete with the figures that came along, and committed; this one is kept.
        """
        # Over a network an update takes longer to come than to add, so that memory need not hold the sums.
        folder = self.book.folder.path if self.roster.is_between_hospitals else None
        total = aggregate_of(self.study.aggregation, folder)
        answered: list[str] = []
        sums: dict[str, ClassSums] = {}
        rows = {clinic: row for row, clinic in enumerate(self.roster.train)}
        for clinic, records in self._opened(replies):
            if clinic not in rows:
                self._take_figures(clinic, records, decode_evaluation)
                continue
            if self.study.evaluates(self.book.open_round_number - 1):
                self._take_figures(clinic, records, decode_validation)
            if self.study.shares_sums(self.book.open_round_number):
                with self._refusing(clinic, "class-sums"):
                    sums[clinic] = self._check_sums(clinic, records)
            with self._refusing(clinic, "update"):
                self._add(total, clinic, records, rows[clinic])
                answered.append(clinic)
            del records  # before the next comes
        self.book.commit()
        self._note_missing(answered)
        self._check_quorum(answered)
        state = self.book.load_state()
        if answered:
            model, state = take_step(self.model, total.mean(), state, self.study.aggregation)
            self.take_up(model)
            del model
        del total
        state = average_in(self.model, state, self.study, self.book.open_round_number)
        self._pool = pool_sums(sums)
        self.book.keep(self.model, put_pool(state, self._pool, self.study))
        return None, None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Nothing: figures come with the next round."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing: figures come with the next round."""
        return None

    def close(self, grid: Grid) -> None:
        """Measure the model of the last round, which no other round follows, and commit that round."""
        messages = [
            *self._measuring(self.roster.train, split="val"),
            *self._measuring(self.roster.held_out, split="all"),
        ]
        replies = grid.send_and_receive(messages, timeout=self.timeout_seconds)
        for clinic, records in self._opened(replies, stage="evaluation"):
            self._take_figures(clinic, records, decode_evaluation)
        self.book.commit()

    def summary(self) -> None:
        """Nothing: the study's own log says what runs."""

    def _opened(self, replies: Iterable[Message], stage: Stage | None = None) -> Iterator[tuple[str, RecordDict]]:
        """Records by clinic, training ones first, in name order; errors and absences are refused by name."""
        for clinic, reply in in_order(replies, (*self.roster.train, *self.roster.held_out), self.roster):
            role_stage: Stage = "update" if clinic in self.roster.train else "evaluation"
            try:
                records = content_of(reply)
            except WbcError as error:
                self.book.refuse(clinic, stage or role_stage, error)
                continue
            self.book.note_bytes(clinic, bytes_by_stage(records) if stage is None else {stage: num_bytes(records)})
            del reply
            yield clinic, records
            del records

    @contextmanager
    def _refusing(self, clinic: str, stage: Stage) -> Iterator[None]:
        """What fails is refused by name, and the round goes on."""
        try:
            yield
        except WbcError as error:
            self.book.refuse(clinic, stage, error)

    def _take_figures(self, clinic: str, records: RecordDict, decode: Callable[[RecordDict], Evaluation]) -> None:
        if self.book.awaited_round is None:  # they came before a kill, and the round was committed
            return
        with self._refusing(clinic, "evaluation"):
            evaluation = decode(records)
            split = "val" if clinic in self.roster.train else "all"
            num_cells = self.roster.declared_cells(clinic, split)
            check_evaluation(evaluation, num_cells, num_classes=len(self.study.classes))
            self.book.note_evaluation(clinic, evaluation)

    def _add(self, total: Aggregate, clinic: str, records: RecordDict, row: int) -> None:
        update = self._check_update(clinic, records)
        total.add(update.delta, float(self.weights.backbone[row]), self.weights.head[row])
        self.book.note_update(clinic, update)

    def _check_update(self, clinic: str, records: RecordDict) -> Update:
        update = decode_update(records)
        declared = self.roster.class_counts[clinic][0]
        check_precision(update.sent_as, self.study.transport)
        check_statements(update, self.study.privacy)
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

    def _check_quorum(self, answered: list[str]) -> None:
        """Stop before a round that too few decided is kept: between hospitals, or by an order statistic."""
        planned = len(self.study.clinics.train)
        needed = self.study.participation.clinics_needed(planned)
        problem = too_few(self.study.aggregation, len(answered))
        if self.roster.is_between_hospitals and len(answered) < needed:
            problem = f"updates of {len(answered)} of {planned} training clinics count, the plan needs {needed}"
        if problem is not None:
            raise ConnectionFailure(
                problem,
                remedy="look after the missing clinics, then go on from this round: wbc-server resume FOLDER",
            )

    def _note_missing(self, answered: list[str]) -> None:
        heard = self.book.refused_clinics("update") | set(answered)
        self.book.note_missing([clinic for clinic in self.roster.train if clinic not in heard])
