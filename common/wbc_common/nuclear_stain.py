"""Nuclear stain: each image's dyes brought part of the way to one strength, with its own nucleus as the measure.

The nucleus is what all crops of white cells share, and it binds the same dyes everywhere; how dark and how blue it
comes out is the lab's stain and the camera's colours. So each channel's optical density is multiplied by a power of
reference / nucleus, image by image, without labels and without any statistic of a data set: a clinic that joins later
is treated like the others. White balance fixes the light where nothing absorbs, this fixes it where most does; in
between, by Beer and Lambert, density is linear in dye. Whole-image methods (Reinhard, Macenko) measure how many red
cells lie about, too. The further it goes, the more a nucleus loses its own colour and darkness, by which classes differ
as well.
"""

import torch
from torch import Tensor

from wbc_common.framing import nearness_to_middle, nuclear_dye
from wbc_common.images import BACKGROUND_LEVEL

REFERENCE_OD = (0.95, 1.25, 0.55)  # red, green, blue of a purple nucleus; any would do that networks are trained with
_UNSURE_OD = 0.3  # added to both: a channel in which the nucleus hardly absorbs says little of its dye
_GAIN = (0.4, 2.5)


def even_nuclear_stain(images: Tensor, share: float) -> Tensor:
    """Images uint8 [N, 3, S, S], white-balanced, with evened dyes; `share` of the way, 0..1. Same shape and type."""
    density = -torch.log(images.float().clamp_min(1) / BACKGROUND_LEVEL)
    gain = _gain(density, nuclear_dye(images), share)
    light = torch.exp(-density * gain[:, :, None, None])
    return (BACKGROUND_LEVEL * light).round_().clamp_(0, 255).to(torch.uint8)


def _gain(density: Tensor, dye: Tensor, share: float) -> Tensor:
    """By what each channel's density is multiplied, [N, 3]."""
    weight = dye * nearness_to_middle(dye.shape[-1])
    weight = weight / weight.sum(dim=(1, 2), keepdim=True).clamp_min(1e-6)
    nuclear = (density * weight[:, None]).sum(dim=(2, 3)).clamp_min(0)
    return ((torch.tensor(REFERENCE_OD) + _UNSURE_OD) / (nuclear + _UNSURE_OD)).pow(share).clamp(*_GAIN)
