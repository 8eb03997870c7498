"""The folder of the losses works when it is copied into somebody's repository: it needs torch alone."""

import shutil
import subprocess
import sys
from pathlib import Path

import cpg_lightning.losses

PROGRAM = """
import sys

OTHERS = {"cpg_lightning", "lightning", "torchmetrics", "torchvision", "wandb", "albumentations", "scipy"}

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in OTHERS:
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Blocked())
import torch
from losses import CPGLoss, CrossEntropyCPGLoss

logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
target = torch.zeros(1, 32, 32, dtype=torch.long)
target[..., 16:] = 1
criterion = CrossEntropyCPGLoss()
criterion(logits, target).backward()
large = torch.nn.functional.interpolate(logits, (32, 32), mode="bilinear")
torch.testing.assert_close(criterion.terms["cpg"], CPGLoss()(large, target).detach())
print(criterion.terms["cpg"].item(), bool(logits.grad.any()))
"""


def test_a_copy_of_the_losses_folder_works_alone(tmp_path):
    shutil.copytree(Path(cpg_lightning.losses.__file__).parent, tmp_path / "losses")
    run = subprocess.run([sys.executable, "-c", PROGRAM], check=False, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "4.0 True\n"
