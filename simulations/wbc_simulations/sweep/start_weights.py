"""The files that a sweep's networks start from: found before any run, not missed by each of them in its turn.

A run keeps where its file lay (`wbc_common.weights_file.find_weights`), so it can be gone on with from any folder.
Names, folders and tables keep what the study says.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from wbc_common.weights_file import check_weights, find_weights
from wbc_simulations.sweep.cells import Cell, state_of


def with_found_weights(cells: Sequence[Cell], beside: Path) -> list[Cell]:
    """The cells with their weights files found beside the study's own file, or left to the working folder."""
    return [
        replace(cell, study=cell.study.model_copy(update={"model": find_weights(cell.study.model, beside)}))
        for cell in cells
    ]


def check_start_weights(cells: Sequence[Cell], output: Path, beside: Path) -> None:
    """Check that the weights files are there which the cells that are not finished start from.

    Raises:
        SettingError, DataError: naming the first that is not.
    """
    left = [cell for cell in cells if state_of(cell, output) != "finished"]
    for settings in dict.fromkeys(cell.study.model for cell in left):
        check_weights(settings, beside)
