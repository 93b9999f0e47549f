"""Pretraining on in-silico cells: equal shares, patients apart, a backbone that a study takes up."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from wbc_common.models import build_model
from wbc_common.study import ImageSettings, ModelSettings
from wbc_simulations import pretrain as module
from wbc_simulations.pretrain import Pretrained, phantom_cells, pretrain, save_backbone

SMALL = ImageSettings(size_px=32, framing="as-is")


@pytest.fixture
def _blank_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells of noise at once instead of drawn ones."""

    def noise(classes: torch.Tensor, *args: object, size_px: int, **options: object) -> torch.Tensor:
        generator = torch.Generator().manual_seed(len(classes))
        shape = (len(classes), 3, size_px, size_px)
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)

    monkeypatch.setattr(module, "render", noise)


@pytest.mark.usefixtures("_blank_cells")
def test_every_class_has_its_equal_share() -> None:
    cells = phantom_cells("pale_wright", 130, 0, SMALL)
    assert cells.class_counts().tolist() == [10.0] * 13
    assert cells.images.shape == (130, 3, 32, 32)


@pytest.mark.usefixtures("_blank_cells")
def test_no_patient_is_both_trained_and_tested_on() -> None:
    cells = phantom_cells("pale_wright", 800, 0, SMALL)
    tested = set(cells.part("test").groups.tolist())
    assert tested
    assert tested.isdisjoint(cells.part("train").groups.tolist())
    assert len(tested) + len(set(cells.part("train").groups.tolist())) == 200


@pytest.mark.usefixtures("_blank_cells")
def test_training_tells_each_epoch_and_measures_on_unseen_patients() -> None:
    told: list[tuple[int, float]] = []
    found = pretrain(
        domains=["pale_wright", "dm96_mgg"],
        cells_per_domain=104,
        epochs=2,
        seed=0,
        size_px=16,
        on_epoch=lambda epoch, loss: told.append((epoch, loss)),
    )
    assert [epoch for epoch, _ in told] == [1, 2]
    assert all(0 < loss < 10 for _, loss in told)
    assert 0 <= found.balanced_accuracy <= 1


@pytest.mark.usefixtures("_blank_cells")
def test_domains_keep_their_patients_apart() -> None:
    parts = [phantom_cells(name, 40, 0, SMALL) for name in ("pale_wright", "dm96_mgg")]
    joined = module._join(parts)
    assert len(joined) == 80
    assert len(joined.groups.unique()) == 20


def test_the_saved_backbone_is_half_precision_without_a_head_and_starts_a_study(tmp_path: Path) -> None:
    model = build_model(ModelSettings(), 13, seed=5)
    path = tmp_path / "new" / "backbone.safetensors"
    save_backbone(Pretrained(model, 0.5).model, path)
    saved = load_file(path)
    assert {value.dtype for value in saved.values()} == {torch.float16}
    assert all(key.startswith("backbone.") for key in saved)
    started = build_model(ModelSettings(weights=str(path)), 5, seed=6)
    for key, value in model.state_dict().items():
        if key in saved:
            torch.testing.assert_close(started.state_dict()[key], value, atol=2e-3, rtol=2e-3)
    assert started.head.weight.shape[0] == 5


def test_the_same_seed_pretrains_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    def saved(seed: int, name: str) -> bytes:
        found = pretrain(
            domains=["pale_wright"], cells_per_domain=39, epochs=2, seed=seed, size_px=16, on_epoch=lambda *_: None
        )
        save_backbone(found.model, tmp_path / name)
        return (tmp_path / name).read_bytes()

    first = saved(0, "first")
    assert saved(0, "again") == first
    assert saved(1, "other") != first
