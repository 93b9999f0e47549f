"""Arrays in fewer bits: bounds that can be checked by hand, sizes, and payloads that nobody honest sends."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ArrayRecord, RecordDict

from studies import rows
from wbc_common.errors import MessageError
from wbc_common.models import build_model, model_arrays
from wbc_common.study import ModelSettings
from wbc_common.wire import RoundReply, Update, as_received, bytes_by_stage, decode_update, encode_arrays, encode_reply
from wbc_common.wire.rounding import Rounded, restore_arrays, round_arrays

GENERATOR = np.random.default_rng(0)
ARRAYS = {
    "conv.weight": GENERATOR.normal(0, 1e-3, (8, 3, 3, 3)).astype(np.float32),
    "norm.bias": GENERATOR.normal(0, 1e-2, 16).astype(np.float32),
    "head.weight": np.array([[1.27, -0.014], [0.0, 0.0]], np.float32),
    "scalar": np.array(-3.0, np.float32),
    "nothing": np.zeros((0, 3), np.float32),
    "steps": np.array([7], np.int64),
}
UPDATE = Update(ARRAYS, np.ones(2), {"loss": 1.0}, num_cells=2, seconds=0.5)


def records(precision: str) -> RecordDict:
    return encode_reply(RoundReply(replace(UPDATE, sent_as=precision)))  # type: ignore[arg-type]


def test_int8_has_one_scale_a_row_and_rounds_to_the_nearest_level() -> None:
    # Row 0: scale 1.27 / 127 = 0.01, so 1.27 is level 127 and −0.014 level −1. Row 1 is all zero.
    rounded = round_arrays({"head.weight": ARRAYS["head.weight"]}, "int8")
    assert rounded.arrays["head.weight"].tolist() == [[127, -1], [0, 0]]
    assert rounded.scales is not None
    assert rounded.scales == pytest.approx(np.array([0.01, 0.0]))
    assert restore_arrays(rounded)["head.weight"] == pytest.approx(np.array([[1.27, -0.01], [0, 0]]))


@pytest.mark.parametrize("key", ["conv.weight", "norm.bias", "head.weight", "scalar"])
def test_int8_is_off_by_half_a_level_at_most(key: str) -> None:
    value = ARRAYS[key]
    rows = value.reshape(len(value) if value.ndim > 1 else 1, -1)
    bound = np.abs(rows).max(axis=1, keepdims=True) / 127 / 2
    found = as_received({key: value}, "int8")[key]
    assert found.dtype == np.float32
    assert found.shape == value.shape
    assert (np.abs(found.reshape(rows.shape) - rows) <= bound * (1 + 1e-5)).all()


def test_fp16_keeps_eleven_bits_and_is_cut_off_where_it_ends() -> None:
    value = np.array([1.0, 1 + 2**-11, -1e-3, 1e9, -1e9], np.float32)
    found = as_received({"x": value}, "fp16")["x"]
    assert found.dtype == np.float32
    assert found[[0, 1, 3, 4]].tolist() == [1.0, 1.0, 65504.0, -65504.0]
    assert abs(found[2] - value[2]) <= 2**-11 * 1e-3


def test_fp32_is_sent_to_the_bit_and_integers_always_are() -> None:
    for precision in ("fp32", "fp16", "int8"):
        assert as_received(ARRAYS, precision)["steps"].tolist() == [7]  # type: ignore[arg-type]
    found = as_received(ARRAYS, "fp32")
    assert all(found[key] is value for key, value in ARRAYS.items())


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_update_is_read_as_it_was_rounded_and_says_how(precision: str) -> None:
    found = decode_update(records(precision))
    expected = as_received(ARRAYS, precision)  # type: ignore[arg-type]
    assert found.sent_as == precision
    assert list(found.delta) == list(ARRAYS)
    assert all(found.delta[key].tobytes() == value.tobytes() for key, value in expected.items())


def test_an_update_in_int8_weighs_a_quarter_and_in_fp16_a_half() -> None:
    model = model_arrays(build_model(ModelSettings(), rows(5), seed=0))
    sizes = {}
    for precision in ("fp32", "fp16", "int8"):
        reply = RoundReply(replace(UPDATE, delta=model, sent_as=precision))  # type: ignore[arg-type]
        sizes[precision] = bytes_by_stage(encode_reply(reply))["update"]
    assert sizes["fp16"] <= 0.51 * sizes["fp32"]
    assert sizes["int8"] <= 0.27 * sizes["fp32"]


def test_numbers_that_are_not_finite_do_not_become_finite_ones() -> None:
    for bad in (np.nan, np.inf):
        value = np.array([[1.0, bad], [1.0, 2.0]], np.float32)
        with pytest.raises(ValueError, match="not finite"):
            as_received({"x": value}, "int8")
    assert np.isnan(as_received({"x": np.array([np.nan], np.float32)}, "fp16")["x"]).all()


def test_numbers_too_small_for_a_scale_are_zero() -> None:
    tiny = np.array([1e-45, -1e-45], np.float32)
    assert as_received({"x": tiny}, "int8")["x"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "scales",
    [
        np.full(26, np.nan, np.float32),
        np.full(26, np.inf, np.float32),
        np.full(26, -1.0, np.float32),
        np.ones(25, np.float32),
        np.ones(27, np.float32),
        np.ones((2, 13), np.float32),
        np.ones(26),
        np.ones(26, np.int32),
    ],
    ids=["no number", "infinite", "negative", "one too few", "one too many", "two axes", "float64", "integers"],
)
def test_scales_that_nobody_honest_sends_are_refused(scales: np.ndarray) -> None:
    arrays = {"conv.weight": np.ones((25, 2), np.int8), "norm.bias": np.ones(4, np.int8)}  # 25 rows and 1
    assert restore_arrays(Rounded(arrays, np.ones(26, np.float32)))["norm.bias"].tolist() == [1, 1, 1, 1]
    sent = records("int8")
    sent["update"] = encode_arrays(arrays)
    sent["update-scales"] = encode_arrays({"scales": scales})
    with pytest.raises(MessageError, match="scales"):
        decode_update(sent)


def test_scales_without_numbers_or_under_another_name_are_refused() -> None:
    sent = records("int8")
    sent["update-scales"] = ArrayRecord()
    with pytest.raises(MessageError):
        decode_update(sent)


def test_rows_of_nothing_take_no_memory() -> None:
    sent = records("int8")
    sent["update"] = encode_arrays({"x": np.zeros((10**9, 0), np.int8)})
    with pytest.raises(MessageError, match="expected float32"):
        decode_update(sent)
    sent["update"] = encode_arrays({"x": np.zeros((0, 10**9), np.int8)})
    sent["update-scales"] = encode_arrays({"scales": np.zeros(0, np.float32)})
    assert decode_update(sent).delta["x"].shape == (0, 10**9)


def test_levels_times_scales_that_overflow_are_left_to_the_gate() -> None:
    found = restore_arrays(Rounded({"x": np.array([127], np.int8)}, np.array([3e38], np.float32)))
    assert np.isinf(found["x"]).all()


def test_levels_without_scales_are_refused() -> None:
    sent = records("int8")
    del sent["update-scales"]
    with pytest.raises(MessageError, match="without scales"):
        decode_update(sent)
