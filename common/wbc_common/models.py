"""The networks: a backbone that gives D features, and a linear head with one row per cell class.

Both backbones use GroupNorm (docs/method.md §4): BatchNorm's running statistics are wrong at the next clinic, break
DP-SGD and are an attack on secure sums. `cnn-small` (about 0.3 M parameters) is the default for a CPU. `resnet18` is
torchvision's ResNet with a block of our own whose residual add is not in place (Opacus refuses the in-place one) and
GroupNorm. `is_head` is the only place that knows which arrays are head rows.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wbc_common.study import ModelSettings

HEAD_KEYS = ("head.weight", "head.bias")
_GROUPS = 8
_SMALL_STAGES = ((32, 1), (64, 2), (96, 2), (128, 1))  # width, blocks; each stage halves the side


def is_head(key: str) -> bool:
    """Whether an array of a model holds one row per class (first axis C); all others belong to the backbone."""
    return key in HEAD_KEYS


class Network(nn.Module):
    """Backbone and head. `forward` gives logits [B, C]; `features` the D numbers before the head."""

    def __init__(self, backbone: nn.Module, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(num_features, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Features [B, D] of normalised images [B, 3, H, W]."""
        features: Tensor = self.backbone(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, C]."""
        logits: Tensor = self.head(self.features(images))
        return logits


class _ConvBlock(nn.Module):
    """3×3 convolution, GroupNorm, ReLU, with a residual add where the width stays (out of place, for Opacus)."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width_in, width_out, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.GroupNorm(_GROUPS, width_out)
        self.residual = width_in == width_out and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.convolution(x)))
        return x + y if self.residual else y


def _small_backbone() -> tuple[nn.Module, int]:
    layers: list[nn.Module] = []
    width = 3
    for next_width, depth in _SMALL_STAGES:
        layers += [_ConvBlock(width, next_width, 2)]
        layers += [_ConvBlock(next_width, next_width, 1) for _ in range(depth - 1)]
        width = next_width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), width


def group_norm(num_channels: int) -> nn.GroupNorm:
    """GroupNorm in place of a backbone's BatchNorm: 32 channels' worth of groups, as in Wu and He 2018."""
    return nn.GroupNorm(min(32, num_channels), num_channels)


def _resnet18_backbone() -> tuple[nn.Module, int]:
    from wbc_common.resnet import resnet18

    backbone = resnet18(group_norm)
    return backbone, 512


_BACKBONES = {"cnn-small": _small_backbone, "resnet18": _resnet18_backbone}


def build_model(settings: ModelSettings, num_classes: int, seed: int) -> Network:
    """A network with seeded random weights, then the weights that the settings name, if any.

    Raises:
        SettingError, DataError: the named weights do not exist, cannot be read or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone, num_features = _BACKBONES[settings.backbone]()
        model = Network(backbone, num_features, num_classes)
    if settings.weights != "none":
        from wbc_common.weights import load_initial_weights

        load_initial_weights(model, settings)
    return model


def model_arrays(model: nn.Module) -> dict[str, np.ndarray]:
    """Every parameter and buffer by its name, copied to numpy."""
    return {key: value.detach().cpu().numpy().copy() for key, value in model.state_dict().items()}


def load_arrays(model: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Put arrays into a model of the same architecture; names and shapes must be the model's."""
    model.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in arrays.items()})
