"""What each row of a network's head names: one of the 13 fine classes, or a class of the study's registry.

A class of a coarse registry stands for several of the 13: a neutrophil is a band or a segmented one. A head that keeps
these apart (`model.fine_classes`) gives a class the summed probability of its rows, so that one class may look in
several ways, and an in-silico start or rehearsed cells teach it by their fine labels. Rows of fine classes that the
registry has not (a myelocyte among five classes) stay as alternatives in training, and never are a prediction.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

NO_CLASS = -1


@dataclass(frozen=True)
class HeadRows:
    """The R rows of a head, and which of C classes each belongs to.

    Attributes:
        names: of the rows.
        class_of: class index of each row; NO_CLASS where it belongs to none.
        num_classes: C; each has one row at least.
    """

    names: tuple[str, ...]
    class_of: tuple[int, ...]
    num_classes: int

    def __len__(self) -> int:
        return len(self.class_of)

    @cached_property
    def per_class(self) -> NDArray[np.int64]:
        """How many rows each class has, int64 [C]."""
        return np.bincount([own for own in self.class_of if own != NO_CLASS], minlength=self.num_classes)

    @cached_property
    def are_classes(self) -> bool:
        """Row c is class c, for all of them."""
        return self.class_of == tuple(range(self.num_classes))

    def repeated(self, classes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Each row has what its class has: [..., R] of [..., C]; 0 for rows of no class."""
        own = np.array(self.class_of)
        return np.where(own == NO_CLASS, 0.0, classes[..., own])

    def shared(self, classes: NDArray[np.float64]) -> NDArray[np.float64]:
        """A class's rows have equal shares of what it has: [..., R] of [..., C]; 0 for rows of no class."""
        return self.repeated(classes / self.per_class)


def one_row_a_class(names: tuple[str, ...]) -> HeadRows:
    """A row for each of the classes of these names."""
    return HeadRows(names, tuple(range(len(names))), len(names))
