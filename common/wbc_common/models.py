"""The networks: a backbone that gives D features, and a linear head whose rows name classes (`wbc_common.head_rows`).

No backbone has BatchNorm (docs/method.md §4): its running statistics are wrong at the next clinic, break DP-SGD and are
an attack on secure sums. `cnn-small` (0.3 M parameters, the default) halves the image in its stem and pools by maximum,
as small bright or dark structures (granules, lobes) decide the class: with strided convolutions and mean pooling alone
the same budget learned next to nothing from a thousand cells. It pools before the ReLU, which gives the same numbers
from a quarter of the work. Its GroupNorms compute in fp32 whatever the rest does: they are sensitive, and torch's are
slow in bf16 on a CPU; where it can, `cnn-small` takes them from `wbc_common.norm_pool`. `p4cnn-small` is
built likewise of filters in their four quarter turns (`wbc_common.p4`). `resnet18` is torchvision's ResNet with a block
of our own whose residual add is not in place (Opacus refuses the in-place one) and GroupNorm. `convnext-tiny` and
`convnext-small` (28 and 49 M parameters, LayerNorm) are torchvision's as they are, so that published weights fit; they
are for a GPU. `is_head` is the only place that knows which arrays are head rows.
"""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wbc_common.head_rows import HeadRows
from wbc_common.norm_pool import can_fuse, norm_pool_relu
from wbc_common.p4 import TURNS, OverTurns, P4Convolution, P4Norm
from wbc_common.study import ModelSettings

HEAD_KEYS = WEIGHT_KEY, BIAS_KEY = "head.weight", "head.bias"
_GROUPS = 8
_SMALL_WIDTHS = (16, 32, 64, 128, 192)
_P4_FILTERS = (4, 8, 16, 32, 96)


def is_head(key: str) -> bool:
    """Whether an array of a model is the head's (first axis R, its rows); all others belong to the backbone."""
    return key in HEAD_KEYS


class Network(nn.Module):
    """Backbone and head. `forward` gives logits [B, C], `features` the D numbers before the head."""

    def __init__(self, backbone: nn.Module, num_features: int, rows: HeadRows) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(num_features, len(rows))
        self.rows = rows

    def features(self, images: Tensor) -> Tensor:
        """Features [B, D] of normalised images [B, 3, H, W]."""
        features: Tensor = self.backbone(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, C] of normalised images [B, 3, H, W]."""
        return self.classify(self.features(images))

    def classify(self, features: Tensor) -> Tensor:
        """Logits [B, C] of features [B, D]."""
        logits: Tensor = self.head(features)
        return logits if self.rows.are_classes else _class_logits(logits, self.rows)


def _class_logits(logits: Tensor, rows: HeadRows) -> Tensor:
    """[B, C] of rows' logits [B, R]: the log of a class's summed exponentials; rows of no class are left out."""
    class_of = torch.tensor(rows.class_of, device=logits.device)
    belongs = class_of == torch.arange(rows.num_classes, device=logits.device)[:, None]  # [C, R]
    return logits[:, None].masked_fill(~belongs, -torch.inf).logsumexp(dim=2)


class _ConvBlock(nn.Module):
    """Convolution, GroupNorm, a 2 × 2 max pool where `pool` is set, and ReLU."""

    def __init__(self, convolution: nn.Conv2d, norm: nn.GroupNorm, *, pool: bool) -> None:
        super().__init__()
        self.convolution = convolution
        self.norm = norm
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        y, norm = self.convolution(x), self.norm
        if can_fuse(y, pool=self.pool):
            scale, shift = norm.spread() if isinstance(norm, P4Norm) else (norm.weight, norm.bias)
            return norm_pool_relu(y, scale, shift, groups=norm.num_groups, eps=norm.eps, pool=self.pool)
        y = norm(y)
        return F.relu(F.max_pool2d(y, 2) if self.pool else y)


class _MeanAndMax(nn.Module):
    """[B, D, H, W] → [B, 2D]: how much of a pattern there is, and whether it is there at all (a few granules)."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)


def _small_backbone() -> tuple[nn.Module, int]:
    def block(width_in: int, width_out: int, *, kernel: int = 3, stride: int = 1, pool: bool = True) -> _ConvBlock:
        convolution = nn.Conv2d(width_in, width_out, kernel, stride=stride, padding=kernel // 2, bias=False)
        return _ConvBlock(convolution, _in_fp32(nn.GroupNorm(_GROUPS, width_out)), pool=pool)

    layers: list[nn.Module] = [block(3, _SMALL_WIDTHS[0], kernel=5, stride=2, pool=False)]
    for width_in, width_out in pairwise(_SMALL_WIDTHS):
        layers.append(block(width_in, width_out, pool=width_out != _SMALL_WIDTHS[-1]))
    return nn.Sequential(*layers, _MeanAndMax()), 2 * _SMALL_WIDTHS[-1]


def _p4_backbone() -> tuple[nn.Module, int]:
    """The same features for an image and its quarter turns."""
    lifting = P4Convolution(3, _P4_FILTERS[0], kernel=6, stride=2, lifting=True)
    layers: list[nn.Module] = [_ConvBlock(lifting, P4Norm(_P4_FILTERS[0]), pool=False)]
    for filters_in, filters in pairwise(_P4_FILTERS):
        convolution = P4Convolution(TURNS * filters_in, filters, kernel=3, stride=1, lifting=False)
        layers.append(_ConvBlock(convolution, P4Norm(filters), pool=filters != _P4_FILTERS[-1]))
    return nn.Sequential(*layers, _MeanAndMax(), OverTurns()), 2 * _P4_FILTERS[-1]


def group_norm(num_channels: int) -> nn.GroupNorm:
    """GroupNorm in place of a backbone's BatchNorm, in 32 groups as in Wu and He 2018."""
    return _in_fp32(nn.GroupNorm(min(32, num_channels), num_channels))


def _in_fp32(norm: nn.GroupNorm) -> nn.GroupNorm:
    """The same norm with fp32 inputs; a hook, as Opacus knows layers by their exact type."""
    norm.register_forward_pre_hook(_as_fp32)
    return norm


def _as_fp32(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].float(),)


def _resnet18_backbone() -> tuple[nn.Module, int]:
    from wbc_common.resnet import resnet18

    backbone = resnet18(group_norm)
    return backbone, 512


def _convnext_backbone(name: str) -> tuple[nn.Module, int]:
    """torchvision's ConvNeXt (Liu et al. 2022), ending in the 768 normed features before its classifier.

    Without stochastic depth, which would draw from torch's global generator.
    """
    from wbc_common.vision import torchvision

    network = torchvision.models.get_model(name, stochastic_depth_prob=0.0)
    num_features: int = network.classifier[2].in_features
    network.classifier[2] = nn.Identity()
    return network, num_features


_BACKBONES: Mapping[str, Callable[[], tuple[nn.Module, int]]] = {
    "cnn-small": _small_backbone,
    "p4cnn-small": _p4_backbone,
    "resnet18": _resnet18_backbone,
    "convnext-tiny": partial(_convnext_backbone, "convnext_tiny"),
    "convnext-small": partial(_convnext_backbone, "convnext_small"),
}


def build_model(settings: ModelSettings, rows: HeadRows, seed: int) -> Network:
    """A network of the settings' backbone with seeded random weights; `wbc_common.weights` loads those they name."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _architecture(settings, rows)


def network_of(arrays: Mapping[str, np.ndarray], settings: ModelSettings, rows: HeadRows) -> Network:
    """A network that holds copies of these arrays; names and shapes must be the architecture's.

    Draws no random number: a network is made for every task, and clinics may work side by side in one process.
    """
    with torch.device("meta"):
        model = _architecture(settings, rows)
    model.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}, assign=True)
    return model


def _architecture(settings: ModelSettings, rows: HeadRows) -> Network:
    backbone, num_features = _BACKBONES[settings.backbone]()
    return Network(backbone, num_features, rows)


def model_arrays(model: nn.Module) -> dict[str, np.ndarray]:
    """Every parameter and buffer by its name, copied to numpy."""
    return {key: value.detach().cpu().numpy().copy() for key, value in model.state_dict().items()}
