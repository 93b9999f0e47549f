"""What a clinic keeps from one round for the next: of this plan, of two rounds, whole or refused."""

import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wbc_client.state.round_memory import FOLDER_NAME, keep, recall, recall_last
from wbc_common.errors import DataError

ARRAYS = {"sums": np.arange(6.0).reshape(2, 3) / 7, "counts": np.array([1.0, 2.5])}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / FOLDER_NAME).iterdir())


def test_what_was_kept_is_recalled_to_the_bit_by_its_owner_alone(tmp_path: Path) -> None:
    keep(tmp_path, "class-sums", ARRAYS, study_hash="a", round_number=3)
    found = recall(tmp_path, "class-sums", study_hash="a", round_number=3)
    assert found is not None
    assert {key: value.tobytes() for key, value in found.items()} == {
        key: value.tobytes() for key, value in ARRAYS.items()
    }
    (path,) = (tmp_path / FOLDER_NAME).iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_another_round_another_plan_or_another_thing_is_not_it(tmp_path: Path) -> None:
    keep(tmp_path, "class-sums", ARRAYS, study_hash="a", round_number=3)
    assert recall(tmp_path, "class-sums", study_hash="a", round_number=2) is None
    assert recall(tmp_path, "class-sums", study_hash="b", round_number=3) is None
    assert recall(tmp_path, "residual", study_hash="a", round_number=3) is None


def test_two_rounds_are_kept_so_that_the_last_can_be_asked_again(tmp_path: Path) -> None:
    for number in (1, 2, 3, 3):
        keep(tmp_path, "class-sums", ARRAYS, study_hash="a", round_number=number)
    assert names(tmp_path) == ["class-sums-0002.safetensors", "class-sums-0003.safetensors"]


def test_what_a_kill_while_writing_left_is_removed_in_time(tmp_path: Path) -> None:
    keep(tmp_path, "class-sums", ARRAYS, study_hash="a", round_number=1)
    (tmp_path / FOLDER_NAME / "class-sums-0001.safetensors.part").write_bytes(b"torn")
    keep(tmp_path, "class-sums", ARRAYS, study_hash="a", round_number=3)
    assert names(tmp_path) == ["class-sums-0001.safetensors", "class-sums-0003.safetensors"]


def test_what_a_later_round_of_an_earlier_run_left_is_removed(tmp_path: Path) -> None:
    for number in (8, 9, 2):
        keep(tmp_path, "class-sums", ARRAYS, study_hash="a", round_number=number)
    assert names(tmp_path) == ["class-sums-0002.safetensors"]


def test_the_latest_round_before_is_recalled_and_no_torn_file(tmp_path: Path) -> None:
    assert recall_last(tmp_path, "class-sums", study_hash="a", before=9) is None
    for number in (2, 4):
        keep(tmp_path, "class-sums", {"x": np.array([number])}, study_hash="a", round_number=number)
    (tmp_path / FOLDER_NAME / "class-sums-0005.safetensors.part").write_bytes(b"torn")
    found = [recall_last(tmp_path, "class-sums", study_hash="a", before=number) for number in (7, 4)]
    assert [one["x"].tolist() for one in found if one is not None] == [[4], [2]]
    assert recall_last(tmp_path, "class-sums", study_hash="a", before=2) is None
    assert recall_last(tmp_path, "class-sums", study_hash="b", before=7) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: b"x" + content,
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    ],
    ids=["empty", "truncated", "shifted", "a flipped bit"],
)
def test_a_damaged_file_is_named_with_a_remedy(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    keep(tmp_path, "class-sums", ARRAYS, study_hash="a", round_number=3)
    (path,) = (tmp_path / FOLDER_NAME).iterdir()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="damaged or cannot be read"):
        recall(tmp_path, "class-sums", study_hash="a", round_number=3)
