"""The folder of a run: every file of it by name, in one place."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wbc_common.errors import DataError, SettingError
from wbc_common.study import StudyConfig, read_study

RUN_KEY = "run-dir"
RUN_VARIABLE = "WBC_RUN_DIR"


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @property
    def study_file(self) -> Path:
        """The plan as run."""
        return self.path / "study.toml"

    @property
    def journal(self) -> Path:
        """One line a finished round."""
        return self.path / "rounds.jsonl"

    @property
    def kept_round(self) -> Path:
        """The record of the last round, until the figures of its model have come and the journal has its line."""
        return self.path / "kept-round.json"

    @property
    def checkpoints(self) -> Path:
        """The global model after rounds."""
        return self.path / "checkpoints"

    @property
    def server_state(self) -> Path:
        """What the server carries from round to round beside the model: moments, the running average."""
        return self.path / "server-state"

    @property
    def stain(self) -> Path:
        """Stain sums over the training clinics, where the plan pools them."""
        return self.path / "stain.json"

    @property
    def metrics(self) -> Path:
        """The figures of the finished study."""
        return self.path / "metrics.json"

    @property
    def draws(self) -> Path:
        """Bootstrap draws of the final measurement."""
        return self.path / "draws.safetensors"

    @property
    def model(self) -> Path:
        """The exported model."""
        return self.path / "model.safetensors"

    @property
    def report(self) -> Path:
        """The report to look at."""
        return self.path / "report.html"

    @property
    def is_finished(self) -> bool:
        """Whether the study came to its end; the report is written last."""
        return self.report.exists()

    def study(self) -> StudyConfig:
        """The plan of this run."""
        return read_study(self.study_file)

    def read_metrics(self) -> dict[str, Any]:
        """The figures of the finished study.

        Raises:
            DataError: the study is not finished, or the file is damaged.
        """
        try:
            values: dict[str, Any] = json.loads(self.metrics.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.path} holds no readable metrics.json", remedy="finish the run first: wbc-simulate run --resume"
            ) from error
        return values


def locate_run(run_config: Mapping[str, object]) -> RunFolder:
    """The run folder of this ServerApp: from Flower's run config, or WBC_RUN_DIR where an engine gives none.

    Raises:
        SettingError: neither names one.
    """
    place = run_config.get(RUN_KEY) or os.environ.get(RUN_VARIABLE)
    if not place:
        raise SettingError("this run does not know its folder", remedy=f"set {RUN_KEY} in the run config")
    return RunFolder(Path(str(place)))
