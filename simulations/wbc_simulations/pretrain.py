"""A backbone trained on in-silico cells alone, for clinics that can download nothing.

Cells come from blends of the shipped domains (`phantom.blending`), all classes of the registry in equal shares, with
heavy augmentation and plain cross-entropy; no real image has a part in it. Blends were chosen over the shipped domains
themselves on phantoms: trained without two of the nine, they did better on those two. The network is trained on the 13
classes; a study starts from its head too, mapped to the study's classes (`wbc_common.weights`). Kept in half precision
(0.65 MB). README.md says which are shipped.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wbc_client.dataset.cell_set import CellSet, joined
from wbc_client.dataset.compact import write_compact
from wbc_client.device import choose_device
from wbc_client.evaluation.counting import evaluate
from wbc_client.training.local import train_locally
from wbc_common.appearance import prepare
from wbc_common.arrays_file import arrays_as_file
from wbc_common.cells import CLASSES_13, Registry
from wbc_common.confusion import balanced_accuracy
from wbc_common.errors import SettingError
from wbc_common.files import write_atomically
from wbc_common.memory import hand_back_now
from wbc_common.models import Network, build_model
from wbc_common.seeds import derive_seed, numpy_generator
from wbc_common.study import ImageSettings, StudyConfig, parse_study
from wbc_common.weights_file import CLASSES_KEY, IMAGES_KEY
from wbc_simulations.phantom import Domain, blended_domain, case_mix, domain_names, load_domain, render

_CELLS_PER_PATIENT = 4
_TEST_SHARE = 0.1
_SMALLEST_SHARE = 0.1
_TESTED_PER_CLASS = 40


@dataclass(frozen=True)
class Recipe:
    """What a network is trained on in silico.

    Attributes:
        registry: whose classes are learnt, in equal shares.
        domains: the shipped domains to blend, all if empty.
        blends: how many blended domains; 0 takes the shipped ones as they are.
        cells: in all, in equal shares of the domains.
        epochs, seed, backbone, batch_size: of the training.
        images: how cells are prepared, for this network and the studies that start from it.
        wide: blends of a wider range (`phantom.blending`).
    """

    registry: str = "wbc13"
    domains: tuple[str, ...] = ()
    blends: int = 100
    cells: int = 60_000
    epochs: int = 20
    seed: int = 0
    backbone: str = "cnn-small"
    batch_size: int = 64
    images: ImageSettings = field(default_factory=ImageSettings)
    wide: bool = False

    def study(self) -> StudyConfig:
        """The training as a plan of one clinic."""
        values = {
            "name": "phantom pretraining",
            "registry": self.registry,
            "seed": self.seed,
            "rounds": self.epochs,
            "clinics": {"train": ["phantom"]},
            "images": self.images.model_dump(),
            "model": {"backbone": self.backbone, "weights": "none"},
            "training": {"local_epochs": 1, "batch_size": self.batch_size, "learning_rate": 2e-3},
            "loss": {"classification": "cross-entropy", "alignment_weight": 0.0, "guide_weight": 0.0},
        }
        return parse_study(values, "pretrain")

    def sources(self) -> list[Domain]:
        """The domains that cells come from."""
        names = self.domains or domain_names()
        if not self.blends:
            return [load_domain(name) for name in names]
        return [blended_domain(number, seed=self.seed, names=names, wide=self.wide) for number in range(self.blends)]

    def left_out(self) -> list[str]:
        """The shipped domains that no cell comes from."""
        return [name for name in domain_names() if self.domains and name not in self.domains]

    def phantoms(self, seed: int, cells: int, on_rendered: Callable[[int], None] = lambda rendered: None) -> CellSet:
        """So many cells, spread over the domains, drawn by a seed. `on_rendered` gets how many there are by then."""
        study, sources = self.study(), self.sources()
        parts: list[CellSet] = []
        for domain, number in zip(sources, _shares(cells, len(sources)), strict=True):
            if number:
                parts.append(phantom_cells(domain, study.classes, number, seed=seed, settings=study.images))
                hand_back_now()  # what rendering leaves in the heap would else come to twenty times the cells
                on_rendered(sum(map(len, parts)))
        return joined(parts)


@dataclass(frozen=True)
class Pretrained:
    """The trained network, and its balanced accuracy on phantom cells of patients it never saw."""

    model: Network
    balanced_accuracy: float


def pretrain(
    recipe: Recipe, on_epoch: Callable[[int, float], None], on_rendered: Callable[[int], None] = lambda rendered: None
) -> Pretrained:
    """Train a network on phantoms, on a GPU where there is one.

    Args:
        recipe: of cells and training.
        on_epoch: gets epoch and loss.
        on_rendered: gets how many cells are rendered, look by look.
    """
    study, device = recipe.study(), choose_device("auto")
    cells = recipe.phantoms(recipe.seed, recipe.cells, on_rendered)
    training_cells = cells.part("train")
    model = build_model(study.model, study.head_rows, derive_seed(recipe.seed, "pretrain")).to(device)
    for epoch in range(1, recipe.epochs + 1):
        losses = train_locally(model, training_cells, study, clinic="phantom", round_number=epoch, sums=None)
        on_epoch(epoch, losses["loss"])
    worth = _balanced_accuracy(model, cells.part("test"))
    return Pretrained(model.cpu(), worth)


def other_looks(model: Network, recipe: Recipe) -> dict[str, float]:
    """Balanced accuracy on each shipped domain that the recipe left out, 40 cells a class."""
    study, seed = recipe.study(), derive_seed(recipe.seed, "other looks")
    number = _TESTED_PER_CLASS * len(study.classes)
    return {
        name: _balanced_accuracy(
            model, phantom_cells(load_domain(name), study.classes, number, seed=seed, settings=study.images)
        )
        for name in recipe.left_out()
    }


def _balanced_accuracy(model: Network, cells: CellSet) -> float:
    found = evaluate(model, cells, model.head.weight.device, replicates=0, draw_seed=0)
    return float(balanced_accuracy(found.confusion))


def check_place(path: Path) -> None:
    """Find out before a training of hours whether its weights can be written, and read again.

    Raises:
        SettingError: the name does not end in .safetensors.
        OSError: the file cannot be made there.
    """
    if path.suffix != ".safetensors":
        raise SettingError(
            f"weights are written as .safetensors, not as '{path.name}'",
            remedy=f"name the file {path.with_suffix('.safetensors').name}",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def write_rehearsal_cells(path: Path, blends: int, seed: int) -> int:
    """Write in-silico cells for clinics to rehearse, one of each of the 13 classes from so many wide blends.

    Images are prepared as a study's are by default. Returns how many cells there are.
    """
    recipe = Recipe(blends=blends, cells=blends * len(CLASSES_13), seed=seed, wide=True)
    cells = recipe.phantoms(seed, recipe.cells)
    write_compact(cells.images, cells.labels, path)
    return len(cells)


def save_weights(model: Network, study: StudyConfig, path: Path) -> None:
    """Write a network's arrays as float16 safetensors, with the classes of its head rows and what its images were."""
    arrays = {key: value.half().cpu().numpy() for key, value in model.state_dict().items()}
    told = {CLASSES_KEY: ",".join(study.classes.classes), IMAGES_KEY: study.images.model_dump_json()}
    write_atomically(path, *arrays_as_file(arrays, told))


def phantom_cells(domain: Domain, registry: Registry, num_cells: int, *, seed: int, settings: ImageSettings) -> CellSet:
    """Cells of one domain in equal shares of the registry's classes; a tenth of the patients is kept for testing.

    Rendered on a GPU where there is one, which makes the same cells up to rounding.
    """
    generator = numpy_generator(seed, "pretrain", domain.name)
    labels = generator.permutation(np.arange(num_cells) % len(registry)).astype(np.int64)
    patients = np.arange(num_cells, dtype=np.int64) // _CELLS_PER_PATIENT
    images = render(
        torch.from_numpy(_finest(labels, registry, generator)),
        torch.from_numpy(patients),
        domain,
        size_px=settings.source_px,
        seed=derive_seed(seed, "pretrain", domain.name),
        device=str(choose_device("auto")),
    ).cpu()
    is_test = generator.random(num_cells // _CELLS_PER_PATIENT + 1) < _TEST_SHARE
    split = np.where(is_test[patients], 2, 0).astype(np.int64)
    allowed = torch.nn.functional.one_hot(torch.from_numpy(labels), len(registry)).bool()
    return CellSet(prepare(images, settings), allowed, torch.from_numpy(patients), torch.from_numpy(split))


def _shares(total: int, parts: int) -> list[int]:
    """`total` in whole shares that differ by one at most."""
    return [total // parts + (place < total % parts) for place in range(parts)]


def _finest(labels: NDArray[np.int64], registry: Registry, generator: np.random.Generator) -> NDArray[np.int64]:
    """For classes of a registry [N], a class among the 13 that each stands for [N].

    In the shares of the normal count, though none below a tenth: a lymphocyte is mostly a typical one.
    """
    normal = case_mix("normal")
    places, shares = [], []
    for own in range(len(registry)):
        finest = [place for place, name in enumerate(CLASSES_13) if registry.resolve(name) == (own,)]
        share = np.array([normal[CLASSES_13[place]] for place in finest]) + 1e-9
        share = np.maximum(share / share.sum(), _SMALLEST_SHARE)
        places.append(finest)
        shares.append(share / share.sum())
    return np.array([generator.choice(places[label], p=shares[label]) for label in labels], dtype=np.int64)
