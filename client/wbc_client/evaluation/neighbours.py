"""A clinic's cells predicted together: what the network sees alike is drawn to one class, without a label or a step.

LAME (Boudiaf et al., CVPR 2022; docs/method.md §5.7): each cell's class probabilities z_i start from the network's q_i
and are iterated as z_i ∝ q_i·exp(Σ_j w_ij·z_j), where w joins cells of like features. The network stays as it is. LAME
assumes no class mix, and what is added below leans but a little to even ones: a clinic of lymphocytes alone is not
pulled apart, though it loses some 2 points of accuracy (docs/results.md). (Prototypes of the clinic's own cells, as in
SHOT, did more on clinics of mixed cells and spoilt those where one class dominates, as in leukaemia: docs/results.md.)

Deviations: w_ij = 1 for *mutual* neighbours only, where the paper takes the neighbours of either, so that a cell that
is the only one of its class, and no cell's neighbour, keeps the network's word. And a class counts n_c^(−γ), the more
common the less: in the network's word by n_c = max(1, Σ_j q_jc), in votes by n_c = max(1, Σ_j z_jc).
"""

import torch
from torch import Tensor

LEAST_CELLS = 50  # with fewer, the nearest cells are not near
NEIGHBOURS = 7  # k; more outvote classes of few cells (docs/results.md)
RARER_COUNT_MORE = 0.1  # γ
_STEPS = 200
_TOLERANCE = 1e-6


def predicted_classes(logits: Tensor, features: Tensor, *, together: bool) -> Tensor:
    """Classes int64 [N] of a clinic's cells by logits [N, C], with a say of those whose features [N, D] are near.

    Each cell is by itself where they are not predicted `together`, or are fewer than `LEAST_CELLS`.
    """
    if not together or len(logits) < LEAST_CELLS:
        return logits.argmax(dim=1)
    from sklearn.neighbors import kneighbors_graph

    # A feature beyond float's range, of an image like no other, joins nothing; it must not end the measurement.
    graph = kneighbors_graph(torch.nan_to_num(features).numpy(), NEIGHBOURS, metric="cosine", include_self=False)
    mutual = graph.minimum(graph.T)
    own = torch.nan_to_num(logits.double()).log_softmax(dim=1)
    own = own + _weights(own.exp()).log()
    shares = own.softmax(dim=1)
    for _ in range(_STEPS):
        votes = torch.from_numpy(mutual @ shares.numpy()) * _weights(shares)
        before, shares = shares, (own + votes).softmax(dim=1)
        if (shares - before).abs().max() < _TOLERANCE:
            break
    return shares.argmax(dim=1)


def _weights(shares: Tensor) -> Tensor:
    """What a class counts [C], by the class probabilities [N, C] of all cells: less, the more cells it has."""
    return shares.sum(dim=0).clamp_min(1).pow(-RARER_COUNT_MORE)
