"""The federation's stain: training clinics alone are asked, sums that cannot be are refused, a resumed run keeps it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message

from wbc_common.errors import ConnectionFailure, DataError, UpdateRefused
from wbc_common.stain_sums import StainSums
from wbc_common.study import StudyConfig, parse_study
from wbc_common.wire import decode_task, encode_reply
from wbc_server.exchange.participation import Roster
from wbc_server.gate import check_stain_sums
from wbc_server.run_folder import RunFolder
from wbc_server.stain_pool import pool_stain
from wbc_simulations.engine.engines import InProcessGrid

COUNTS = np.array([[2.0] * 5, [1.0] * 5, [1.0] * 5])  # 10 training cells
ROSTER = Roster({"east": 1, "north": 2, "west": 3}, dict.fromkeys(("east", "north", "west"), COUNTS),
                ("east", "north"), ("west",))  # fmt: skip


def a_study(level: str = "federated-stain") -> StudyConfig:
    clinics = {"train": ["east", "north"], "held_out": ["west"]}
    return parse_study({"name": "s", "clinics": clinics, "training": {"augmentation": level}}, "test")


def sums(mean: float, images: int = 10, spread: float = 0.1) -> StainSums:
    return StainSums(images, np.full(6, images * mean), np.full(6, images * (mean**2 + spread**2)))


def grid(answer: Callable[[int], StainSums], asked: list[int] | None = None) -> InProcessGrid:
    def client(message: Message, context: Context) -> Message:
        assert decode_task(message.content).kind == "stain-sums"
        if asked is not None:
            asked.append(context.node_id)
        return Message(encode_reply(answer(context.node_id)), reply_to=message)

    return InProcessGrid(client, {1: {}, 2: {}, 3: {}})  # type: ignore[arg-type]


def test_training_clinics_alone_are_asked_and_their_sums_add(tmp_path: Path) -> None:
    asked: list[int] = []
    pool = pool_stain(grid(lambda node: sums(0.1 * node), asked), a_study(), ROSTER, RunFolder(tmp_path), 1.0)
    assert asked == [1, 2]
    assert pool.totals is not None
    assert pool.totals.images == 20
    np.testing.assert_allclose(pool.totals.first, np.full(6, 3.0))
    assert set(pool.sent_bytes or {}) == {"east", "north"}


def test_a_resumed_run_has_the_same_bits_and_asks_nobody(tmp_path: Path) -> None:
    first = pool_stain(grid(lambda node: sums(node / 3)), a_study(), ROSTER, RunFolder(tmp_path), 1.0)
    asked: list[int] = []
    again = pool_stain(grid(lambda node: sums(9.0), asked), a_study(), ROSTER, RunFolder(tmp_path), 1.0)
    assert asked == []
    assert first.totals is not None
    assert again.totals is not None
    assert first.totals.first.tobytes() == again.totals.first.tobytes()
    assert first.sent_bytes == again.sent_bytes


def test_another_augmentation_pools_nothing(tmp_path: Path) -> None:
    asked: list[int] = []
    pool = pool_stain(grid(lambda node: sums(0.1), asked), a_study("stain"), ROSTER, RunFolder(tmp_path), 1.0)
    assert (pool.totals, asked) == (None, [])


def test_a_clinic_whose_sums_cannot_be_is_left_out(tmp_path: Path) -> None:
    pool = pool_stain(grid(lambda node: sums(0.5, 10 * node)), a_study(), ROSTER, RunFolder(tmp_path), 1.0)
    assert pool.totals is not None
    assert pool.totals.images == 10


def test_no_usable_sums_stop_the_study(tmp_path: Path) -> None:
    with pytest.raises(ConnectionFailure, match="no training clinic sent stain sums"):
        pool_stain(grid(lambda node: sums(0.5, 3)), a_study(), ROSTER, RunFolder(tmp_path), 1.0)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    RunFolder(tmp_path).stain.write_text("{}")
    with pytest.raises(DataError, match=r"stain\.json cannot be read"):
        pool_stain(grid(lambda node: sums(0.5)), a_study(), ROSTER, RunFolder(tmp_path), 1.0)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (sums(0.5, 0, 0), "of 0 images, expected 10"),
        (sums(np.nan), "not finite"),
        (sums(7.0), "expected optical densities up to 5.6"),
        (StainSums(10, np.full(6, 5.0), np.full(6, 2.0)), "sums of squares of stain are smaller"),
    ],
)
def test_sums_that_no_images_can_give_are_refused(wrong: StainSums, reason: str) -> None:
    with pytest.raises(UpdateRefused, match=reason):
        check_stain_sums(wrong, 10)


def test_sums_of_equal_images_pass() -> None:
    check_stain_sums(sums(1 / 3, spread=0.0), 10)
