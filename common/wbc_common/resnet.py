"""torchvision's ResNet-18 with a residual add that is not in place, so that Opacus can take gradients per sample.

Only the block's forward differs (opacus issue 828); parameter names are torchvision's, so its published weights load.
"""

from collections.abc import Callable

from torch import Tensor, nn

from wbc_common.vision import torchvision


def resnet18(norm_layer: Callable[[int], nn.Module]) -> nn.Module:
    """ResNet-18 that ends in its 512 pooled features (the classifier is replaced by the identity)."""
    BasicBlock = torchvision.models.resnet.BasicBlock

    class OutOfPlaceBlock(BasicBlock):  # type: ignore[misc, valid-type]
        def forward(self, x: Tensor) -> Tensor:
            identity = x if self.downsample is None else self.downsample(x)
            y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
            out: Tensor = (y + identity).relu()
            return out

    network = torchvision.models.ResNet(OutOfPlaceBlock, [2, 2, 2, 2], norm_layer=norm_layer)
    network.relu = nn.ReLU(inplace=False)
    network.fc = nn.Identity()
    backbone: nn.Module = network
    return backbone
