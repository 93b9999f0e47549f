"""Contact sheets: every class in every domain on one page, to be looked at by someone who knows blood."""

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw

from wbc_common.cells import CLASSES_13
from wbc_simulations.phantom.render import render
from wbc_simulations.phantom.settings import Domain

_LABEL_PX, _TITLE_PX, _GAP_PX = 130, 16, 4


def contact_sheet(domains: Sequence[Domain], *, size_px: int, cells_per_class: int, seed: int) -> Image.Image:
    """A page of cells: a row per class with its name, a block of `cells_per_class` columns per domain."""
    block = cells_per_class * size_px + _GAP_PX
    page = Image.new("RGB", (_LABEL_PX + block * len(domains), _TITLE_PX + size_px * len(CLASSES_13)), "white")
    writer = ImageDraw.Draw(page)
    for row, cell_class in enumerate(CLASSES_13):
        writer.text((2, _TITLE_PX + row * size_px + size_px // 2 - 6), cell_class, fill="black")
    for column, domain in enumerate(domains):
        left = _LABEL_PX + column * block
        writer.text((left, 2), domain.name, fill="black")
        page.paste(_block(domain, size_px, cells_per_class, seed), (left, _TITLE_PX))
    return page


def _block(domain: Domain, size_px: int, cells_per_class: int, seed: int) -> Image.Image:
    """All classes of one domain, one patient per column."""
    rows = len(CLASSES_13)
    classes = torch.arange(rows).repeat_interleave(cells_per_class)
    patients = torch.arange(cells_per_class).repeat(rows)
    images = render(classes, patients, domain, size_px=size_px, seed=seed)
    grid = images.reshape(rows, cells_per_class, 3, size_px, size_px).permute(0, 3, 1, 4, 2)
    return Image.fromarray(grid.reshape(rows * size_px, cells_per_class * size_px, 3).contiguous().numpy())
