"""The kept round: whole, of this moment, or refused."""

from pathlib import Path

import numpy as np
import pytest

from wbc_common.errors import DataError
from wbc_server.record.kept_round import read_kept, write_kept

RECORD = {"round": 2, "seconds": 0.1 + 0.2, "validation": {"münchen": [[1, 0], [0, 1]]}, "score": float("nan")}


def test_what_is_kept_is_found_as_the_journal_would_have_it(tmp_path: Path) -> None:
    write_kept(tmp_path / "kept.json", {**RECORD, "counts": np.arange(2)})
    assert read_kept(tmp_path / "kept.json", after=1) == {**RECORD, "score": None, "counts": [0, 1]}


def test_no_file_or_a_round_that_the_journal_has_is_nothing_to_wait_for(tmp_path: Path) -> None:
    assert read_kept(tmp_path / "kept.json", after=0) is None
    write_kept(tmp_path / "kept.json", RECORD)
    assert read_kept(tmp_path / "kept.json", after=2) is None


def test_every_flipped_bit_and_every_truncation_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    write_kept(path, RECORD)
    whole = path.read_bytes()
    for place in range(len(whole) - 1):  # the newline at the end carries nothing
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(bytes(flipped))
        with pytest.raises(DataError, match="damaged"):
            read_kept(path, after=0)
        path.write_bytes(whole[:place])
        with pytest.raises(DataError, match="remove it to go on"):
            read_kept(path, after=0)


@pytest.mark.parametrize("content", ["[]", "1", '{"record": 3, "sha256": "0"}', '{"sha256": "0"}'])
def test_another_json_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "kept.json").write_text(content)
    with pytest.raises(DataError, match="damaged"):
        read_kept(tmp_path / "kept.json", after=0)
