"""The phantom: deterministic, complete, and different where clinics, classes and patients differ."""

from importlib import resources

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression

from wbc_common.cells import CLASSES_13
from wbc_common.errors import SettingError
from wbc_simulations.phantom import case_mix, case_mix_names, domain_names, load_domain, render
from wbc_simulations.phantom.contact import contact_sheet
from wbc_simulations.phantom.render import CHUNK, nucleus_and_cell_areas
from wbc_simulations.phantom.settings import parse_domain


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cells_of(name: str, count: int) -> torch.Tensor:
    return torch.full((count,), CLASSES_13.index(name))


def all_classes(each: int) -> torch.Tensor:
    return torch.arange(len(CLASSES_13)).repeat_interleave(each)


def test_the_same_call_gives_the_same_bits():
    classes, patients = all_classes(2), torch.arange(26) % 3
    domain = load_domain("dm96_mgg")
    first = render(classes, patients, domain, size_px=48, seed=7)
    assert torch.equal(first, render(classes, patients, domain, size_px=48, seed=7))


@pytest.mark.parametrize("count", [1, 5, CHUNK, CHUNK + 1])
def test_a_cell_does_not_depend_on_how_many_are_rendered_with_it(count):
    classes, patients = torch.arange(CHUNK + 9) % 13, torch.arange(CHUNK + 9) % 4
    domain = load_domain("phone_cast")
    batch = render(classes, patients, domain, size_px=33, seed=3)
    assert torch.equal(batch[:count], render(classes[:count], patients[:count], domain, size_px=33, seed=3))


def test_a_cell_does_not_depend_on_the_other_cells_of_its_chunk():
    domain, patients = load_domain("dm96_mgg"), torch.zeros(4, dtype=torch.int64)
    one = render(torch.tensor([0, 1, 2, 3]), patients, domain, size_px=32, seed=1)
    other = render(torch.tensor([12, 1, 11, 3]), patients, domain, size_px=32, seed=1)
    assert torch.equal(one[[1, 3]], other[[1, 3]])
    assert not torch.equal(one[0], other[0])


@pytest.mark.parametrize("changed", ["seed", "patient", "domain"])
def test_another_seed_patient_or_domain_gives_another_cell(changed):
    classes, patient = cells_of("monocyte", 1), torch.tensor([1])
    base = render(classes, patient, load_domain("dm96_mgg"), size_px=32, seed=1)
    other = {
        "seed": lambda: render(classes, patient, load_domain("dm96_mgg"), size_px=32, seed=2),
        "patient": lambda: render(classes, patient + 1, load_domain("dm96_mgg"), size_px=32, seed=1),
        "domain": lambda: render(classes, patient, load_domain("oil_mgg_aml"), size_px=32, seed=1),
    }[changed]()
    assert (base.float() - other.float()).abs().mean() > 2.0


@pytest.mark.parametrize("name", domain_names())
def test_every_class_renders_in_every_domain_with_contrast(name):
    images = render(all_classes(2), torch.arange(26) % 2, load_domain(name), size_px=40, seed=0)
    assert images.shape == (26, 3, 40, 40)
    assert images.dtype == torch.uint8
    assert (images.float().std(dim=(1, 2, 3)) > 4.0).all()


def test_at_least_eight_domains_differ_in_mean_colour_as_published_clinics_do():
    means = {
        name: render(all_classes(3), torch.arange(39), load_domain(name), size_px=32, seed=0)
        .float()
        .mean(dim=(0, 2, 3))
        / 255
        for name in domain_names()
    }
    stacked = torch.stack(list(means.values()))
    apart = (stacked[:, None] - stacked).abs().amax(dim=2) + torch.eye(len(stacked))
    assert len(means) >= 8
    assert apart.min() > 0.02  # every pair differs in some channel
    assert (stacked.amax(0) - stacked.amin(0)).min() > 0.12  # METHOD.md §6: published clinics reach 0.12


def n_to_c(name: str) -> float:
    classes = cells_of(name, 64)
    nucleus, cell = nucleus_and_cell_areas(classes, torch.arange(64), load_domain("oil_mgg_aml"), size_px=48, seed=0)
    return float((nucleus / cell).mean())


def test_n_to_c_ratios_are_ordered_as_in_the_textbook():
    blast, promyelocyte, myelocyte = map(n_to_c, ("myeloblast", "promyelocyte", "myelocyte"))
    assert blast > promyelocyte > myelocyte > n_to_c("segmented_neutrophil")
    assert n_to_c("typical_lymphocyte") > n_to_c("atypical_lymphocyte") + 0.1
    assert n_to_c("typical_lymphocyte") > n_to_c("monocyte") > n_to_c("segmented_neutrophil")


def test_measured_areas_agree_with_the_textbook_diameters():
    # Monocyte: 16.2 µm wide, so about π·8.1² = 206 µm² (a little more for the spread of diameters).
    _, cell = nucleus_and_cell_areas(
        cells_of("monocyte", 96), torch.arange(96), load_domain("dm96_mgg"), size_px=64, seed=0
    )
    assert float(cell.mean()) == pytest.approx(206, rel=0.12)


def test_cells_of_one_patient_resemble_each_other():
    patients = torch.arange(12).repeat_interleave(16)
    images = render(cells_of("segmented_neutrophil", 192), patients, load_domain("phone_cast"), size_px=32, seed=0)
    colour = images.float().mean(dim=(2, 3)).reshape(12, 16, 3)
    within = colour.var(dim=1).mean()
    between = colour.mean(dim=1).var(dim=0).mean()
    assert between > 1.5 * within


def tiny_features(images: torch.Tensor) -> np.ndarray:
    """Mean and spread of each channel in the image's middle, relative to its brightest pixels: 6 numbers per cell."""
    flat = images[:, :, 10:-10, 10:-10].float().flatten(2)
    white = images.float().flatten(2).quantile(0.95, dim=2)
    return torch.cat([flat.mean(2) / white, flat.std(2) / white], dim=1).numpy()


def test_a_linear_model_tells_eosinophils_from_lymphocytes_of_patients_it_has_not_seen():
    names = ("dm96_mgg", "high_mag_dark", "pale_wright", "low_res_blur", "grey_field_purple", "rapid_yellow")
    classes = torch.cat([cells_of("eosinophil", 48), cells_of("typical_lymphocyte", 48)])
    patients = torch.arange(96) % 16
    features = np.concatenate(
        [tiny_features(render(classes, patients, load_domain(n), size_px=40, seed=5)) for n in names]
    )
    truth, seen = np.tile(classes.numpy(), len(names)), np.tile(patients.numpy() < 8, len(names))
    model = LogisticRegression(C=100.0, max_iter=2000).fit(features[seen], truth[seen])
    assert model.score(features[~seen], truth[~seen]) > 0.75  # chance is 0.5


def test_case_mixes_sum_to_one_and_name_every_class():
    assert {"normal", "infection", "aml", "apl", "eosinophilia", "cll"} <= set(case_mix_names())
    for name in case_mix_names():
        mix = case_mix(name)
        assert tuple(mix) == CLASSES_13
        assert sum(mix.values()) == pytest.approx(1.0)
    assert case_mix("aml")["myeloblast"] >= 0.2  # WHO: 20 % blasts make an acute myeloid leukaemia


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(SettingError, match="dm96_mgg"):
        load_domain("dm69_mgg")
    with pytest.raises(SettingError, match="eosinophilia"):
        case_mix("healthy")


def test_an_unknown_or_misspelt_setting_is_refused():
    text = load_domain_text("dm96_mgg")
    parse_domain(text, where="dm96_mgg.toml")
    with pytest.raises(SettingError, match="psf_mm"):
        parse_domain(text.replace("psf_um", "psf_mm"), where="dm96_mgg.toml")
    with pytest.raises(SettingError, match="broken"):
        parse_domain("name =", where="broken.toml")


def load_domain_text(name: str) -> str:
    return (resources.files("wbc_simulations.phantom") / "domains" / f"{name}.toml").read_text(encoding="utf-8")


def test_a_domain_is_frozen():
    with pytest.raises(ValidationError):
        load_domain("dm96_mgg").name = "mine"


@pytest.mark.parametrize(
    ("classes", "patients", "size_px"),
    [([13], [0], 32), ([-1], [0], 32), ([0, 1], [0], 32), ([0.5], [0], 32), ([0], [0], 8)],
)
def test_what_cannot_be_rendered_is_refused(classes, patients, size_px):
    with pytest.raises(SettingError):
        render(torch.tensor(classes), torch.tensor(patients), load_domain("dm96_mgg"), size_px=size_px, seed=0)


def test_no_cells_give_an_empty_batch():
    none = torch.zeros(0, dtype=torch.int64)
    assert render(none, none, load_domain("dm96_mgg"), size_px=32, seed=0).shape == (0, 3, 32, 32)


def test_a_contact_sheet_has_a_row_per_class_and_a_block_per_domain():
    domains = [load_domain("dm96_mgg"), load_domain("rapid_yellow")]
    page = contact_sheet(domains, size_px=24, cells_per_class=2, seed=0)
    assert page.size == (130 + 2 * (2 * 24 + 4), 16 + 13 * 24)
    pixels = np.asarray(page)[16:, 130:]
    assert pixels[:, :48].mean(axis=(0, 1))[2] > pixels[:, 52:100].mean(axis=(0, 1))[2] + 20  # yellow lacks blue
