"""The gate: no clinic's reply counts before it was checked here.

One NaN, one shape that broadcasts or one invented count of 10¹² cells would otherwise spoil the global model for
every clinic. Each check raises `UpdateRefused`; the round goes on without that reply. Texts name arrays, shapes and the
clinic's own counts, never a value of the data; names that a clinic chose are quoted and cut.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from wbc_common.confusion import support
from wbc_common.errors import UpdateRefused
from wbc_common.stain_sums import StainSums
from wbc_common.study import AggregationSettings, TransportSettings, UpdatePrecision
from wbc_common.wire.messages import Evaluation
from wbc_server.aggregation.pieces import Piece, sweep

_COUNT_TOLERANCE = 1e-6  # relative; fractional counts may be summed in another order
_NORM_TOLERANCE = 1e-3  # relative; float32 rounding of unit vectors and of their sum
_NORM_FLOOR = 1e-6  # absolute, for classes without cells
_DENSEST = 5.6  # optical density of a black pixel, −log(1/255), and a little
_HALF_A_CELL = 0.5  # a declared total is a sum of fractions, off by rounding
# A float32 sum of n squares, added in any order, is off by at most n·2⁻²⁴ of itself (Higham 2002, §3.1): 1.6 % for a
# piece. Squares that underflow are lost altogether: less than 1.2e-38 each.
_CLEARLY_WITHIN = 0.98
_UNDERFLOW = 1e-28
_LARGEST_DRAW = 2**31 - 1  # clinics send draws as int32
_NAMES_SHOWN = 3
_NAME_LENGTH = 80

_SAME_STUDY = "check that the clinic runs the approved plan and the same wbc-fl version as the coordinator"
_SAME_CELLS = (
    "let the clinic join again if its cells changed since it joined; otherwise inspect it before the next round"
)
_INSPECT_TRAINING = "look at that clinic's loss and learning rate; it may train again from the next global model"


def check_update(
    delta: Mapping[str, np.ndarray],
    class_counts: np.ndarray,
    template: Mapping[str, np.ndarray],
    expected_counts: NDArray[np.float64],
    settings: AggregationSettings,
) -> None:
    """Refuse an update that is not a bounded, finite change of the model, or whose counts are not the declared ones.

    Args:
        delta: change of each array by its name.
        class_counts: cells per class as the update says, [C].
        template: the global model; the update must have its names and shapes, float arrays as float32.
        expected_counts: cells per class as the clinic declared when it joined, float64 [C].
        settings: the study's `[aggregation]`.

    Raises:
        UpdateRefused: naming what was got and what was expected.
    """
    _check_names(delta, template)
    for key, expected in template.items():
        _check_array(key, delta[key], expected)
    _check_values(delta, settings.max_update_norm)
    _check_counts(class_counts, expected_counts)


def check_precision(sent_as: UpdatePrecision, settings: TransportSettings) -> None:
    """Refuse an update in another precision than the plan's; UpdateRefused names both."""
    if sent_as != settings.update_precision:
        _refuse(f"update came as {sent_as}, expected {settings.update_precision}", _SAME_STUDY)


def check_confusion(confusion: np.ndarray, num_expected_cells: float, *, num_classes: int) -> None:
    """Refuse a confusion matrix, int64 [C, C], that is negative or holds more cells than the clinic declared.

    Args:
        confusion: cells, rows true, columns predicted. Cells with a coarse label are not in it.
        num_expected_cells: cells of that split as declared; a sum of fractional counts.
        num_classes: C; a matrix of another size could broadcast where matrices are added.

    Raises:
        UpdateRefused: naming what was got and what was expected.
    """
    shape = (num_classes, num_classes)
    if confusion.shape != shape or confusion.dtype != np.int64:
        _refuse(f"confusion matrix is {confusion.dtype} {confusion.shape}, expected int64 {shape}", _SAME_STUDY)
    cells = confusion.ravel().tolist()  # Python integers: a sum of int64 may wrap around
    if min(cells) < 0:
        _refuse("confusion matrix has negative counts, expected 0 or more", _SAME_STUDY)
    if sum(cells) > num_expected_cells + _HALF_A_CELL:
        _refuse(f"confusion matrix holds {sum(cells)} cells, expected at most {num_expected_cells:g}", _SAME_CELLS)


def check_evaluation(evaluation: Evaluation, num_expected_cells: float, *, num_classes: int) -> None:
    """Refuse an evaluation whose counts cannot be: its matrix, its bootstrap draws or its coarse cells.

    Raises:
        UpdateRefused: naming what was got and what was expected.
    """
    check_confusion(evaluation.confusion, num_expected_cells, num_classes=num_classes)
    draws, coarse = evaluation.replicates, evaluation.coarse
    if draws.shape[1:] != (num_classes, num_classes) or (draws < 0).any() or (draws > _LARGEST_DRAW).any():
        _refuse(f"bootstrap draws {draws.shape} are no counts [R, {num_classes}, {num_classes}]", _SAME_STUDY)
    if coarse.shape != (2,) or not 0 <= coarse[1] <= coarse[0] <= num_expected_cells + _HALF_A_CELL:
        _refuse(f"coarse cells {coarse.tolist()} are not [cells, right among them]", _SAME_STUDY)


def check_personal(evaluation: Evaluation) -> None:
    """Refuse a personal head's confusion matrix that is not of the cells that the global model was measured on.

    Raises:
        UpdateRefused: it is negative, or its rows hold other cells.
    """
    personal, confusion = evaluation.personal, evaluation.confusion
    if personal is None:
        return
    possible = personal.shape == confusion.shape and personal.min() >= 0 and personal.max() <= confusion.sum()
    if not possible or (support(personal) != support(confusion)).any():  # a sum of int64 may wrap around
        _refuse("the personal head's confusion matrix is of other cells than the model's", _SAME_STUDY)


def check_class_sums(
    sums: np.ndarray,
    counts: np.ndarray,
    expected_counts: NDArray[np.float64],
    *,
    num_features: int,
) -> None:
    """Refuse class sums S_c of unit feature vectors that no n_c cells can give: ‖S_c‖ ≤ n_c (docs/method.md §1, L2).

    Args:
        sums: S_c, floating, [C, D].
        counts: cells per class behind the sums, [C]; at most the declared ones, which include shares of coarse labels.
        expected_counts: cells per class as the clinic declared when it joined, float64 [C].
        num_features: D; [C, 1] would broadcast where sums are added.

    Raises:
        UpdateRefused: naming what was got and what was expected.
    """
    _check_count_array(counts, expected_counts)
    if (counts > expected_counts * (1 + _COUNT_TOLERANCE)).any():
        _refuse(f"class counts are {counts.tolist()}, expected at most {expected_counts.tolist()}", _SAME_CELLS)
    shape = (len(expected_counts), num_features)
    if sums.shape != shape or not np.issubdtype(sums.dtype, np.floating):
        _refuse(f"class sums are {sums.dtype} {sums.shape}, expected floating {shape}", _SAME_STUDY)
    if not np.isfinite(sums).all():
        _refuse("class sums hold values that are not finite, expected finite ones", _INSPECT_TRAINING)
    with np.errstate(over="ignore"):  # the square of a hostile float64: infinite, so too long
        norms = np.linalg.norm(sums.astype(np.float64), axis=1)  # [C]
    too_long = np.flatnonzero(norms > counts * (1 + _NORM_TOLERANCE) + _NORM_FLOOR)
    if len(too_long):
        _refuse(
            f"class sums number {too_long.tolist()} are longer than their counts {counts[too_long].tolist()}; "
            "expected at most n for n unit vectors",
            _SAME_STUDY,
        )


def check_stain_sums(sums: StainSums, num_expected_cells: int) -> None:
    """Refuse stain sums that no images of so many cells can give: OD is in 0 … −log ε, and Σx² ≥ (Σx)²/n.

    Raises:
        UpdateRefused: naming what was got and what was expected.
    """
    if sums.images != num_expected_cells or sums.images == 0:
        _refuse(f"stain sums are of {sums.images} images, expected {num_expected_cells}", _SAME_CELLS)
    if not np.isfinite([sums.first, sums.second]).all():
        _refuse("stain sums hold values that are not finite, expected finite ones", _SAME_STUDY)
    mean, square = sums.first / sums.images, sums.second / sums.images
    if (mean < -_DENSEST).any() or (mean > _DENSEST).any() or (square > _DENSEST**2).any():
        _refuse(f"stain sums have means {mean.tolist()}, expected optical densities up to {_DENSEST}", _SAME_STUDY)
    if (square < mean**2 * (1 - _NORM_TOLERANCE) - _NORM_FLOOR).any():
        _refuse("sums of squares of stain are smaller than their sums allow", _SAME_STUDY)


def _check_names(delta: Mapping[str, np.ndarray], template: Mapping[str, np.ndarray]) -> None:
    missing, extra = set(template) - set(delta), set(delta) - set(template)
    if missing:
        _refuse(f"update has {len(delta)} of {len(template)} arrays; missing: {_names(missing)}", _SAME_STUDY)
    if extra:
        _refuse(f"update has arrays that the model has not, expected none: {_names(extra)}", _SAME_STUDY)


def _check_array(key: str, value: np.ndarray, expected: np.ndarray) -> None:
    dtype = np.dtype(np.float32) if np.issubdtype(expected.dtype, np.floating) else expected.dtype
    if value.shape != expected.shape:
        _refuse(f"array '{key}' has shape {value.shape}, expected {expected.shape}", _SAME_STUDY)
    if value.dtype != dtype:
        _refuse(f"array '{key}' is {value.dtype}, expected {dtype}", _SAME_STUDY)


def _check_values(delta: Mapping[str, np.ndarray], max_norm: float) -> None:
    """Refuse values that are not finite and a norm over the bound; one quick pass clears all other updates."""
    floats = {key: value.reshape(-1) for key, value in delta.items() if value.dtype.kind == "f"}
    if _roughly_squared(floats) + _UNDERFLOW < _CLEARLY_WITHIN * max_norm * max_norm:  # never for NaN or infinity
        return
    for key, value in floats.items():
        if not np.isfinite(value).all():
            _refuse(f"array '{key}' holds values that are not finite, expected finite ones", _INSPECT_TRAINING)
    norm = float(np.sqrt(sum(np.einsum("i,i->", value, value, dtype=np.float64) for value in floats.values())))
    if norm > max_norm:
        _refuse(f"update has L2 norm {norm:.3g}, expected at most {max_norm:.3g}", _INSPECT_TRAINING)


def _roughly_squared(floats: Mapping[str, np.ndarray]) -> float:
    """The squared norm with each piece's sum in float32: infinite or NaN if a value is, or if a square overflows."""

    def squared(_: int, pieces: Sequence[Piece]) -> float:
        values = (floats[piece.key][piece.part] for piece in pieces)
        with np.errstate(over="ignore"):
            return sum(float(np.dot(value, value)) for value in values)

    return sum(sweep(floats, squared))


def _check_counts(counts: np.ndarray, expected: NDArray[np.float64]) -> None:
    _check_count_array(counts, expected)
    if not counts.any():
        _refuse("class counts are all 0, expected at least one cell", _SAME_CELLS)
    if not np.allclose(counts, expected, rtol=_COUNT_TOLERANCE, atol=0):
        _refuse(f"class counts are {counts.tolist()}, expected {expected.tolist()} as declared", _SAME_CELLS)


def _check_count_array(counts: np.ndarray, expected: NDArray[np.float64]) -> None:
    if counts.shape != expected.shape or counts.dtype.kind not in "iuf":
        _refuse(
            f"class counts are {counts.dtype} {counts.shape}, expected numbers of shape {expected.shape}", _SAME_STUDY
        )
    if not np.isfinite(counts).all():
        _refuse(f"class counts {counts.tolist()} are not all finite, expected finite ones", _SAME_STUDY)
    if (counts < 0).any():
        _refuse(f"class counts {counts.tolist()} hold a negative one, expected 0 or more", _SAME_STUDY)


def _names(keys: Iterable[object]) -> str:
    shown = sorted(repr(key)[:_NAME_LENGTH] for key in keys)
    more = f" and {len(shown) - _NAMES_SHOWN} more" if len(shown) > _NAMES_SHOWN else ""
    return ", ".join(shown[:_NAMES_SHOWN]) + more


def _refuse(problem: str, remedy: str) -> NoReturn:
    raise UpdateRefused(problem, remedy=remedy)
