"""Initial weights: from files and by torchvision's names, with a network in torchvision's own layout as the source."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from studies import rows
from wbc_common.cells import CLASSES_5, CLASSES_11, CLASSES_13, REGISTRIES
from wbc_common.errors import DataError, SettingError
from wbc_common.models import Network, build_model
from wbc_common.study import ImageSettings, ModelSettings
from wbc_common.vision import torchvision
from wbc_common.weights import load_initial_weights
from wbc_common.weights_file import PHANTOM_FOLDER, check_weights, find_weights

State = dict[str, Tensor]
NAME = "ResNet18_Weights.IMAGENET1K_V1"
FILE = "resnet18-f37072fd.pth"


@pytest.fixture(scope="module")
def published() -> State:
    """The state dict of torchvision's ResNet-18 with BatchNorm and fc, in which no array is at its start value."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        state: State = torchvision.models.resnet18().state_dict()
        return {
            key: value + torch.rand(value.shape) if value.is_floating_point() else value for key, value in state.items()
        }


def fresh(backbone: str = "resnet18") -> Network:
    return build_model(ModelSettings(backbone=backbone), rows(5), seed=0)  # type: ignore[arg-type]


def load(weights: object, backbone: str = "resnet18") -> tuple[Network, list[str]]:
    model = fresh(backbone)
    settings = ModelSettings(backbone=backbone, weights=str(weights))  # type: ignore[arg-type]
    return model, load_initial_weights(model, settings, ImageSettings(size_px=64))


def check_taken_over(model: Network, loaded: list[str], published: State) -> None:
    """Every convolution is the source's; norm layers and head are as before."""
    start = fresh().state_dict()
    convolutions = {f"backbone.{key}" for key, value in published.items() if value.ndim == 4}
    assert len(convolutions) == 20
    assert set(loaded) == convolutions
    for key, value in model.state_dict().items():
        expected = published[key.removeprefix("backbone.")] if key in convolutions else start[key]
        assert torch.equal(value, expected), key


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_a_file_in_torchvisions_layout_gives_its_convolutions_and_nothing_else(
    tmp_path: Path, published: State, suffix: str
) -> None:
    path = tmp_path / f"resnet{suffix}"
    if suffix == ".safetensors":
        save_file(published, path)
    else:
        torch.save(published, path)
    check_taken_over(*load(path), published)


def test_a_state_dict_inside_a_checkpoint_is_found(tmp_path: Path, published: State) -> None:
    torch.save({"state_dict": published, "epoch": 3}, tmp_path / "checkpoint.pth")
    check_taken_over(*load(tmp_path / "checkpoint.pth"), published)


def test_our_own_network_loads_whole_norms_and_head_included(tmp_path: Path) -> None:
    source = build_model(ModelSettings(), rows(5), seed=3)
    save_file(source.state_dict(), tmp_path / "own.safetensors")
    model, loaded = load(tmp_path / "own.safetensors", "cnn-small")
    assert set(loaded) == set(source.state_dict())
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in model.state_dict().items())


def test_a_head_of_another_shape_that_names_no_class_is_left_at_random(tmp_path: Path) -> None:
    source = build_model(ModelSettings(), rows(11), seed=3)
    save_file(source.state_dict(), tmp_path / "eleven.safetensors")
    model, loaded = load(tmp_path / "eleven.safetensors", "cnn-small")
    assert "head.weight" not in loaded
    assert torch.equal(model.head.weight, fresh("cnn-small").head.weight)
    key = "backbone.0.convolution.weight"
    assert torch.equal(model.state_dict()[key], source.state_dict()[key])


def test_a_head_that_names_its_classes_gives_each_class_of_the_study_the_mean_of_its_rows(tmp_path: Path) -> None:
    source = build_model(ModelSettings(), rows(13), seed=3)
    weight = torch.arange(13.0)[:, None] + torch.zeros_like(source.head.weight)
    state = source.state_dict() | {"head.weight": weight, "head.bias": torch.arange(13.0)}
    save_file(state, tmp_path / "named.safetensors", metadata={"classes": ",".join(CLASSES_13)})
    model, loaded = load(tmp_path / "named.safetensors", "cnn-small")
    assert {"head.weight", "head.bias"} <= set(loaded)
    # neutrophil: band (7) and segmented (8); lymphocyte: typical (10) and atypical (11); monocyte, eosinophil, basophil
    assert model.head.bias.tolist() == [7.5, 10.5, 9.0, 1.0, 0.0]
    assert torch.equal(model.head.weight, model.head.bias[:, None].expand_as(model.head.weight))


def test_a_class_that_the_file_does_not_know_starts_at_random(tmp_path: Path) -> None:
    source = build_model(ModelSettings(), rows(5), seed=3)
    save_file(source.state_dict(), tmp_path / "five.safetensors", metadata={"classes": ",".join(CLASSES_5)})
    model = build_model(ModelSettings(), rows(11), seed=0)
    start = model.state_dict()["head.weight"].clone()
    load_initial_weights(model, ModelSettings(weights=str(tmp_path / "five.safetensors")), ImageSettings())
    found = model.state_dict()["head.weight"]
    eosinophil, blast = CLASSES_11.index("eosinophil"), CLASSES_11.index("myeloblast")
    assert torch.equal(found[eosinophil], source.head.weight[CLASSES_5.index("eosinophil")])
    assert torch.equal(found[blast], start[blast])


@pytest.mark.parametrize("damage", ["other rows", "no bias", "shorter bias"])
def test_a_head_that_does_not_fit_its_classes_is_left_out(tmp_path: Path, damage: str) -> None:
    state = build_model(ModelSettings(), rows(11 if damage == "other rows" else 13), seed=3).state_dict()
    if damage == "no bias":
        del state["head.bias"]
    if damage == "shorter bias":
        state["head.bias"] = state["head.bias"][:12].clone()
    save_file(state, tmp_path / "wrong.safetensors", metadata={"classes": ",".join(CLASSES_13)})
    _, loaded = load(tmp_path / "wrong.safetensors", "cnn-small")
    assert "head.weight" not in loaded


@pytest.mark.parametrize("weights", ["fc only", "other shapes", "empty"])
def test_weights_without_a_convolution_that_fits_are_refused(tmp_path: Path, published: State, weights: str) -> None:
    chosen: dict[str, State] = {
        "fc only": {key: value for key, value in published.items() if key.startswith("fc")},
        "other shapes": {key: value[:1].clone() for key, value in published.items() if value.ndim == 4},
        "empty": {},
    }
    save_file(chosen[weights], tmp_path / "w.safetensors")
    with pytest.raises(DataError, match="no convolution that fits backbone 'resnet18'"):
        load(tmp_path / "w.safetensors")


def test_weights_of_another_backbone_are_refused(tmp_path: Path, published: State) -> None:
    save_file(published, tmp_path / "w.safetensors")
    with pytest.raises(DataError, match="no convolution that fits backbone 'cnn-small'"):
        load(tmp_path / "w.safetensors", "cnn-small")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"half{suffix}"
    state = {"conv1.weight": torch.zeros(64, 3, 7, 7)}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=f"cannot read weights half{suffix}"):
        load(path)


@pytest.mark.parametrize(
    "content", [b"hello, this is text", b"<!DOCTYPE html><html>", b"\x80\x02.", b"version https://git-lfs"]
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_that_holds_something_else_is_refused_by_name(tmp_path: Path, suffix: str, content: bytes) -> None:
    (tmp_path / f"page{suffix}").write_bytes(content)
    with pytest.raises(DataError, match=f"weights page{suffix}"):
        load(tmp_path / f"page{suffix}")


class Touch:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_is_never_run(tmp_path: Path, how: str) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "ran"
    values = {"conv1.weight": Touch(trace)}
    torch.save(values, path) if how == "torch" else path.write_bytes(pickle.dumps(values))
    with pytest.raises(DataError, match=r"cannot read weights evil\.pth: UnpicklingError"):
        load(path)
    assert not trace.exists()


@pytest.mark.parametrize("values", [[torch.zeros(2)], {"a": 3}, {1: torch.zeros(2)}, torch.zeros(2), {"state_dict": 3}])
def test_a_pth_that_is_no_state_dict_is_refused(tmp_path: Path, values: object) -> None:
    torch.save(values, tmp_path / "odd.pth")
    with pytest.raises(DataError, match="something else than named tensors"):
        load(tmp_path / "odd.pth")


@pytest.mark.parametrize(("suffix", "step"), [(".safetensors", "wbc-simulate pretrain none.safe"), (".pth", "change")])
def test_a_missing_file_is_refused_by_name_with_the_way_to_make_it(tmp_path: Path, suffix: str, step: str) -> None:
    settings = ModelSettings(weights=str(tmp_path / f"none{suffix}"))
    for act in (lambda: load(settings.weights), lambda: check_weights(settings)):
        with pytest.raises(DataError, match=f"cannot read weights none{suffix}: no such file /") as refused:
            act()
        assert step in refused.value.remedy
        assert "state dict" not in refused.value.remedy


def test_a_file_is_looked_for_beside_the_study_and_then_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, work = tmp_path / "study", tmp_path / "work"
    for folder in (study, work):
        folder.mkdir()
    monkeypatch.chdir(work)
    settings = ModelSettings(weights="start.safetensors")
    with pytest.raises(DataError, match=r"no such file .*study/start\.safetensors nor .*work/start\.safetensors"):
        check_weights(find_weights(settings, study), study)
    (work / "start.safetensors").touch()
    assert find_weights(settings, study) == settings
    (study / "start.safetensors").touch()
    assert find_weights(settings, study).weights == str(study / "start.safetensors")
    assert find_weights(settings, work) == settings
    check_weights(find_weights(settings, study), study)


@pytest.mark.parametrize("weights", ["none", "phantom", NAME, "/elsewhere/start.safetensors"])
def test_weights_that_are_no_relative_path_stay_as_they_are(tmp_path: Path, weights: str) -> None:
    (tmp_path / weights.strip("/")).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / weights.strip("/")).touch()
    settings = ModelSettings(weights=weights)
    assert find_weights(settings, tmp_path) == settings


def test_a_file_in_torchvisions_convnext_layout_gives_all_but_its_classifier(tmp_path: Path) -> None:
    source = torchvision.models.convnext_tiny(num_classes=7).state_dict()
    save_file({key: value + 0.5 for key, value in source.items()}, tmp_path / "convnext.safetensors")
    model, loaded = load(tmp_path / "convnext.safetensors", "convnext-tiny")
    state = model.state_dict()
    assert set(loaded) == set(state) - {"head.weight", "head.bias"}
    assert all(torch.equal(state[key], source[key.removeprefix("backbone.")] + 0.5) for key in loaded)


@pytest.fixture
def torch_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's own cache folder in a place of the test's, and no way out."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_a_torchvision_name_loads_from_torchs_cache(torch_cache: Path, published: State) -> None:
    torch.save(published, torch_cache / FILE)
    check_taken_over(*load(NAME), published)


def test_a_torchvision_name_that_is_not_in_the_cache_says_so_without_a_network(torch_cache: Path) -> None:
    with pytest.raises(DataError, match="cannot be downloaded") as found:
        load(NAME)
    assert "give its path" in found.value.remedy
    assert list(torch_cache.iterdir()) == []


def test_a_damaged_file_or_a_pickle_in_torchs_cache_is_refused(torch_cache: Path, tmp_path: Path) -> None:
    (torch_cache / FILE).write_bytes(b"hello, this is text")
    with pytest.raises(DataError, match="damaged in torch's cache"):
        load(NAME)
    torch.save({"conv1.weight": Touch(tmp_path / "ran")}, torch_cache / FILE)
    with pytest.raises(DataError, match="damaged in torch's cache"):
        load(NAME)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["imagenet", "ResNet18_Weights.NOPE", "Nope_Weights.V1", "weights.bin", ""])
def test_a_name_that_nobody_knows_is_refused(name: str) -> None:
    with pytest.raises(SettingError, match=r"neither a file .* nor known to torchvision"):
        load(name)


def test_phantom_weights_that_are_not_shipped_are_a_setting_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wbc_common.weights_file.PHANTOM_FOLDER", tmp_path)
    settings = ModelSettings(backbone="resnet18", weights="phantom")
    for act in (lambda: load("phantom"), lambda: check_weights(settings)):
        with pytest.raises(SettingError, match="no phantom weights are shipped for backbone 'resnet18'"):
            act()


@pytest.mark.parametrize(
    ("images", "taken"),
    [
        *[
            ({"size_px": size_px}, str(taken))
            for size_px, taken in ((16, 64), (64, 64), (78, 64), (79, 96), (110, 96), (111, 128), (400, 128))
        ],
        ({"nuclear_stain": 0.75}, "96-even"),
        ({"nuclear_stain": 0.75, "size_px": 64}, "96-even"),
        ({"nuclear_stain": 0.3, "size_px": 64}, "64"),
    ],
)
def test_phantom_is_the_shipped_network_that_saw_images_most_like_these(images: dict[str, object], taken: str) -> None:
    model = fresh("cnn-small")
    loaded = load_initial_weights(model, ModelSettings(weights="phantom"), ImageSettings.model_validate(images))
    shipped = load_file(PHANTOM_FOLDER / f"cnn-small-{taken}.safetensors")
    assert set(loaded) == set(shipped)
    first = "backbone.0.convolution.weight"
    assert torch.equal(model.state_dict()[first], shipped[first].float())


def test_weights_none_leave_a_network_as_it_is() -> None:
    model, loaded = load("none")
    assert loaded == []
    assert all(torch.equal(value, fresh().state_dict()[key]) for key, value in model.state_dict().items())


def test_rows_of_a_class_take_a_coarser_files_row_with_their_share_of_its_probability(tmp_path: Path) -> None:
    source = build_model(ModelSettings(), rows(5), seed=3).eval()
    save_file(source.state_dict(), tmp_path / "five.safetensors", metadata={"classes": ",".join(CLASSES_5)})
    fine = REGISTRIES["wbc5"].head_rows(fine=True)
    model = build_model(ModelSettings(), fine, seed=0).eval()
    load_initial_weights(model, ModelSettings(weights=str(tmp_path / "five.safetensors")), ImageSettings())
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(images), source(images))


def test_a_model_of_fine_classes_starts_another_study_with_all_its_rows(tmp_path: Path) -> None:
    fine = REGISTRIES["wbc5"].head_rows(fine=True)
    source = build_model(ModelSettings(), fine, seed=3)
    told = {"classes": ",".join(CLASSES_5), "head-rows": ",".join(fine.names)}
    save_file(source.state_dict(), tmp_path / "fine.safetensors", metadata=told)
    model = build_model(ModelSettings(), fine, seed=0)
    load_initial_weights(model, ModelSettings(weights=str(tmp_path / "fine.safetensors")), ImageSettings())
    assert torch.equal(model.head.weight, source.head.weight)
    assert torch.equal(model.head.bias, source.head.bias)
