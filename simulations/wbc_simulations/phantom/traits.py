"""Drawing one cell's numbers from its class, its patient and its clinic.

`Traits` joins the three levels: the textbook's spread of the class, the domain's spread between patients, and
between cells. Results are float32 [B, 1, 1], ready to meet pixel maps [B, H, W].
"""

from dataclasses import dataclass

import torch

from wbc_common.seeds import derive_seed
from wbc_simulations.phantom.draws import Draws, mix
from wbc_simulations.phantom.morphology import trait_table
from wbc_simulations.phantom.settings import Domain, Spread


@dataclass(frozen=True)
class Traits:
    """Draws for the cells of one chunk.

    Attributes:
        classes: int64 [B], indices into CLASSES_13.
        cell, patient: draws of the cell itself, and those it shares with its patient's other cells.
    """

    classes: torch.Tensor
    cell: Draws
    patient: Draws

    def textbook(self, name: str) -> torch.Tensor:
        """A trait's numbers for each cell's class, float32 [B, n]."""
        return trait_table(str(self.classes.device))[name][self.classes]

    def of_class(self, name: str, low: float = 0.0, high: float = 1e9) -> torch.Tensor:
        """A (mean, sd) trait drawn for each cell and kept in [low, high], float32 [B, 1, 1]."""
        mean_sd = self.textbook(name)
        drawn = mean_sd[:, :1] + mean_sd[:, 1:] * self.cell.normal(name)
        return drawn.clamp(low, high)[:, :, None]

    def of_domain(self, name: str, spread: Spread, low: float = 0.0) -> torch.Tensor:
        """A domain's quantity drawn for each cell, at least `low`, float32 [B, 1, 1]."""
        drawn = torch.full((len(self.classes), 1), spread.mean, device=self.classes.device)
        if spread.patient:
            drawn = drawn + spread.patient * self.patient.normal(name)
        if spread.cell:
            drawn = drawn + spread.cell * self.cell.normal(name)
        return drawn.clamp_min(low)[:, :, None]

    def chance(self, name: str) -> torch.Tensor:
        """1.0 with the class's probability of that name, else 0.0, float32 [B, 1, 1]."""
        return self.cell.chance(name, self.textbook(name))[:, :, None]

    def between(self, name: str, low: float, high: float) -> torch.Tensor:
        """Uniform on [low, high), float32 [B, 1, 1]."""
        return self.cell.between(name, low, high)[:, :, None]


def traits_for(cell_classes: torch.Tensor, patients: torch.Tensor, domain: Domain, *, seed: int, first: int) -> Traits:
    """The draws of cells `first`, `first` + 1, …: int64 [B] classes and patient numbers."""
    number = torch.arange(first, first + len(cell_classes), device=cell_classes.device)
    # Two calls for two patients or two classes must not show the same cell twice, so both are part of who the cell
    # is.
    identity = mix(mix(mix(number) ^ patients) ^ cell_classes)
    return Traits(
        classes=cell_classes,
        cell=Draws(derive_seed(seed, domain.name, "cell"), identity),
        patient=Draws(derive_seed(seed, domain.name, "patient"), mix(patients)),
    )
