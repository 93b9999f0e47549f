"""What coordinator and clinic must agree on before anybody trains under DP-SGD. Opacus is imported on first use."""

from torch import nn

from wbc_common.errors import SettingError
from wbc_common.study import PrivacySettings


def check_backbone(model: nn.Module, backbone: str) -> None:
    """Refuse a network whose gradients per cell Opacus cannot take.

    Raises:
        SettingError: naming what stands in the way, such as a BatchNorm that mixes the cells of a batch.
    """
    from opacus.validators import ModuleValidator

    found = [*map(str, ModuleValidator.validate(model, strict=False)), *_parameters_beside_layers(model)]
    if found:
        raise SettingError(
            f"backbone '{backbone}' cannot be trained under privacy.mode = 'dp-sgd': {found[0]}",
            remedy="choose model.backbone = 'cnn-small', 'p4cnn-small' or 'resnet18', which use GroupNorm",
        )


def _parameters_beside_layers(model: nn.Module) -> list[str]:
    """Modules with parameters of their own around layers, such as ConvNeXt's scales: Opacus knows layers alone."""
    kinds = {
        type(module).__name__
        for module in model.modules()
        if any(True for _ in module.parameters(recurse=False)) and any(True for _ in module.children())
    }
    return [f"{kind} has parameters of its own beside its layers" for kind in sorted(kinds)]


def check_delta(settings: PrivacySettings, num_cells: float, clinic: str) -> None:
    """Refuse a δ at which publishing one cell in the clear would count as private.

    Raises:
        SettingError: δ is 1/n or more, or there is no cell.
    """
    if settings.delta * num_cells >= 1 or num_cells == 0:
        raise SettingError(
            f"privacy.delta = {settings.delta:g} is not below 1/n for the {num_cells:g} training cells of {clinic}: it "
            "would allow one cell to leave in the clear",
            remedy="set privacy.delta well below 1/n, or train that clinic without DP-SGD in another study",
        )
