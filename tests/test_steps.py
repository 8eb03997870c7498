"""How the images of a step are divided: the same steps on any number of devices, and what does not divide."""

import functools
import re
import shutil

import lightning as L
import pytest
import torch
from commands import ARGUMENTS, fails
from conftest import write_camvid
from lightning.pytorch.callbacks import BatchSizeFinder, Callback, GradientAccumulationScheduler
from steps import in_two_processes, steps_taken, take_steps
from tiny import SGD, Tiny, trainer_of
from torch import nn

from cpg_lightning.cli import main
from cpg_lightning.data import Augmentation, CamVidDataModule
from cpg_lightning.data.sampling import TrainingSampler
from cpg_lightning.data.steps import Division
from cpg_lightning.losses import CrossEntropyCPGLoss
from cpg_lightning.module import SegmentationModule
from cpg_lightning.networks import LRASPP, DeepLabV3

TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]


class Pooled(Tiny):
    """A network with BatchNorm after pooling over the whole image."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, num_classes, 1), nn.BatchNorm2d(num_classes))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": super().forward(images)["out"] + self.pooled(images)}


@pytest.fixture
def equal_labels(tmp_path):
    """Seven training images whose labels are the same."""
    root = write_camvid(tmp_path / "equal", train=7)
    first, *others = sorted((root / "trainannot").iterdir())
    for other in others:
        shutil.copy(first, other)
    return root


class TestTheSameSteps:
    def check(self, folder, expected):
        found = steps_taken(folder)
        assert len(found) == len(expected) == 6
        for (names, rate, gradients), (same_names, same_rate, same_gradients) in zip(found, expected, strict=True):
            assert names == same_names
            assert rate == same_rate
            for gradient, same in zip(gradients, same_gradients, strict=True):
                torch.testing.assert_close(gradient, same, rtol=1e-4, atol=1e-6)

    def taken(self, root, folder, **options):
        folder.mkdir()
        take_steps(root, folder, **options)
        return steps_taken(folder)

    def test_accumulated_batches_take_the_steps_of_whole_ones(self, equal_labels, tmp_path):
        expected = self.taken(equal_labels, tmp_path / "whole")
        self.taken(equal_labels, tmp_path / "accumulated", accumulate_grad_batches=2)
        self.check(tmp_path / "accumulated", expected)

    @pytest.mark.slow
    def test_two_processes_take_the_steps_of_one(self, equal_labels, tmp_path):
        expected = self.taken(equal_labels, tmp_path / "one")
        (tmp_path / "two").mkdir()
        result = in_two_processes(f"take_steps({str(equal_labels)!r}, {str(tmp_path / 'two')!r}, **TWO)")
        assert result.returncode == 0, result.stderr
        assert len(list((tmp_path / "two").iterdir())) == 2
        self.check(tmp_path / "two", expected)

    @pytest.mark.parametrize("division", [Division(4), Division(4, 2), Division(4, 1, 4), Division(4, 2, 2)])
    def test_images_that_fill_no_whole_step_are_dropped(self, division):
        samplers = [TrainingSampler(range(14), division, rank, seed=5) for rank in range(division.processes)]
        shares = [[draw.index for draw in sampler] for sampler in samplers]
        step = division.images // division.processes
        whole = [draw.index for draw in TrainingSampler(range(14), Division(4), 0, seed=5)]
        assert [len(sampler) for sampler in samplers] == [3 * step] * division.processes
        for first in range(3):
            images = {index for share in shares for index in share[first * step : (first + 1) * step]}
            assert images == set(whole[4 * first : 4 * (first + 1)])
