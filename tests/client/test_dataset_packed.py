"""Packed cells come back bit for bit, and a file made for something else is refused."""

import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from wbc_client.dataset.cell_set import CellSet
from wbc_client.dataset.opening import open_cells
from wbc_client.dataset.packed import packed_metadata, read_packed, write_packed
from wbc_client.dataset.packing import pack_cells
from wbc_client.site import Site, read_site
from wbc_common.cells import REGISTRIES
from wbc_common.errors import DataError, SettingError
from wbc_common.study import ImageSettings


def _images(size_px: int, **settings: object) -> ImageSettings:
    return ImageSettings.model_validate({"size_px": size_px, "framing": "as-is", **settings})


FIVE = packed_metadata(REGISTRIES["wbc5"], _images(16))
NAMES = ("images", "allowed", "groups", "split")


def _cells(num_cells: int = 6) -> CellSet:
    generator = torch.Generator().manual_seed(0)
    allowed = torch.rand(num_cells, 5, generator=generator) < 0.3
    allowed[:, 0] = True
    return CellSet(
        images=torch.randint(0, 256, (num_cells, 3, 16, 16), dtype=torch.uint8, generator=generator),
        allowed=allowed,
        groups=torch.arange(num_cells),
        split=torch.arange(num_cells) % 3,
    )


@pytest.mark.parametrize("num_cells", [0, 1, 6])
def test_a_round_trip_is_bit_identical(tmp_path: Path, num_cells: int) -> None:
    cells, path = _cells(num_cells), tmp_path / "new" / "cells.safetensors"
    write_packed(cells, path, FIVE)
    read = read_packed(path, FIVE)
    for name in NAMES:
        assert torch.equal(getattr(read, name), getattr(cells, name))
        assert getattr(read, name).dtype == getattr(cells, name).dtype
    assert [entry.name for entry in path.parent.iterdir()] == ["cells.safetensors"]


def test_a_part_of_a_set_can_be_packed(tmp_path: Path) -> None:
    write_packed(_cells().part("val"), tmp_path / "val.safetensors", FIVE)
    assert torch.equal(read_packed(tmp_path / "val.safetensors").images, _cells().images[[1, 4]])


@pytest.mark.parametrize(
    ("expected", "complaint"),
    [
        ({"registry_digest": REGISTRIES["wbc11"].digest}, "registry_digest"),
        (packed_metadata(REGISTRIES["wbc13"], _images(16)), "registry wbc5; expected wbc13"),
        (packed_metadata(REGISTRIES["wbc5"], _images(32)), "size_px 16; expected 32"),
        (packed_metadata(REGISTRIES["wbc5"], _images(16, field_um=20)), "field_um None; expected 20"),
    ],
)
def test_a_file_for_other_classes_or_sizes_is_refused(tmp_path: Path, expected: dict[str, str], complaint: str) -> None:
    write_packed(_cells(), tmp_path / "cells.safetensors", FIVE)
    with pytest.raises(DataError, match=complaint):
        read_packed(tmp_path / "cells.safetensors", expected)


def test_cells_cut_to_a_field_are_refused_by_a_plan_without_one(tmp_path: Path) -> None:
    write_packed(
        _cells(), tmp_path / "cells.safetensors", packed_metadata(REGISTRIES["wbc5"], _images(16, field_um=20))
    )
    with pytest.raises(DataError, match="field_um 20; expected None"):
        read_packed(tmp_path / "cells.safetensors", FIVE)


def test_metadata_that_lies_about_the_size_is_found_out(tmp_path: Path) -> None:
    claimed = packed_metadata(REGISTRIES["wbc5"], _images(32))
    write_packed(_cells(), tmp_path / "cells.safetensors", claimed)
    with pytest.raises(DataError, match="16 × 16 pixels; expected 32"):
        read_packed(tmp_path / "cells.safetensors", claimed)


@pytest.mark.parametrize(
    ("name", "tensor", "complaint"),
    [
        ("images", None, "lacks images"),
        ("images", torch.zeros(6, 3, 16, 16), "images is torch.float32"),
        ("images", torch.zeros((), dtype=torch.uint8), "images is torch.uint8"),
        ("images", torch.zeros(6, 1, 16, 16, dtype=torch.uint8), "3 channels"),
        ("groups", torch.zeros(5, dtype=torch.int64), "groups is"),
        ("allowed", torch.zeros(6, 5, dtype=torch.bool), "at least one class"),
        ("split", torch.full((6,), 3), "split outside"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    tmp_path: Path, name: str, tensor: torch.Tensor | None, complaint: str
) -> None:
    tensors = {key: getattr(_cells(), key) for key in NAMES} | {name: tensor}
    kept = {key: value for key, value in tensors.items() if value is not None}
    save_file(kept, tmp_path / "cells.safetensors", FIVE)
    with pytest.raises(DataError, match=complaint):
        read_packed(tmp_path / "cells.safetensors", FIVE)


@pytest.mark.parametrize("content", [None, b"", b"hello, no tensors here"])
def test_a_file_that_is_no_safetensors_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "cells.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"cells\.safetensors"):
        read_packed(path)


def test_a_clinics_files_are_packed_once_and_open_as_before(tmp_path: Path) -> None:
    site = _clinic(tmp_path, kind="folders", path="cells")
    for place, name in enumerate(("monocyte", "neutrophil", "monocyte")):
        (tmp_path / "cells" / name).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(place).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "cells" / name / f"{place}.png")
    packed = tmp_path / "packed.safetensors"
    assert len(pack_cells(site, packed).cells) == 3
    assert stat.S_IMODE(packed.stat().st_mode) == 0o600
    opened = open_cells(_clinic(tmp_path, kind="packed", path="packed.safetensors"), site.read_study()).cells
    expected = open_cells(site, site.read_study()).cells
    for name in NAMES:
        assert torch.equal(getattr(opened, name), getattr(expected, name))


def test_what_is_packed_already_or_under_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="packed already"):
        pack_cells(_clinic(tmp_path, kind="packed", path="cells.safetensors"), tmp_path / "again.safetensors")
    with pytest.raises(SettingError, match="no name of a packed file"):
        pack_cells(_clinic(tmp_path, kind="folders", path="cells"), tmp_path / "cells.zip")


def _clinic(folder: Path, **data: str) -> Site:
    (folder / "study.toml").write_text('name = "t"\nregistry = "wbc5"\n[clinics]\ntrain = ["here"]\n')
    lines = [f'{key} = "{value}"' for key, value in data.items()]
    (folder / "clinic.toml").write_text("\n".join(['clinic = "here"', 'study = "study.toml"', "[data]", *lines]))
    return read_site(folder / "clinic.toml")
