"""How the images of a step are divided: the same steps on any number of devices, and what does not divide."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ARGUMENTS, EXPERIMENTS, fails
from conftest import write_camvid
from lightning import seed_everything
from lightning.pytorch.callbacks import BatchSizeFinder, Callback, GradientAccumulationScheduler
from PIL import Image
from steps import Steps, in_two_processes, steps_taken, take_steps
from tiny import SGD, Pooled, Tiny, trainer_of
from torch import nn

from cpg_lightning.cli import main
from cpg_lightning.data import Augmentation, CamVidDataModule
from cpg_lightning.data.sampling import TrainingSampler
from cpg_lightning.data.steps import Division
from cpg_lightning.losses import CrossEntropyCPGLoss
from cpg_lightning.module import SegmentationModule
from cpg_lightning.networks import LRASPP, DeepLabV3
from cpg_lightning.networks.adapter import Adapter
from cpg_lightning.run_checks import check_steps, single_image_error

DDP = "--trainer.strategy=ddp"


@pytest.fixture
def equal_labels(tmp_path):
    """Seven training images whose labels are the same."""
    root = write_camvid(tmp_path / "equal", train=7)
    first, *others = sorted((root / "trainannot").iterdir())
    for other in others:
        shutil.copy(first, other)
    return root


def data_of(root, **options):
    return CamVidDataModule(root, Augmentation((24, 32)), **{"batch_size": 2, "num_workers": 0, **options})


def fit(root, network, batch_size=2, **options):
    """The Trainer of an epoch on six images."""
    data = data_of(root, batch_size=batch_size)
    trainer = trainer_of(max_epochs=1, limit_val_batches=0, **options)
    trainer.fit(SegmentationModule(network, CrossEntropyCPGLoss(), data.classes), datamodule=data)
    return trainer


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
    def test_images_of_an_incomplete_step_are_dropped(self, division):
        samplers = [TrainingSampler(range(14), division, rank, seed=5) for rank in range(division.processes)]
        shares = [[draw.index for draw in sampler] for sampler in samplers]
        step = division.images // division.processes
        whole = [draw.index for draw in TrainingSampler(range(14), Division(4), 0, seed=5)]
        assert [len(sampler) for sampler in samplers] == [3 * step] * division.processes
        for first in range(3):
            images = {index for share in shares for index in share[first * step : (first + 1) * step]}
            assert images == set(whole[4 * first : 4 * (first + 1)])


def test_runs_of_one_seed_have_the_same_weights_and_samples_whatever_the_criterion(camvid):
    def trained(criterion, seed):
        options = [f"--model.criterion={EXPERIMENTS}/criteria/{criterion}.yaml", f"--seed_everything={seed}"]
        alone = ["--trainer.callbacks=tiny.Samples", "--trainer.limit_val_batches=0", "--trainer.logger=false"]
        cli = main(["fit", *ARGUMENTS, *options, *alone])
        return next(each for each in cli.trainer.callbacks if type(each).__name__ == "Samples")

    first, second, other = trained("ce", 1), trained("ce_cpg", 1), trained("ce", 2)
    assert all(value.equal(second.weights[name]) for name, value in first.weights.items())
    assert len(first.batches) == len(second.batches) == 6
    for one, another in zip(first.batches, second.batches, strict=True):
        assert one["name"] == another["name"]
        assert one["image"].equal(another["image"])
        assert one["mask"].equal(another["mask"])
    assert [batch["name"] for batch in first.batches] != [batch["name"] for batch in other.batches]


@pytest.mark.slow
def test_means_of_parts_differ_from_the_mean_of_a_step_as_the_documentation_says(real_data):
    files = sorted((real_data / "camvid" / "trainannot").iterdir())
    expected = {(0.0, 2): 0.005, (0.0, 4): 0.024, (1.0, 2): 0.05, (1.0, 4): 0.22}  # by the weight of CPG and the parts
    found = {key: [] for key in expected}
    for seed in range(10):
        drawn = torch.randperm(len(files), generator=torch.Generator().manual_seed(seed))[:4]
        target = torch.stack([torch.from_numpy(np.array(Image.open(files[index]))).long() for index in drawn])
        target[target == 11] = 255
        for (weight, parts), differences in found.items():
            logits = torch.zeros(4, 11, 45, 60, requires_grad=True)
            criterion = CrossEntropyCPGLoss(weight)
            (whole,) = torch.autograd.grad(criterion(logits, target), logits)
            shares = zip(logits.chunk(parts), target.chunk(parts), strict=True)
            mean = torch.stack([criterion(*share) for share in shares]).mean()
            (divided,) = torch.autograd.grad(mean, logits)
            differences.append(((divided - whole).abs().max() / whole.abs().max()).item())
    assert {key: np.median(differences) for key, differences in found.items()} == pytest.approx(expected, rel=0.1)


class Broken(Callback):
    """Breaks training off after some batches, with a checkpoint."""

    def __init__(self, batches):
        self.batches = batches

    def on_train_batch_end(self, trainer, module, *arguments):
        if trainer.fit_loop.total_batch_idx + 1 == self.batches:
            trainer.save_checkpoint("broken.ckpt")
            raise KeyboardInterrupt


class TestResuming:
    """Six steps in two epochs; the labels are the same, so that gradients do not change with the parts of a step."""

    def run(self, root, folder, *callbacks, ckpt_path=None, **options):
        folder.mkdir()
        seed_everything(0)
        data = CamVidDataModule(root, Augmentation((36, 48), scale=(1, 1)), batch_size=2, num_workers=0)
        module = SegmentationModule(Tiny(11), CrossEntropyCPGLoss(), data.classes, optimizer=SGD)
        trainer = trainer_of(callbacks=[Steps(folder), *callbacks], **options)
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return module, trainer

    @pytest.mark.parametrize(
        ("before", "batches", "now", "steps"),
        [
            *[(1, batches, 2, batches) for batches in (1, 2, 3, 4)],
            *[(2, batches, 1, batches // 2) for batches in (2, 3, 5, 6, 7)],
            *[(2, batches, 2, batches // 2) for batches in (1, 4, 5, 9)],
        ],
    )
    def test_a_training_continues_with_another_division_of_its_steps(
        self, equal_labels, tmp_path, before, batches, now, steps
    ):
        whole, _ = self.run(equal_labels, tmp_path / "whole")
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            self.run(equal_labels, tmp_path / "broken", Broken(batches), accumulate_grad_batches=before)
        options = {"accumulate_grad_batches": now, "ckpt_path": "broken.ckpt"}
        resumed, trainer = self.run(equal_labels, tmp_path / "resumed", **options)
        rest = steps_taken(tmp_path / "whole")[steps:]
        found = steps_taken(tmp_path / "resumed")
        assert [names for names, *_ in found] == [names for names, *_ in rest]
        assert [rate for _, rate, _ in found] == [rate for _, rate, _ in rest]
        assert (trainer.global_step, trainer.current_epoch) == (6, 2)
        assert trainer.fit_loop.epoch_loop._batches_that_stepped == 6  # the step that loggers are told
        assert trainer.fit_loop.total_batch_idx + 1 == 6 * now
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(resumed.state_dict()[name], value, rtol=1e-4, atol=1e-6, msg=name)


class TestErrors:
    def test_the_error_names_the_numbers_that_divide_a_step(self):
        with pytest.raises(ValueError, match="to be divisible by 8 devices, got 12") as error:
            Division(12, processes=8)
        options = "Set --trainer.devices 1, 2, 3, 4, 6 or 12; or --data.batch_size 8 or 16"
        assert str(error.value).endswith(options)

    def test_the_error_names_possible_accumulations_too(self):
        with pytest.raises(
            ValueError, match="to be divisible by 2 devices times 4 accumulated batches, got 12"
        ) as error:
            Division(12, processes=2, batches=4)
        options = (
            "--trainer.devices 1 or 3; or --trainer.accumulate_grad_batches 1, 2, 3 or 6; or --data.batch_size 8 or 16"
        )
        assert str(error.value).endswith(options)

    @pytest.mark.parametrize("arguments", [["--trainer.devices=4", DDP], ["--trainer.accumulate_grad_batches=4"]])
    def test_the_command_refuses_before_files_are_written(self, camvid, monkeypatch, capsys, arguments):
        message = fails(monkeypatch, capsys, "fit", *ARGUMENTS, *arguments)
        assert "the images of one step over all devices, to be divisible by" in message
        assert sorted(path.name for path in Path.cwd().iterdir()) == ["camvid"]

    @pytest.mark.parametrize("callback", [BatchSizeFinder(), GradientAccumulationScheduler({0: 1, 1: 2})])
    def test_callbacks_that_change_the_images_of_a_step_are_refused(self, camvid, callback):
        with pytest.raises(
            ValueError, match=f"expected no {type(callback).__name__}: data.batch_size is the number of images"
        ):
            fit(camvid, Tiny(11), callbacks=[callback])

    @pytest.mark.parametrize(
        ("limit", "got"), [({"limit_train_batches": 3}, 3), ({"limit_train_batches": 0.2}, 1), ({"fast_dev_run": 1}, 1)]
    )
    def test_a_limit_within_a_step_is_refused(self, camvid, limit, got):
        with pytest.raises(ValueError, match=f"whole steps of 2 accumulated batches, got {got} batches; set it to 2"):
            fit(camvid, Tiny(11), accumulate_grad_batches=2, **limit)

    @pytest.mark.parametrize(("limit", "steps"), [(2, 1), (0.7, 2), (100, 3)])
    def test_a_limit_of_whole_steps_is_kept(self, camvid, limit, steps):
        assert fit(camvid, Tiny(11), accumulate_grad_batches=2, limit_train_batches=limit).global_step == steps


class TestOneImageAtATime:
    @pytest.mark.parametrize("kind", [DeepLabV3, Pooled])
    def test_networks_with_batch_norm_after_global_pooling_do_not_take_it(self, kind):
        network = kind(11)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        assert "more than 1 value per channel" in single_image_error(network, (64, 96))
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert network.training

    @pytest.mark.parametrize("kind", [LRASPP, Tiny])
    def test_other_networks_take_one_image(self, kind):
        assert single_image_error(kind(11), (64, 96)) is None

    def test_the_size_of_training_images_decides(self):
        deep = nn.Sequential(nn.Conv2d(3, 11, 1, stride=64), nn.BatchNorm2d(11))
        network = Adapter(11, deep, min_size=64)
        assert single_image_error(network, (64, 64)) is not None
        assert single_image_error(network, (64, 128)) is None

    def test_the_command_refuses_before_files_are_written(self, camvid, monkeypatch, capsys):
        arguments = [*ARGUMENTS, "--model.network=tiny.Pooled", "--data.batch_size=4"]
        message = fails(monkeypatch, capsys, "fit", *arguments, "--trainer.accumulate_grad_batches=4")
        assert "Pooled does not accept a single image in training" in message
        assert "--trainer.accumulate_grad_batches 1 or 2; or --data.batch_size 8" in message
        assert sorted(path.name for path in Path.cwd().iterdir()) == ["camvid"]

    def test_two_images_at_a_time_are_accepted(self, camvid):
        assert fit(camvid, Pooled(11), batch_size=4, accumulate_grad_batches=2).global_step == 1

    def test_synchronised_batch_norm_has_the_images_of_all_processes(self, camvid):
        data = data_of(camvid)
        trainer = trainer_of(devices=2, strategy="ddp", sync_batchnorm=True)
        data.trainer = trainer
        check_steps(Pooled(11), data, trainer)
        data.trainer = trainer = trainer_of(devices=2, strategy="ddp")
        with pytest.raises(ValueError, match="does not accept a single image in training"):
            check_steps(Pooled(11), data, trainer)
