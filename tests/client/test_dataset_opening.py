"""From clinic.toml to cells: what is used, what is lost, and that somebody says so."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wbc_client.dataset.opening import open_cells
from wbc_client.dataset.packed import packed_metadata, write_packed
from wbc_client.site import Site
from wbc_common.errors import DataError
from wbc_common.images import read_image, white_balance
from wbc_common.study import StudyConfig

REAL = Path(os.environ.get("WBC_REALDATA") or Path(__file__).parents[3] / "shared" / "realdata")


def _study(registry: str = "wbc5", **images: object) -> StudyConfig:
    settings = {"size_px": 16, "white_balance": False, "framing": "as-is", **images}
    return StudyConfig.model_validate(
        {"name": "t", "registry": registry, "clinics": {"train": ["here", "there"]}, "images": settings}
    )


def _site(path: Path, kind: str = "manifest", clinic: str = "here", **data: object) -> Site:
    return Site.model_validate(
        {"clinic": clinic, "study": "study.toml", "data": {"kind": kind, "path": str(path), **data}}
    )


def _images(folder: Path, *names: str) -> None:
    """Noise of 20 × 20, different for each place in `names`."""
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)


def _manifest(folder: Path, *lines: str) -> Path:
    (folder / "manifest.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_cells_are_the_images_in_the_manifests_order(tmp_path: Path) -> None:
    _images(tmp_path, "a.png", "b.png")
    site = _site(_manifest(tmp_path, "path,label", "b.png,monocyte", "a.png,neutrophil"))
    opened = open_cells(site, _study())
    assert opened.cells.images.shape == (2, 3, 16, 16)
    assert opened.cells.images.dtype == torch.uint8
    for place, name in enumerate(("b.png", "a.png")):
        assert np.array_equal(opened.cells.images[place].permute(1, 2, 0).numpy(), read_image(tmp_path / name, 16))
    assert opened.cells.labels.tolist() == [2, 0]  # monocyte, neutrophil of wbc5
    assert (opened.unreadable, opened.left_out) == ((), {})


def test_cells_of_the_studys_other_clinics_are_not_taken_for_ours(tmp_path: Path) -> None:
    _images(tmp_path, "a.png", "b.png")
    site = _site(_manifest(tmp_path, "path,label,clinic", "a.png,monocyte,ward-1", "b.png,monocyte,There"))
    with pytest.raises(DataError, match=r"no cell of clinic 'here', but those of There") as refusal:
        open_cells(site, _study())
    assert "set data.clinic" in refusal.value.remedy
    ours = site.model_copy(update={"data": site.data.model_copy(update={"clinic": "ward-1"})})
    assert len(open_cells(ours, _study()).cells) == 1


def test_white_balance_follows_the_study(tmp_path: Path) -> None:
    _images(tmp_path, "a.png")
    site = _site(_manifest(tmp_path, "path,label", "a.png,monocyte"))
    plain = open_cells(site, _study()).cells.images
    balanced = open_cells(site, _study(white_balance=True)).cells.images
    assert torch.equal(balanced, white_balance(plain))
    assert not torch.equal(balanced, plain)


def test_a_clinic_with_one_cell_works(tmp_path: Path) -> None:
    _images(tmp_path, "monocyte/1.png")
    cells = open_cells(_site(tmp_path, "folders"), _study()).cells
    assert len(cells) == len(cells.part("train")) == 1
    assert cells.class_counts().tolist() == [0, 0, 1, 0, 0]


def test_coarse_labels_are_kept_and_noted(tmp_path: Path) -> None:
    _images(tmp_path, "neutrophil/1.png", "BNE/2.png")
    opened = open_cells(_site(tmp_path, "folders"), _study("wbc13"))
    counts = dict(zip(_study("wbc13").classes.classes, opened.cells.class_counts().tolist(), strict=True))
    assert (counts["band_neutrophil"], counts["segmented_neutrophil"]) == (1.5, 0.5)
    assert "1 cells have a coarse label" in opened.notes


def test_unreadable_images_are_skipped_named_in_the_log_and_counted_in_the_notes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"monocyte/{number:02}.png" for number in range(20)]
    _images(tmp_path, *names)
    (tmp_path / names[3]).write_bytes(b"")
    with caplog.at_level(logging.WARNING, logger="wbc_client"):
        opened = open_cells(_site(tmp_path, "folders"), _study())
    assert opened.unreadable == (names[3],)
    assert len(opened.cells) == 19
    assert np.array_equal(opened.cells.images[3].permute(1, 2, 0).numpy(), read_image(tmp_path / names[4], 16))
    assert "skipped monocyte/03.png" in caplog.text
    assert "1 images could not be read and were skipped" in opened.notes
    assert not any("03.png" in note for note in opened.notes)


def test_too_many_unreadable_images_stop_the_clinic(tmp_path: Path) -> None:
    _images(tmp_path, "1.png", "2.png")
    site = _site(_manifest(tmp_path, "path,label", "1.png,eos", "2.png,eos", "gone.png,eos"))
    with pytest.raises(DataError, match=r"1 of 3 images cannot be read \(gone\.png\); at most 5% may be"):
        open_cells(site, _study())
    lenient = _site(tmp_path, max_unreadable_fraction=0.34)
    assert len(open_cells(lenient, _study()).cells) == 2


def test_what_has_no_place_in_the_study_is_left_out_by_label(tmp_path: Path) -> None:
    _images(tmp_path, "monocyte/1.png", "platelet/2.png", "erythroblast/3.png", "erythroblast/4.png")
    opened = open_cells(_site(tmp_path, "folders"), _study())
    assert opened.left_out == {"erythroblast": 2, "platelet": 1}
    with pytest.raises(DataError, match=r"no image.*platelet"):
        open_cells(_site(tmp_path, "folders", labels={"monocyte": "platelet"}), _study())


def _many(folder: Path, num_cells: int = 40) -> Path:
    names = [f"{number}.png" for number in range(num_cells)]
    _images(folder, *names)
    rows = [f"{name},{('monocyte', 'basophil')[place % 2]},P{place // 2}" for place, name in enumerate(names)]
    return _manifest(folder, "path,label,patient", *rows)


def test_splits_depend_on_the_clinic_and_neither_on_the_study_nor_on_unreadable_files(tmp_path: Path) -> None:
    site = _site(_many(tmp_path), max_unreadable_fraction=0.5)
    split = open_cells(site, _study()).cells.split
    assert np.bincount(split).tolist() == [24, 8, 8]
    other_seed = _study().model_copy(update={"seed": 9})
    assert torch.equal(open_cells(site, other_seed).cells.split, split)
    other_clinic = _site(tmp_path, clinic="there")
    assert not torch.equal(open_cells(other_clinic, _study()).cells.split, split)
    (tmp_path / "0.png").unlink()
    assert torch.equal(open_cells(site, _study()).cells.split, split[1:])


def test_near_duplicates_and_patients_share_a_split(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(30)]
    _images(tmp_path, *names)
    # Chains of three: cells 0-1 share a patient, cells 1-2 a near-duplicate cluster, and so on.
    marks = [mark for chain in range(10) for mark in (f"P{chain},", f"P{chain},D{chain}", f",D{chain}")]
    rows = [f"{name},eos,{mark}" for name, mark in zip(names, marks, strict=True)]
    cells = open_cells(_site(_manifest(tmp_path, "path,label,group,near_duplicate_cluster", *rows)), _study()).cells
    assert cells.groups.tolist() == [place // 3 for place in range(30)]
    assert (cells.split.reshape(10, 3) == cells.split.reshape(10, 3)[:, :1]).all()
    assert set(cells.split.tolist()) == {0, 1, 2}


def test_given_splits_are_used_and_straddling_ones_refused_without_naming_a_patient(tmp_path: Path) -> None:
    _images(tmp_path, "1.png", "2.png", "3.png")
    header = "path,label,patient,split"
    good = _manifest(tmp_path, header, "1.png,eos,Roe,test", "2.png,eos,Doe,train", "3.png,eos,Roe,test")
    assert open_cells(_site(good), _study()).cells.split.tolist() == [2, 0, 2]
    bad = _manifest(tmp_path, header, "1.png,eos,Roe,test", "2.png,eos,Doe,train", "3.png,eos,Roe,train")
    with pytest.raises(DataError, match="1 of 2 units") as refusal:
        open_cells(_site(bad), _study())
    assert "Roe" not in str(refusal.value)
    assert open_cells(_site(bad, splits="assigned"), _study()).cells.split.tolist() == [0, 0, 0]


def test_a_scale_that_goes_unused_is_said(tmp_path: Path) -> None:
    _images(tmp_path, "monocyte/1.png")
    assert not any("µm" in note for note in open_cells(_site(tmp_path, "folders"), _study()).notes)
    assert any("µm" in note for note in open_cells(_site(tmp_path, "folders", um_per_px=0.1), _study()).notes)


def test_a_plan_with_a_field_of_view_shows_cells_at_one_scale(tmp_path: Path) -> None:
    """The same cell from two microscopes: 20 pixels at 0.5 µm are 10 µm, of which the plan shows the middle half."""
    _images(tmp_path, "a.png", "b.png")
    fine = Image.open(tmp_path / "a.png").resize((40, 40), Image.Resampling.NEAREST)
    fine.save(tmp_path / "b.png")
    rows = _manifest(tmp_path, "path,label,um_per_px", "a.png,eos,0.5", "b.png,eos,0.25")
    coarse, scanned = open_cells(_site(rows), _study(framing="as-is", size_px=20, field_um=5)).cells.images
    middle = np.asarray(Image.open(tmp_path / "a.png"))[5:15, 5:15]
    expected = np.asarray(Image.fromarray(middle).resize((20, 20), Image.Resampling.BICUBIC))
    assert np.array_equal(coarse.permute(1, 2, 0).numpy(), expected)
    assert np.array_equal(scanned.permute(1, 2, 0).numpy()[::2, ::2], middle)


def test_images_of_unknown_scale_are_refused_where_the_plan_shows_a_field(tmp_path: Path) -> None:
    _images(tmp_path, "1.png", "2.png")
    rows = _manifest(tmp_path, "path,label,um_per_px", "1.png,eos,0.5", "2.png,eos,")
    with pytest.raises(DataError, match="1 of 2 images do not tell their µm per pixel") as refusal:
        open_cells(_site(rows), _study(framing="as-is", field_um=10))
    assert "um_per_px" in str(refusal.value.remedy)
    opened = open_cells(_site(rows, um_per_px=0.25), _study(framing="as-is", field_um=10))
    assert not any("µm" in note for note in opened.notes)


def test_packed_cells_open_as_the_folder_they_came_from(tmp_path: Path) -> None:
    study = _study(white_balance=True)
    source = _site(_many(tmp_path))
    packed = tmp_path / "cells.safetensors"
    write_packed(open_cells(source, _study()).cells, packed, packed_metadata(study.classes, study.images))
    from_files, from_packed = open_cells(source, study).cells, open_cells(_site(packed, "packed"), study).cells
    for name in ("images", "allowed", "groups", "split"):
        assert torch.equal(getattr(from_packed, name), getattr(from_files, name))


def test_packed_cells_of_another_registry_empty_or_straddling_are_refused(tmp_path: Path) -> None:
    study, packed = _study(), tmp_path / "cells.safetensors"
    cells = open_cells(_site(_many(tmp_path)), study).cells
    metadata = packed_metadata(study.classes, study.images)
    write_packed(cells, packed, metadata)
    with pytest.raises(DataError, match="wbc5; expected wbc11"):
        open_cells(_site(packed, "packed"), _study("wbc11"))
    write_packed(cells.subset(cells.split > 2), packed, metadata)
    with pytest.raises(DataError, match="no cell of wbc5 is left"):
        open_cells(_site(packed, "packed"), study)
    cells.groups[:] = 0
    write_packed(cells, packed, metadata)
    with pytest.raises(DataError, match="1 of 1 units"):
        open_cells(_site(packed, "packed"), study)


@pytest.mark.skipif(not (REAL / "manifest.csv").exists(), reason=f"no real cells at {REAL} (set WBC_REALDATA)")
@pytest.mark.parametrize(("clinic", "num_cells"), [("bccd", 355), ("tecom", 299), ("pbc_sample", 63), ("chula", 511)])
def test_the_real_clinics_open_whole(clinic: str, num_cells: int) -> None:
    opened = open_cells(_site(REAL, clinic=clinic, splits="assigned"), _study(size_px=32, white_balance=True))
    assert len(opened.cells) == num_cells
    assert opened.unreadable == ()
    assert set(opened.cells.split.tolist()) == {0, 1, 2}
