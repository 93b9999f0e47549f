"""The door to torchvision, each case in a process of its own because imports leave traces."""

import subprocess
import sys

import pytest


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_transforms_and_models_work_whichever_build_of_torch_is_installed() -> None:
    done = run(
        "from wbc_common.vision import torchvision\n"
        "import torch\n"
        "from torchvision.transforms.v2 import functional\n"
        "blurred = functional.gaussian_blur(torch.ones(1, 3, 8, 8), kernel_size=[3, 3], sigma=[1.0])\n"
        "assert torchvision.transforms.v2.functional is functional\n"
        "assert torchvision.extension.__name__ == 'torchvision.extension'\n"
        "assert torch.allclose(blurred, torch.ones(1, 3, 8, 8))\n"
        "assert torchvision.models.resnet18(num_classes=2)(torch.zeros(2, 3, 32, 32)).shape == (2, 2)\n"
    )
    assert done.returncode == 0, done.stderr


def test_the_module_itself_loads_neither_torch_nor_torchvision() -> None:
    done = run("import sys, wbc_common.vision; assert not {'torch', 'torchvision'} & set(sys.modules)")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        ("RuntimeError('CUDA driver too old')", "RuntimeError: CUDA driver too old"),
        ("ImportError('no torchvision')", "ImportError: no torchvision"),
    ],
)
def test_any_other_failure_to_import_torchvision_is_passed_on(failure: str, expected: str) -> None:
    done = run(
        "import sys\n"
        "class BrokenOnce:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torchvision':\n"
        "            sys.meta_path.remove(self)\n"
        f"            raise {failure}\n"
        "sys.meta_path.insert(0, BrokenOnce())\n"
        "from wbc_common.vision import torchvision\n"
    )
    assert done.stderr.strip().endswith(expected)


def test_a_misspelt_name_is_an_import_error() -> None:
    assert "ImportError: cannot import name 'torchvison'" in run("from wbc_common.vision import torchvison").stderr
