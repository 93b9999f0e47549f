"""Bootstrap draws survive their file; a damaged file is said to be one."""

from pathlib import Path

import numpy as np
import pytest

from wbc_common.errors import DataError
from wbc_common.wire import Evaluation
from wbc_server.final.draws import read_draws, write_draws
from wbc_server.run_folder import RunFolder


def evaluation(draws: np.ndarray) -> Evaluation:
    return Evaluation(np.zeros((2, 2), dtype=np.int64), draws, np.zeros(2, dtype=np.int64))


def test_draws_come_back_by_clinic_as_int64(tmp_path: Path) -> None:
    draws = np.arange(12, dtype=np.int64).reshape(3, 2, 2)
    write_draws(RunFolder(tmp_path), {"west": evaluation(draws), "east": evaluation(draws.transpose(0, 2, 1))})
    found = read_draws(RunFolder(tmp_path))
    assert found["west"].tolist() == draws.tolist()
    assert found["east"].tolist() == draws.transpose(0, 2, 1).tolist()
    assert found["west"].dtype == np.int64


def test_no_draws_are_draws_too(tmp_path: Path) -> None:
    write_draws(RunFolder(tmp_path), {"west": evaluation(np.zeros((0, 2, 2), dtype=np.int64))})
    assert read_draws(RunFolder(tmp_path))["west"].shape == (0, 2, 2)


@pytest.mark.parametrize("content", [None, b"", b"not a safetensors file"])
def test_a_missing_or_damaged_file_is_a_data_error(tmp_path: Path, content: bytes | None) -> None:
    folder = RunFolder(tmp_path)
    if content is not None:
        folder.draws.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        read_draws(folder)
