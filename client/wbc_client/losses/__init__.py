"""The domain-aware loss of docs/method.md §1: L_k = L1 + w2(t)·L2 + w3·L3 [+ (μ/2)·‖θ − θ_t‖²].

Pure functions of tensors, on the device and in the precision of the features. Everything that a term needs of the other
clinics arrives as sums (`AlignmentAnchors`), so nothing here knows another clinic's cell.
"""

from wbc_client.losses.alignment import (
    AlignmentAnchors,
    alignment_loss,
    anchors_from_sums,
    class_sums,
)
from wbc_client.losses.boda import boda_paper_loss
from wbc_client.losses.classification import exact_labels, log_prior, prior_offset
from wbc_client.losses.imbalance import Imbalance, imbalance_of
from wbc_client.losses.total import DomainAwareLoss, LossTerms, proximal_term

__all__ = [
    "AlignmentAnchors",
    "DomainAwareLoss",
    "Imbalance",
    "LossTerms",
    "alignment_loss",
    "anchors_from_sums",
    "boda_paper_loss",
    "class_sums",
    "exact_labels",
    "imbalance_of",
    "log_prior",
    "prior_offset",
    "proximal_term",
]
