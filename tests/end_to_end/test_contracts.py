"""The arrows of the house, and what importing a command costs."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def test_imports_go_one_way() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    found = subprocess.run([linter], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("module", ["wbc_client.cli", "wbc_server.cli", "wbc_simulations.cli"])
def test_help_is_instant_because_a_command_line_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'flwr', 'matplotlib', 'sklearn'}} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_pickle_is_imported_but_to_name_its_error() -> None:
    folders = ("common", "client", "server", "simulations")
    sources = [path for folder in folders for path in (REPOSITORY / folder).rglob("*.py")]
    users = [path.name for path in sources if "import pickle" in path.read_text(encoding="utf-8")]
    assert len(sources) > 50
    assert users in ([], ["weights.py"])
