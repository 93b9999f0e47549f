"""What every room's tests share: threads and cache of their own, the real cells if any, one finished study."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from studies import aligned_experiment, run_tiny
from wbc_server.run_folder import RunFolder

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def _quiet_and_alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two threads as on the reference machine; rendered cells in a cache of the tests' own."""
    torch.set_num_threads(2)
    os.environ["WBC_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def torch_threads() -> Iterator[Callable[[int], None]]:
    """Sets how many threads torch may use; the former number comes back after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real cells, or a skip that says so."""
    place = Path(os.environ.get("WBC_REALDATA") or REPOSITORY.parent / "shared" / "realdata")
    if not (place / "manifest.csv").exists():
        pytest.skip(f"no real cells at {place}; set WBC_REALDATA")
    return place


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished small study, with L2; read only."""
    return run_tiny(tmp_path_factory.mktemp("run") / "run", aligned_experiment())[0]
