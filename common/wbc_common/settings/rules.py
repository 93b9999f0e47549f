"""Settings that are fine alone and impossible together, each with the reason; checked once, when a plan is read."""

from typing import TYPE_CHECKING

from wbc_common.settings.loss import LEAST_IN_A_TOTAL
from wbc_common.settings.rehearsal import rehearsal_contradictions

if TYPE_CHECKING:
    from wbc_common.study import StudyConfig

_MAX_ADAM_STEP = 0.1
_SMALLEST_FOR_CONVNEXT = 32
_OTHERS_OF = {
    1: "and a sole training clinic has no others",
    2: "which of 2 training clinics is one clinic's own, never to be shared",
}


def contradictions(study: "StudyConfig") -> list[str]:
    """One sentence for each pair of settings that cannot be."""
    return [
        *_images(study),
        *_alignment(study),
        *_prediction(study),
        *_head_rounds(study),
        *_server(study),
        *_privacy(study),
        *_personal(study),
        *rehearsal_contradictions(study),
    ]


def _images(study: "StudyConfig") -> list[str]:
    backbone, size_px = study.model.backbone, study.images.size_px
    if backbone.startswith("convnext") and size_px < _SMALLEST_FOR_CONVNEXT:
        return [
            f"model.backbone = '{backbone}' shrinks images 32 times, and images.size_px is {size_px}: set it to "
            f"{_SMALLEST_FOR_CONVNEXT} or more"
        ]
    return []


def _alignment(study: "StudyConfig") -> list[str]:
    loss, clinics = study.loss, len(study.clinics.train)
    if loss.alignment_weight == 0:
        return []
    if loss.alignment == "leave-self-out" and clinics < LEAST_IN_A_TOTAL:
        return [
            f"loss.alignment_weight = {loss.alignment_weight} aligns each clinic to the total of the others' class "
            f"sums, {_OTHERS_OF[clinics]}: set it to 0, or name at least {LEAST_IN_A_TOTAL} training clinics"
        ]
    if loss.alignment == "boda-paper" and clinics > 1:
        return [
            "loss.alignment = 'boda-paper' needs every domain's prototypes in one place, and no clinic shares its own: "
            "use 'leave-self-out', or the centralised bound of wbc-simulate compare"
        ]
    return []


def _prediction(study: "StudyConfig") -> list[str]:
    prior, found = study.evaluation.prediction_prior, []
    if prior == "balanced":
        return []
    if study.loss.classification != "logit-adjusted" or study.loss.tau == 0:
        found.append(
            "evaluation.prediction_prior adds a prior to balanced logits, and only loss.classification = "
            "'logit-adjusted' with loss.tau above 0 trains such: other logits carry the training prior already"
        )
    if isinstance(prior, dict):
        strangers = sorted(set(prior) - set(study.classes.classes))
        if strangers:
            found.append(f"evaluation.prediction_prior names unknown classes: {', '.join(strangers)}")
        if min(prior.values(), default=0) < 0 or sum(prior.values()) <= 0:
            found.append("evaluation.prediction_prior needs shares from 0, at least one of them above 0")
    return found


def _head_rounds(study: "StudyConfig") -> list[str]:
    if study.training.head_only_rounds > study.rounds:
        return [
            f"training.head_only_rounds = {study.training.head_only_rounds} exceeds the {study.rounds} rounds of the "
            "study: the balanced head-only rounds are its last ones"
        ]
    return []


def _server(study: "StudyConfig") -> list[str]:
    settings, clinics = study.aggregation, len(study.clinics.train)
    if settings.optimizer == "fedadam" and settings.step_size > _MAX_ADAM_STEP:
        return [
            f"aggregation.step_size = {settings.step_size} with 'fedadam' moves every weight by about that much a "
            f"round: set it to {_MAX_ADAM_STEP} or less, e.g. 0.01"
        ]
    if settings.robust == "trimmed-mean" and int(settings.trim_fraction * clinics) == 0:
        return [
            f"aggregation.trim_fraction = {settings.trim_fraction} of {clinics} training clinics cuts off none: raise "
            f"it to at least {1 / clinics:.2f}, or set aggregation.robust = 'none'"
        ]
    needed = 2 * settings.krum_malicious + 3
    if settings.robust == "krum" and clinics < needed:
        return [
            f"aggregation.robust = 'krum' against {settings.krum_malicious} malicious clinics needs {needed} training "
            f"clinics (2f + 3), and the study names {clinics}"
        ]
    return []


def _privacy(study: "StudyConfig") -> list[str]:
    """DP-SGD covers the update alone: whatever else would be made from training cells must be off."""
    settings, found = study.privacy, []
    if settings.mode == "none":
        return []
    if study.loss.alignment_weight > 0:
        found.append(
            "privacy.mode = 'dp-sgd' does not cover the class sums that loss.alignment_weight > 0 sends without noise, "
            "nor gradients against them: set loss.alignment_weight = 0"
        )
    if study.pools_stain:
        found.append(
            "privacy.mode = 'dp-sgd' does not cover the stain sums that training.augmentation = 'federated-stain' "
            "sends without noise: use 'stain'"
        )
    if settings.noise_multiplier != "auto" and settings.noise_multiplier <= 0:
        found.append("privacy.noise_multiplier must be above 0, or 'auto': without noise there is no privacy")
    return found


def _personal(study: "StudyConfig") -> list[str]:
    strangers = sorted(set(study.personal.clinics) - set(study.clinics.train))
    found = []
    if strangers:
        found.append(f"personal.clinics names clinics that do not train: {', '.join(strangers)}")
    if study.personal.clinics and study.privacy.mode != "none":
        found.append(
            "privacy.mode = 'dp-sgd' does not cover a personal head, which is trained without noise and whose counts "
            "leave: set personal.clinics = []"
        )
    return found
