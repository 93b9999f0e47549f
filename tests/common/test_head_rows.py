"""Rows of a head: which class each belongs to, and what classes get from them."""

import numpy as np
import pytest
import torch

from wbc_common.cells import CLASSES_5, CLASSES_11, CLASSES_13, registry
from wbc_common.head_rows import NO_CLASS
from wbc_common.models import build_model
from wbc_common.study import ModelSettings

FIVE = registry("wbc5").head_rows(fine=True)


def test_five_classes_keep_the_thirteen_apart() -> None:
    assert FIVE.names == CLASSES_13
    named = {name: CLASSES_5[own] for name, own in zip(FIVE.names, FIVE.class_of, strict=True) if own != NO_CLASS}
    assert named == {
        "basophil": "basophil",
        "eosinophil": "eosinophil",
        "band_neutrophil": "neutrophil",
        "segmented_neutrophil": "neutrophil",
        "monocyte": "monocyte",
        "typical_lymphocyte": "lymphocyte",
        "atypical_lymphocyte": "lymphocyte",
    }
    assert FIVE.per_class.tolist() == [2, 2, 1, 1, 1]


def test_eleven_classes_lack_the_smudge_cell_alone() -> None:
    rows = registry("wbc11").head_rows(fine=True)
    assert [name for name, own in zip(rows.names, rows.class_of, strict=True) if own == NO_CLASS] == ["smudge_cell"]
    assert dict(zip(CLASSES_11, rows.per_class.tolist(), strict=True))["lymphocyte"] == 2


def test_the_thirteen_are_rows_themselves() -> None:
    fine, plain = (registry("wbc13").head_rows(fine=fine) for fine in (True, False))
    assert fine.are_classes
    assert fine == plain


def test_a_row_of_no_class_has_nothing_and_rows_of_a_class_share_what_it_has() -> None:
    counts = np.array([10.0, 6, 3, 2, 1])
    shared, repeated = FIVE.shared(counts), FIVE.repeated(np.stack([counts, 2 * counts]))
    assert dict(zip(FIVE.names, shared.tolist(), strict=True)) == {
        **dict.fromkeys(CLASSES_13, 0.0),
        "band_neutrophil": 5.0,
        "segmented_neutrophil": 5.0,
        "typical_lymphocyte": 3.0,
        "atypical_lymphocyte": 3.0,
        "monocyte": 3.0,
        "eosinophil": 2.0,
        "basophil": 1.0,
    }
    np.testing.assert_array_equal(repeated[1], 2 * repeated[0])
    assert repeated[0, CLASSES_13.index("band_neutrophil")] == 10
    assert repeated[0, CLASSES_13.index("myelocyte")] == 0


@pytest.mark.parametrize("backbone", ["cnn-small", "p4cnn-small"])
def test_a_class_has_the_summed_probability_of_its_rows(backbone: str) -> None:
    settings = ModelSettings.model_validate({"backbone": backbone, "weights": "none"})
    model = build_model(settings, FIVE, seed=0).eval()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        rows = model.head(model.features(images)).double().exp()
        found = model(images).double().softmax(dim=1)
    named = torch.tensor(FIVE.class_of)
    sums = torch.stack([rows[:, named == own].sum(dim=1) for own in range(5)], dim=1)
    torch.testing.assert_close(found, sums / sums.sum(dim=1, keepdim=True), rtol=1e-5, atol=1e-7)
