"""p4 group convolutions (Cohen and Welling, ICML 2016): a cell has no up, and neither have these layers.

A network learns that a granule turned is a granule from turned examples, one filter for each way that it may lie. Here
each filter comes in its four quarter turns, so that a turned
image gives turned activations, and features that are pooled over place and turn do not change at all. The work is that
of an ordinary convolution with as many channels, from a quarter of the parameters. Any other angle stays for
augmentation, as do mirrored cells.

Channels are [filter, turn], flattened: 4·F for F filters. Activations turn exactly only where a layer's grid does: its
side must be even, or its stride 1.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TURNS = 4
_MOST_GROUPS = 8


class P4Convolution(nn.Conv2d):
    """From an image [B, 3, H, W] (`lifting`), or from [B, 4·F_in, H, W], to [B, 4·F_out, h, w].

    Its weight [F_out, 3 or 4·F_in, k, k] is that of the unturned filters. No bias.
    """

    def __init__(self, width_in: int, filters: int, *, kernel: int, stride: int, lifting: bool) -> None:
        # An even kernel with stride 2 looks at pairs of pixels alike from both sides; an odd one would not.
        super().__init__(width_in, filters, kernel, stride=stride, padding=(kernel - 1) // 2, bias=False)
        self.lifting = lifting

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.turned_weight(), None, self.stride, self.padding)

    def turned_weight(self) -> Tensor:
        """All filters in their four turns, [4·F_out, C_in, k, k]; what a filter reads of the input's turns moves on."""
        turned = [torch.rot90(self.weight, turn, dims=(2, 3)) for turn in range(TURNS)]
        if not self.lifting:
            turned = [_turns_moved_on(weight, turn) for turn, weight in enumerate(turned)]
        return torch.stack(turned, dim=1).flatten(0, 1)


def _turns_moved_on(weight: Tensor, turn: int) -> Tensor:
    """A weight [F_out, 4·F_in, k, k] that reads each input filter's turns so many places on."""
    by_turn = weight.view(len(weight), -1, TURNS, *weight.shape[2:])
    return by_turn.roll(turn, dims=2).flatten(1, 2)


class P4Norm(nn.GroupNorm):
    """GroupNorm of [B, 4·F, H, W]: groups hold whole filters, and a filter's turns have one scale and one shift."""

    def __init__(self, filters: int) -> None:
        super().__init__(max(number for number in range(1, _MOST_GROUPS + 1) if filters % number == 0), filters)

    def forward(self, input: Tensor) -> Tensor:
        scale, shift = self.spread()
        return F.group_norm(input.float(), self.num_groups, scale, shift, self.eps)

    def spread(self) -> tuple[Tensor, Tensor]:
        """Scale and shift of each channel, [4·F] and [4·F]."""
        return self.weight.repeat_interleave(TURNS), self.bias.repeat_interleave(TURNS)


class OverTurns(nn.Module):
    """[B, 2·4·F], a mean and a maximum over place of each channel, → [B, 2·F], those over place and turn."""

    def forward(self, pooled: Tensor) -> Tensor:
        mean, most = pooled.view(len(pooled), 2, -1, TURNS).unbind(dim=1)
        return torch.cat([mean.mean(dim=2), most.amax(dim=2)], dim=1)
