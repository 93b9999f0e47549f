"""Initial weights for a backbone: the phantom backbone we ship, a local .safetensors or .pth file, or torchvision's.

What is loaded is stated, never implied. torchvision's ResNet-18 was trained with BatchNorm; our backbone has
GroupNorm. Its convolutions are taken over as they are; its running means and variances have no counterpart and are
dropped; its norm scales and shifts belong to BatchNorm's statistics and are left at GroupNorm's own start (1 and 0).
Such a network is a warm start to be trained further: it does not have the accuracy printed for the published one.

A safetensors file that names its head's rows in its metadata (ours do) gives its head too: a row of the study's head
(`wbc_common.head_rows`) starts from the file's row of that name, or the mean of those that it stands for. Fine-tuning
from a new head distorts what the backbone knew, and so does worse on other domains (Kumar et al., ICLR 2022). Where the
file says how its images were prepared, and the study prepares its own otherwise, a warning says so.
"""

import json
import logging
import math
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from wbc_common.cells import registry_of
from wbc_common.errors import DataError, SettingError
from wbc_common.models import BIAS_KEY, HEAD_KEYS, WEIGHT_KEY, Network
from wbc_common.study import ImageSettings, ModelSettings
from wbc_common.weights_file import (
    CLASSES_KEY,
    IMAGES_KEY,
    ROWS_KEY,
    SAFETENSORS,
    SUFFIXES,
    metadata_of,
    no_such_file,
    weights_file,
    with_shipped_file,
)

log = logging.getLogger(__name__)
# torch's unpickler also lets IndexError, KeyError and struct.error out where a file holds no pickle.
_UNREADABLE = (
    OSError,
    RuntimeError,
    SafetensorError,
    pickle.UnpicklingError,
    EOFError,
    LookupError,
    struct.error,
    ValueError,
)
_PREPARATION = ("white_balance", "framing", "nuclear_stain")


def load_initial_weights(model: Network, settings: ModelSettings, images: ImageSettings) -> list[str]:
    """Load `settings.weights` into the backbone, and into the head where its classes are known or its shape fits.

    Args:
        images: what the study's networks see; of the shipped ones, that is taken which saw images most like these.

    Returns:
        The names of the arrays that were loaded; none for weights "none".

    Raises:
        SettingError, DataError: the named weights do not exist, cannot be read or do not fit.
    """
    if settings.weights == "none":
        return []
    settings = with_shipped_file(settings, images)
    source = _read(settings)
    told = metadata_of(weights_file(settings))
    _warn_of_other_images(settings, told, images)
    target = model.state_dict()
    found = {
        key: value
        for name, value in source.items()
        if (key := _match(name, value, target, _norm_names(source))) is not None
    }
    if not any(key.startswith("backbone.") and value.ndim == 4 for key, value in found.items()):
        raise DataError(
            f"weights '{settings.weights}' hold no convolution that fits backbone '{settings.backbone}'",
            remedy="choose weights of this backbone, or weights = 'none'",
        )
    found |= _head(source, _named_rows(told), target, model.rows.names)
    model.load_state_dict(found, strict=False)
    log.info("initial weights: %d of %d arrays loaded, the rest start at random", len(found), len(target))
    return sorted(found)


def _read(settings: ModelSettings) -> Mapping[str, Tensor]:
    path = weights_file(settings)
    return _read_published(settings) if path is None else _read_file(path)


def _read_file(path: Path) -> Mapping[str, Tensor]:
    if not path.exists():
        raise no_such_file(path)
    remedy = "check the file; a .pth file must hold a plain state dict of tensors"
    try:
        values = (
            load_file(path) if path.suffix == SAFETENSORS else torch.load(path, weights_only=True, map_location="cpu")
        )
    except _UNREADABLE as error:
        raise DataError(f"cannot read weights {path.name}: {type(error).__name__}", remedy=remedy) from error
    values = values.get("state_dict", values) if isinstance(values, dict) else values
    if not _is_state_dict(values):
        raise DataError(f"weights {path.name} hold something else than named tensors", remedy=remedy)
    return values


def _is_state_dict(values: object) -> TypeGuard[dict[str, Tensor]]:
    return isinstance(values, dict) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in values.items()
    )


def _read_published(settings: ModelSettings) -> Mapping[str, Tensor]:
    """torchvision's weights by name, e.g. ResNet18_Weights.IMAGENET1K_V1, from torch's cache or by download."""
    from wbc_common.vision import torchvision

    try:
        weights = torchvision.models.get_weight(settings.weights)
    except (ValueError, AttributeError, KeyError) as error:
        raise SettingError(
            f"weights '{settings.weights}' are neither a file ({', '.join(SUFFIXES)}) nor known to torchvision",
            remedy="give a path, or e.g. ResNet18_Weights.IMAGENET1K_V1, or 'none'",
        ) from error
    try:
        values: Mapping[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except _UNREADABLE as error:
        raise DataError(
            f"weights '{settings.weights}' cannot be downloaded, or are damaged in torch's cache",
            remedy="remove the file from torch's cache, or download it elsewhere and give its path as weights",
        ) from error
    return values


def _named_rows(told: Mapping[str, str]) -> list[str]:
    """What the file's head rows name, in order, as its metadata say; none where it does not say."""
    return [name for name in told.get(ROWS_KEY, told.get(CLASSES_KEY, "")).split(",") if name]


def _warn_of_other_images(settings: ModelSettings, told: Mapping[str, str], images: ImageSettings) -> None:
    """Say so where the file's network was trained on images that were prepared otherwise than the study's."""
    try:
        theirs = json.loads(told.get(IMAGES_KEY, "{}"))
    except ValueError:
        return
    if not isinstance(theirs, dict):
        return
    own = images.model_dump(mode="json", include=set(_PREPARATION))
    others = [
        f"{key} = {theirs[key]!r} and not {own[key]!r}" for key in _PREPARATION if theirs.get(key, own[key]) != own[key]
    ]
    if others:
        log.warning(
            "weights %s were trained on images with %s; next step: make others by wbc-simulate pretrain, or set that",
            Path(settings.weights).name,
            ", ".join(others),
        )


def _head(
    source: Mapping[str, Tensor], named: list[str], target: Mapping[str, Tensor], rows: tuple[str, ...]
) -> dict[str, Tensor]:
    """The head's arrays with those of its `rows` that the file's, `named`, tell of; nothing where these do not fit."""
    classes = registry_of(rows)
    found = {key: target[key].clone() for key in HEAD_KEYS}
    fits = all(key in source and source[key].shape == (len(named), *own.shape[1:]) for key, own in found.items())
    if classes is None or not fits:
        return {}
    meanings = [classes.meaning.get(name, ()) for name in named]
    for row in range(len(rows)):
        exact = [place for place, meaning in enumerate(meanings) if meaning == (row,)]
        coarse = [place for place, meaning in enumerate(meanings) if row in meaning]
        if exact:
            for key in HEAD_KEYS:
                found[key][row] = source[key][exact].float().mean(dim=0)
        elif coarse:  # a file of coarser classes: each of a class's rows has its share of the class's probability
            place = coarse[0]
            found[WEIGHT_KEY][row] = source[WEIGHT_KEY][place].float()
            found[BIAS_KEY][row] = source[BIAS_KEY][place].float() - math.log(len(meanings[place]))
    return found


def _norm_names(source: Mapping[str, Tensor]) -> frozenset[str]:
    """Modules that kept running statistics: the source's BatchNorm layers."""
    return frozenset(key.removesuffix(".running_mean") for key in source if key.endswith(".running_mean"))


def _match(name: str, value: Tensor, target: Mapping[str, Tensor], batch_norms: frozenset[str]) -> str | None:
    """The key of `target` that array `name` belongs to, or None where it has no honest place."""
    if name.rsplit(".", 1)[0] in batch_norms:
        return None
    for key in (name, f"backbone.{name}"):
        if key in target and target[key].shape == value.shape:
            return key
    return None
