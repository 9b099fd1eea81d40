"""Import of timm without torch's compiler, which works as usual afterwards."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from cutie_geo.model.timm_import import import_timm
timm = import_timm()
print(sorted({"wandb", "torch._dynamo"} & sys.modules.keys()))
import torch, torchvision
from torchvision.ops import roi_align
print(tuple(roi_align(torch.rand(1, 3, 8, 8), [torch.tensor([[0.0, 0.0, 4.0, 4.0]])], 2).shape))
print(torch.compile(lambda x: 2 * x, backend="eager")(torch.ones(2)).tolist())
print(timm.create_model("resnet10t").default_cfg["architecture"], import_timm() is timm)
"""


@pytest.mark.slow
def test_the_compiler_is_imported_when_it_is_used() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["[]", "(1, 3, 2, 2)", "[2.0, 2.0]", "resnet10t True"], done.stderr


@pytest.mark.slow
def test_a_release_that_needs_the_compiler_is_imported_as_usual() -> None:
    program = f"""
import importlib.abc, sys
class Needy(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        stub = sys.modules.get("torch._dynamo")
        if name == "timm" and stub is not None and not hasattr(stub, "config"):
            raise RuntimeError("a part of the compiler that is not there")
sys.meta_path.insert(0, Needy())
{PROGRAM}"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[1:] == ["(1, 3, 2, 2)", "[2.0, 2.0]", "resnet10t True"], done.stderr
