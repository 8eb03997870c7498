"""What the README shows of a dataset, a network and a loss of one's own."""

import re
import sys

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from commands import BASE, EXPERIMENTS

from cpg_lightning.cli import main

README = EXPERIMENTS.parent / "README.md"
BLOCK = re.compile(r"```python\n# (my_\w+)\.py: ([^\n]*)\n(.*?)```", re.DOTALL)
IMAGES = {"train": 4, "val": 2}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The README's modules as files that Python finds, with the options that each is chosen by."""
    blocks = {name: (options, code) for name, options, code in BLOCK.findall(README.read_text())}
    for name, (_, code) in blocks.items():
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return {name: options for name, (options, _) in blocks.items()}


def draw_cracks(folder):
    """Images with a diagonal line, and its labels."""
    for split, count in IMAGES.items():
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for index in range(count):
            mask = cv2.line(np.zeros((64, 64), dtype=np.uint8), (0, 9 * index), (63, 63), 255, 3)
            cv2.imwrite(str(folder / split / "masks" / f"{index}.png"), mask)
            cv2.imwrite(str(folder / split / "images" / f"{index}.jpg"), mask[..., None].repeat(3, axis=2) // 2)


def test_each_example_is_shorter_than_30_lines(files):
    assert set(files) == {"my_data", "my_network", "my_loss"}
    assert all(len(code.splitlines()) < 30 for _, _, code in BLOCK.findall(README.read_text()))


def test_the_examples_train_together(files, tmp_path):
    draw_cracks(tmp_path / "cracks")
    chosen = " ".join(files.values()).replace("path/to/cracks", "cracks").replace('"[512, 512]"', "[32,32]")
    options = [f"--{option.strip().replace(' ', '=', 1)}" for option in chosen.split("--") if option.strip()]
    few = ["--data.batch_size=2", "--data.num_workers=0", "--trainer.max_epochs=1", "--trainer.log_every_n_steps=1"]
    run = main(["fit", *BASE, *options, *few, "--output=run"])
    assert type(run.datamodule).__name__ == "Cracks"
    assert run.datamodule.classes.names == ("background", "crack")
    assert run.trainer.global_step == 2
    assert run.model.criterion.gamma == 1.5
    assert "train/focal" in (tmp_path / "run" / "metrics.csv").read_text()


def test_the_focal_loss_without_focus_is_cross_entropy(files):
    from my_loss import FocalLoss

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 8, generator=generator)
    target = torch.randint(0, 3, (2, 8, 8), generator=generator)
    target[:, :2] = 255
    torch.testing.assert_close(FocalLoss(gamma=0)(logits, target), F.cross_entropy(logits, target, ignore_index=255))
