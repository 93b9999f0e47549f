"""What a plan's precision means on a device, what it leaves in fp32, and how near bf16 stays."""

import pytest
import torch

from studies import rows
from wbc_client.device import as_input
from wbc_client.features import predict
from wbc_client.precision import computing_in, has_native_bf16, resolve_precision
from wbc_common.models import build_model
from wbc_common.study import ModelSettings

CPU = torch.device("cpu")


def test_contract_torch_answers_whether_this_processor_multiplies_bf16() -> None:
    answers = [torch.cpu._is_avx512_bf16_supported(), torch.cpu._is_amx_tile_supported()]
    assert all(isinstance(answer, bool) for answer in answers)
    assert has_native_bf16(CPU) == any(answers)


@pytest.mark.parametrize(("avx512", "amx", "expected"), [(0, 0, "fp32"), (1, 0, "bf16"), (0, 1, "bf16")])
def test_auto_is_bf16_only_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, avx512: int, amx: int, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bool(avx512))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: bool(amx))
    assert resolve_precision("auto", CPU) == expected
    assert (resolve_precision("fp32", CPU), resolve_precision("bf16", CPU)) == ("fp32", "bf16")


@pytest.mark.parametrize("native", [True, False])
def test_auto_on_a_gpu_asks_for_bf16_that_is_not_emulated(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native)
    assert resolve_precision("auto", torch.device("cuda")) == ("bf16" if native else "fp32")


@pytest.mark.parametrize("backbone", ["cnn-small", "p4cnn-small", "resnet18"])
def test_in_bf16_convolutions_are_rounded_and_norms_are_not(backbone: str) -> None:
    model = build_model(ModelSettings(backbone=backbone), rows(5), seed=0)  # type: ignore[arg-type]
    seen: dict[type, set[torch.dtype]] = {torch.nn.Conv2d: set(), torch.nn.GroupNorm: set()}
    for kind, found in seen.items():
        for module in model.modules():
            if isinstance(module, kind):
                module.register_forward_hook(lambda module, _, output, found=found: found.add(output.dtype))
    images = as_input(torch.rand(2, 3, 32, 32), CPU)
    with computing_in("bf16", CPU):
        model.features(images)
    assert seen == {torch.nn.Conv2d: {torch.bfloat16}, torch.nn.GroupNorm: {torch.float32}}


def test_predictions_in_bf16_are_fp32_numbers_near_those_of_fp32() -> None:
    model = build_model(ModelSettings(), rows(5), seed=0)
    images = torch.randint(0, 256, (70, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    exact, rounded = predict(model, images, CPU), predict(model, images, CPU, precision="bf16")
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, atol=0.02, rtol=0.05)
