"""Label faults of a clinic: noise, and words coarser than the study's. They touch training cells alone.

Noise as in Patrini et al. 2017: a label turns wrong with a fixed rate, towards any other class alike (symmetric) or
towards a class that it is confused with. Here these are the neighbours on the granulocytes' maturation axis, myeloblast
to segmented neutrophil, where two readers disagree most.
"""

import numpy as np
from numpy.typing import NDArray

from wbc_common.cells import Registry

MATURATION_AXIS = (
    "myeloblast",
    "promyelocyte",
    "myelocyte",
    "metamyelocyte",
    "band_neutrophil",
    "segmented_neutrophil",
)

Neighbours = tuple[tuple[int, ...], ...]


def any_other_class(classes: Registry) -> Neighbours:
    """For each class all others."""
    every = range(len(classes))
    return tuple(tuple(other for other in every if other != own) for own in every)


def maturation_neighbours(classes: Registry) -> Neighbours:
    """For each class those directly before and after it on the maturation axis; none for a class that is not on it."""
    axis = [classes.index(name) for name in MATURATION_AXIS if name in classes.classes]
    beside = {
        own: tuple(axis[max(place - 1, 0) : place] + axis[place + 1 : place + 2]) for place, own in enumerate(axis)
    }
    return tuple(beside.get(own, ()) for own in range(len(classes)))


def noisy_labels(
    labels: NDArray[np.int64], rate: float, neighbours: Neighbours, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Labels int64 [N] of which each is replaced, with probability `rate`, by one of its class's neighbours.

    A label of −1 (coarse) and a class without neighbours stay as they are.
    """
    wrong = generator.random(len(labels)) < rate
    choice = generator.random(len(labels))
    noisy = labels.copy()
    for own, others in enumerate(neighbours):
        chosen = wrong & (labels == own)
        if others:
            noisy[chosen] = np.array(others)[(choice[chosen] * len(others)).astype(np.int64)]
    return noisy


def coarse_sets(classes: Registry, coarser: Registry) -> NDArray[np.bool_]:
    """What the label of each class allows when it is said in the words of a coarser registry, bool [C, C].

    A row is all False where the coarser registry has no word for the class.
    """
    allowed = np.zeros((len(classes), len(classes)), dtype=np.bool_)
    for own, name in enumerate(classes.classes):
        for word in coarser.resolve(name):
            allowed[own, list(classes.resolve(coarser.classes[word]))] = True
    return allowed
