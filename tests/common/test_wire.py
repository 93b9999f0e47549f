"""Messages arrive as they were sent."""

from dataclasses import replace

import numpy as np
import pytest

from exchanges import EVALUATION, MODEL, NAMES, REPLIES, ROUND, STAIN, SUMS, TASK, UPDATE, alone, refused, same
from wbc_common.calibration import CalibrationCounts
from wbc_common.errors import MessageError
from wbc_common.stain_sums import StainSums
from wbc_common.wire import (
    ERROR_CODE,
    MESSAGE_TYPES,
    OPTIONAL_RECORDS,
    REPLY_RECORDS,
    CalibrationRequest,
    ClassSums,
    Task,
    bytes_by_stage,
    decode_evaluation,
    decode_stain_sums,
    decode_task,
    decode_update,
    encode_arrays,
    encode_error,
    encode_reply,
    encode_task,
    num_bytes,
)


@pytest.mark.parametrize(
    "task",
    [
        TASK,
        Task("describe", "0"),
        replace(TASK, totals=None),
        replace(TASK, stain=STAIN),
        replace(TASK, averaged=True),
        replace(TASK, prediction_bias=np.array([0.5, -0.5], np.float32)),
    ],
)
def test_a_task_arrives_as_it_was_sent(task: Task) -> None:
    assert same(decode_task(encode_task(task)), task)


@pytest.mark.parametrize("kind", REPLIES)
def test_a_reply_arrives_as_it_was_sent_in_exactly_its_records(kind: str) -> None:
    reply, decode = REPLIES[kind]
    records = encode_reply(reply)
    assert set(records) == NAMES[kind]  # type: ignore[index]
    assert same(decode(records), reply)


def test_every_task_has_a_message_type_and_a_reply() -> None:
    assert set(MESSAGE_TYPES) == set(REPLY_RECORDS) == set(REPLIES) - {"whole round"}
    assert all(part.isidentifier() for name in MESSAGE_TYPES.values() for part in name.split("."))


def test_values_that_are_not_finite_pass_for_the_gate_to_judge() -> None:
    delta = {"head.bias": np.array([np.nan, np.inf], dtype=np.float32)}
    update = decode_update(alone(replace(UPDATE, delta=delta, losses={"loss": float("nan")})))
    assert np.isnan(update.delta["head.bias"][0])
    assert np.isnan(update.losses["loss"])


def test_arrays_in_fortran_order_and_scalars_keep_their_values() -> None:
    odd = {"f": np.asfortranarray(MODEL["head.weight"]), "scalar": np.float32(2.0).reshape(())}
    found = decode_update(alone(replace(UPDATE, delta=odd))).delta
    assert np.array_equal(found["f"], odd["f"])
    assert (found["scalar"].shape, float(found["scalar"])) == ((), 2.0)


def test_bytes_are_counted_over_all_records() -> None:
    records = alone(replace(UPDATE, delta={"x": np.zeros(1000, dtype=np.float32)}))
    assert 4000 < num_bytes(records) < 5000


def test_bytes_of_a_round_are_told_apart_by_what_they_are_of() -> None:
    records = encode_reply(ROUND)
    sizes = bytes_by_stage(records)
    assert sizes["update"] == num_bytes(alone(UPDATE))
    assert sizes["evaluation"] == num_bytes(encode_reply(EVALUATION))
    assert sum(sizes.values()) == num_bytes(records)
    assert set(sizes) == {"update", "evaluation", "class-sums"}


def test_an_error_says_kind_and_reference_only() -> None:
    error = encode_error("data", "00ff")
    assert (error.code, error.reason) == (ERROR_CODE, "data (reference 00ff)")


def test_class_sums_add() -> None:
    assert same(SUMS + SUMS, ClassSums(2 * SUMS.sums, 2 * SUMS.counts))


def test_encoding_arrays_keeps_their_order() -> None:
    assert list(encode_arrays({"b": np.zeros(1), "a": np.zeros(1)})) == ["b", "a"]


@pytest.mark.parametrize("stain", [replace(STAIN, first=np.zeros(5)), replace(STAIN, second=np.arange(6))])
def test_stain_sums_of_another_shape_or_type_are_refused(stain: StainSums) -> None:
    refused(decode_stain_sums, encode_reply(stain))


def test_an_update_carries_the_privacy_budget_that_was_spent() -> None:
    private = replace(UPDATE, losses={}, epsilon=2.5)
    assert same(decode_update(alone(private)), private)


def test_calibration_counts_and_further_matrices_arrive_as_they_were_sent() -> None:
    table, row = np.arange(8).reshape(2, 2, 2), np.arange(4).reshape(2, 2)
    counts = CalibrationCounts(np.ones(3), np.ones(3) / 3, table, table + 1, table / 7, row, row + 1)
    rich = replace(EVALUATION, calibration=counts, shifted=row, personal=row + 5)
    records = encode_reply(rich)
    assert set(records) == REPLY_RECORDS["evaluate"] | OPTIONAL_RECORDS["evaluate"]
    assert same(decode_evaluation(records), rich)
    task = replace(TASK, kind="evaluate", calibration=CalibrationRequest(1.5, np.array([0.25, 0.75])))
    assert same(decode_task(encode_task(task)), task)


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan, np.inf])
def test_a_temperature_that_is_none_is_refused(temperature: float) -> None:
    task = replace(TASK, calibration=CalibrationRequest(temperature, np.ones(2)))
    refused(decode_task, encode_task(task))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_update_says_what_was_computed_in(precision: str) -> None:
    update = replace(UPDATE, precision=precision)  # type: ignore[arg-type]
    assert decode_update(alone(update)).precision == precision


def test_an_unknown_precision_is_refused() -> None:
    records = alone(UPDATE)
    records["training"]["precision-bits"] = 8  # type: ignore[index]
    with pytest.raises(MessageError, match=r"a precision of 8\.0 bits, expected one of 32, 16"):
        decode_update(records)
