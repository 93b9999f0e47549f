"""Pretraining on in-silico cells: equal shares, patients apart, a backbone that a study takes up."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from studies import rows
from wbc_client.dataset.cell_set import CellSet, joined
from wbc_client.dataset.compact import read_compact
from wbc_client.training.rehearsal import REHEARSAL_CELLS
from wbc_common.cells import CLASSES_5, CLASSES_13, registry
from wbc_common.errors import SettingError
from wbc_common.models import build_model, is_head
from wbc_common.study import ImageSettings, ModelSettings
from wbc_common.weights import load_initial_weights
from wbc_simulations import pretrain as module
from wbc_simulations.phantom import domain_names, load_domain
from wbc_simulations.pretrain import (
    Pretrained,
    Recipe,
    check_place,
    other_looks,
    phantom_cells,
    pretrain,
    save_weights,
    write_rehearsal_cells,
)

SMALL = ImageSettings(size_px=32, framing="as-is")


def cells_of(domain: str, number: int, name: str = "wbc13") -> CellSet:
    return phantom_cells(load_domain(domain), registry(name), number, seed=0, settings=SMALL)


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
    cells = cells_of("pale_wright", 130)
    assert cells.class_counts().tolist() == [10.0] * 13
    assert cells.images.shape == (130, 3, 32, 32)


@pytest.mark.usefixtures("_blank_cells")
def test_no_patient_is_both_trained_and_tested_on() -> None:
    cells = cells_of("pale_wright", 800)
    tested = set(cells.part("test").groups.tolist())
    assert tested
    assert tested.isdisjoint(cells.part("train").groups.tolist())
    assert len(tested) + len(set(cells.part("train").groups.tolist())) == 200


@pytest.mark.usefixtures("_blank_cells")
def test_training_tells_each_epoch_and_measures_on_unseen_patients() -> None:
    told: list[tuple[int, float]] = []
    rendered: list[int] = []
    recipe = Recipe(
        domains=("pale_wright", "dm96_mgg"), blends=4, cells=208, epochs=2, images=ImageSettings(size_px=16)
    )
    found = pretrain(recipe, lambda epoch, loss: told.append((epoch, loss)), rendered.append)
    assert rendered == [52, 104, 156, 208]
    assert [epoch for epoch, _ in told] == [1, 2]
    assert all(0 < loss < 10 for _, loss in told)
    assert 0 <= found.balanced_accuracy <= 1
    others = other_looks(found.model, recipe)
    assert set(others) == set(domain_names()) - {"pale_wright", "dm96_mgg"}
    assert all(0 <= value <= 1 for value in others.values())


@pytest.mark.usefixtures("_blank_cells")
def test_another_backbone_and_size_can_be_pretrained_and_taken_up(tmp_path: Path) -> None:
    recipe = Recipe(blends=1, cells=52, epochs=1, images=ImageSettings(size_px=32), backbone="resnet18")
    found = pretrain(recipe, lambda *_: None)
    save_weights(found.model, recipe.study(), tmp_path / "resnet18.safetensors")
    settings = ModelSettings(backbone="resnet18", weights=str(tmp_path / "resnet18.safetensors"))
    started = build_model(settings, rows(13), seed=6)
    load_initial_weights(started, settings, recipe.images)
    for key, value in found.model.state_dict().items():
        torch.testing.assert_close(started.state_dict()[key], value, atol=2e-3, rtol=2e-3)


@pytest.mark.usefixtures("_blank_cells")
def test_domains_keep_their_patients_apart() -> None:
    parts = [cells_of(name, 40) for name in ("pale_wright", "dm96_mgg")]
    found = joined(parts)
    assert len(found) == 80
    assert len(found.groups.unique()) == 20


def test_a_place_where_weights_cannot_be_written_is_found_out_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"not as 'network\.pth'") as refusal:
        check_place(tmp_path / "network.pth")
    assert "network.safetensors" in str(refusal.value.remedy)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        check_place(tmp_path / "file" / "network.safetensors")
    check_place(tmp_path / "new" / "network.safetensors")
    assert list((tmp_path / "new").iterdir()) == []


def test_the_saved_network_is_half_precision_and_starts_a_study_of_other_classes(tmp_path: Path) -> None:
    model = build_model(ModelSettings(), rows(13), seed=5)
    path = tmp_path / "new" / "network.safetensors"
    save_weights(Pretrained(model, 0.5).model, Recipe().study(), path)
    saved = load_file(path)
    assert {value.dtype for value in saved.values()} == {torch.float16}
    started = build_model(ModelSettings(), rows(5), seed=6)
    load_initial_weights(started, ModelSettings(weights=str(path)), ImageSettings())
    for key, value in model.state_dict().items():
        if not is_head(key):
            torch.testing.assert_close(started.state_dict()[key], value, atol=2e-3, rtol=2e-3)
    expected = model.head.weight[CLASSES_13.index("monocyte")]
    torch.testing.assert_close(started.head.weight[CLASSES_5.index("monocyte")], expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(
    ("study", "said"),
    [({}, ""), ({"nuclear_stain": 0.75}, "nuclear_stain = 0.0 and not 0.75"), ({"framing": "as-is"}, "framing")],
)
def test_weights_say_where_their_images_were_prepared_otherwise(
    study: dict[str, object], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "network.safetensors"
    save_weights(build_model(ModelSettings(), rows(13), seed=5), Recipe().study(), path)
    load_initial_weights(
        build_model(ModelSettings(), rows(5), seed=6),
        ModelSettings(weights=str(path)),
        ImageSettings.model_validate(study),
    )
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == bool(said)
    assert said in "".join(warnings)


@pytest.mark.parametrize("told", ["no JSON", "[1, 2]", "{}"])
def test_weights_that_say_of_their_images_what_nobody_understands_are_taken_without_a_word(
    told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, path = build_model(ModelSettings(), rows(13), seed=5), tmp_path / "network.safetensors"
    save_file(model.state_dict(), path, {"images": told})
    assert load_initial_weights(
        build_model(ModelSettings(), rows(13), seed=6), ModelSettings(weights=str(path)), ImageSettings()
    )
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_the_same_seed_pretrains_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    def saved(seed: int, name: str) -> bytes:
        recipe = Recipe(
            domains=("pale_wright",), blends=2, cells=78, epochs=2, seed=seed, images=ImageSettings(size_px=16)
        )
        found = pretrain(recipe, lambda *_: None)
        save_weights(found.model, recipe.study(), tmp_path / name)
        return (tmp_path / name).read_bytes()

    first = saved(0, "first")
    assert saved(0, "again") == first
    assert saved(1, "other") != first


def test_cells_come_from_blends_in_equal_shares_or_from_the_shipped_domains() -> None:
    blends = Recipe(domains=("pale_wright", "dm96_mgg"), blends=5).sources()
    assert [domain.name for domain in blends] == [f"blend-0-{number}" for number in range(5)]
    assert [domain.name for domain in Recipe(domains=("pale_wright",), blends=0).sources()] == ["pale_wright"]


@pytest.mark.usefixtures("_blank_cells")
def test_as_many_cells_are_drawn_as_asked_for() -> None:
    assert len(Recipe(blends=7, images=ImageSettings(size_px=16)).phantoms(0, 100)) == 100
    assert len(Recipe(blends=7, images=ImageSettings(size_px=16)).phantoms(0, 3)) == 3


def test_a_coarser_registry_draws_each_class_from_all_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def noted(classes: torch.Tensor, *args: object, size_px: int, **options: object) -> torch.Tensor:
        drawn.extend(classes.tolist())
        return torch.zeros(len(classes), 3, size_px, size_px, dtype=torch.uint8)

    monkeypatch.setattr(module, "render", noted)
    assert cells_of("pale_wright", 500, "wbc5").class_counts().tolist() == [100.0] * 5
    found = {CLASSES_13[place] for place in drawn}
    assert {"band_neutrophil", "segmented_neutrophil", "typical_lymphocyte", "atypical_lymphocyte"} < found
    assert found.isdisjoint({"myeloblast", "erythroblast", "smudge_cell"})


@pytest.mark.usefixtures("_blank_cells")
def test_rehearsal_cells_are_one_of_each_class_from_every_blend(tmp_path: Path) -> None:
    path = tmp_path / "cells.safetensors"
    assert write_rehearsal_cells(path, blends=3, seed=1) == 39
    cells = read_compact(path, registry("wbc13"))
    assert cells.class_counts().tolist() == [3.0] * 13
    assert cells.images.shape[1:] == (3, 128, 128)


@pytest.mark.slow
def test_the_shipped_rehearsal_cells_come_from_the_command() -> None:
    """Its first blends, rendered anew: another machine may round a pixel otherwise, and JPEG loses a little."""
    recipe = Recipe(blends=100, cells=1300, seed=1, wide=True)
    shipped = read_compact(REHEARSAL_CELLS, registry("wbc13"))
    study, first = recipe.study(), recipe.sources()[0]
    made = phantom_cells(first, study.classes, 13, seed=1, settings=study.images)
    assert torch.equal(made.labels, shipped.labels[:13])
    assert (made.images.float() - shipped.images[:13].float()).abs().mean() < 4
