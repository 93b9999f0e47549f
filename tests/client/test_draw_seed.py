"""The seed of the bootstrap draws: of a clinic alone, and without it a coordinator cannot take the sums apart."""

from pathlib import Path

import numpy as np
import pytest

from studies import run_tiny
from wbc_client.state.draw_seed import SEED_NAME, bootstrap_seed, keep_bootstrap_seed
from wbc_common.confusion import bootstrap_confusions, draw_group_weights
from wbc_common.errors import DataError
from wbc_common.seeds import derive_seed

PATIENTS, DRAWS = 40, 120


def test_a_seed_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    first = bootstrap_seed(tmp_path / "munich")
    assert bootstrap_seed(tmp_path / "munich") == first
    assert bootstrap_seed(tmp_path / "vienna") != first
    assert (tmp_path / "munich" / SEED_NAME).stat().st_mode & 0o777 == 0o600


def test_a_damaged_seed_is_said(tmp_path: Path) -> None:
    (tmp_path / SEED_NAME).write_text("no number")
    with pytest.raises(DataError, match="holds no seed"):
        bootstrap_seed(tmp_path)


def test_in_silico_it_follows_from_the_name_so_that_studies_are_paired(tmp_path: Path) -> None:
    run, _ = run_tiny(tmp_path)
    assert bootstrap_seed(run.path / "sites" / "east") == derive_seed("bootstrap", "east")


def solved(seed_guessed: int, sums: np.ndarray) -> np.ndarray:
    weights = draw_group_weights(PATIENTS, DRAWS, np.random.default_rng(seed_guessed))
    return np.linalg.lstsq(weights.astype(float), sums.astype(float), rcond=None)[0]


def test_who_knows_the_draws_solves_their_sums_for_each_patient_and_who_does_not_cannot(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    groups = generator.integers(0, PATIENTS, 400)
    true, guess = generator.integers(0, 5, (2, 400))
    keep_bootstrap_seed(tmp_path, 12345)
    weights = draw_group_weights(PATIENTS, DRAWS, np.random.default_rng(bootstrap_seed(tmp_path)))
    sums = bootstrap_confusions(true, guess, groups, num_classes=5, weights=weights).reshape(DRAWS, 25)
    own = np.zeros((PATIENTS, 25))
    np.add.at(own, (groups, true * 5 + guess), 1)
    np.testing.assert_allclose(solved(12345, sums), own, atol=1e-8)
    blind = solved(derive_seed("bootstrap", "munich"), sums)  # what a coordinator can compute
    assert np.abs(np.rint(blind) - own).max() >= 1
    assert np.corrcoef(blind.ravel(), own.ravel())[0, 1] < 0.5
