"""The schedules of the learning rate, and training with the schedulers of torch."""

import functools
import math
from pathlib import Path

import lightning as L
import pytest
import torch
from commands import ARGUMENTS, fails
from lightning.pytorch.callbacks import Callback
from tiny import SGD, Tiny, trainer_of
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR, ReduceLROnPlateau, StepLR

from cpg_lightning.cli import main
from cpg_lightning.data import Augmentation, CamVidDataModule
from cpg_lightning.learning_rate import rate_factor
from cpg_lightning.losses import CrossEntropyCPGLoss
from cpg_lightning.module import SegmentationModule

SCHEDULER = "torch.optim.lr_scheduler"


class Rates(Callback):
    """Records the learning rate of each step, and breaks off after some."""

    def __init__(self, broken_after=None):
        self.values, self.broken_after = [], broken_after

    def on_train_batch_start(self, trainer, *args):
        self.values.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.broken_after:
            trainer.save_checkpoint("broken.ckpt")
            raise KeyboardInterrupt


def fit(camvid, lr_schedule, warmup_steps=0, broken_after=None, ckpt_path=None, **options):
    """The rates of two epochs of three steps."""
    L.seed_everything(0)
    data = CamVidDataModule(camvid, Augmentation((24, 32)), batch_size=2, num_workers=0)
    schedule = {"lr_schedule": lr_schedule, "warmup_steps": warmup_steps}
    module = SegmentationModule(Tiny(11), CrossEntropyCPGLoss(), data.classes, optimizer=SGD, **schedule)
    rates = Rates(broken_after)
    trainer_of(callbacks=[rates], limit_val_batches=0, **options).fit(module, datamodule=data, ckpt_path=ckpt_path)
    return rates.values


class TestFactor:
    @pytest.mark.parametrize("decay", ["poly", "cosine", "constant"])
    def test_every_schedule_begins_with_the_linear_warm_up(self, decay):
        assert [rate_factor(decay, step, 20, 4, 0.9) for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]

    def test_the_cosine_is_half_way_down_in_the_middle_and_zero_at_the_end(self):
        factors = [rate_factor("cosine", step, 14, 4, 0.9) for step in range(4, 15)]
        assert factors == pytest.approx([(1 + math.cos(math.pi * step / 10)) / 2 for step in range(11)])
        assert (factors[5], factors[10]) == (pytest.approx(0.5), 0)

    def test_a_constant_rate_does_not_decay(self):
        assert {rate_factor("constant", step, 10, 2, 0.9) for step in range(2, 12)} == {1}


class TestTraining:
    @pytest.mark.parametrize(
        ("lr_schedule", "expected"),
        [
            ("cosine", [0.05, 0.1, *(0.05 * (1 + math.cos(math.pi * step / 4)) for step in range(4))]),
            ("constant", [0.05, 0.1, 0.1, 0.1, 0.1, 0.1]),
        ],
    )
    def test_the_rates_of_a_training(self, camvid, lr_schedule, expected):
        assert fit(camvid, lr_schedule, warmup_steps=2) == pytest.approx(expected)

    def test_a_constant_rate_needs_no_end_of_training(self, camvid):
        assert fit(camvid, "constant", broken_after=None, max_epochs=-1, max_time={"seconds": 0}) == []

    def test_a_scheduler_of_torch_is_stepped_in_every_step(self, camvid):
        halved = functools.partial(StepLR, step_size=2, gamma=0.5)
        assert fit(camvid, halved) == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025])

    @pytest.mark.parametrize(
        "lr_schedule",
        [
            "cosine",
            "constant",
            functools.partial(OneCycleLR, max_lr=0.3, total_steps=6),
            functools.partial(ExponentialLR, gamma=0.5),
        ],
        ids=str,
    )
    def test_a_resumed_training_has_the_same_rates(self, camvid, lr_schedule):
        whole = fit(camvid, lr_schedule)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit(camvid, lr_schedule, broken_after=2)
        assert fit(camvid, lr_schedule, ckpt_path="broken.ckpt") == whole[2:]


class TestErrors:
    def test_a_scheduler_of_torch_has_no_warm_up_of_this_package(self, camvid):
        with pytest.raises(
            ValueError, match=r"expected warmup_steps to be 0 with StepLR, got 3: .*--model.warmup_steps 0"
        ):
            fit(camvid, functools.partial(StepLR, step_size=2), warmup_steps=3)

    def test_a_scheduler_that_needs_a_score_is_refused(self, camvid):
        with pytest.raises(ValueError, match="got ReduceLROnPlateau, which needs a score; use poly, cosine, constant"):
            fit(camvid, ReduceLROnPlateau)

    def test_a_cycle_that_ends_before_the_training_is_refused_before_the_first_step(self, camvid):
        with pytest.raises(
            ValueError, match=r"at least 6 steps, the length of the training, got 5.*lr_schedule.total_steps 6"
        ):
            fit(camvid, functools.partial(OneCycleLR, max_lr=0.1, total_steps=5))


class TestCommand:
    @pytest.mark.parametrize("decay", ["poly", "cosine", "constant"])
    def test_a_schedule_is_given_by_its_name(self, camvid, decay):
        assert main([*ARGUMENTS, f"--model.lr_schedule={decay}"], run=False).model.lr_schedule == decay

    @pytest.mark.parametrize(
        "options",
        [
            [
                f"--model.lr_schedule={SCHEDULER}.OneCycleLR",
                "--model.lr_schedule.max_lr=0.1",
                "--model.lr_schedule.total_steps=9",
            ],
            [f"--model.lr_schedule={{class_path: {SCHEDULER}.OneCycleLR, init_args: {{max_lr: 0.1, total_steps: 9}}}}"],
        ],
        ids=["options", "mapping"],
    )
    def test_a_schedule_is_given_as_a_class_of_torch(self, camvid, options):
        cli = main([*ARGUMENTS, *options], run=False)
        optimizer = torch.optim.SGD(cli.model.parameters(), lr=1.0)
        schedule = cli.model.lr_schedule(optimizer)
        assert (type(schedule), schedule.total_steps) == (OneCycleLR, 9)
        assert schedule.get_last_lr() == pytest.approx([0.1 / 25])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["=cosin"], "Expected a typing.Literal['poly', 'cosine', 'constant']"),
            (["=os.system"], "os.system"),
            (["=torch.optim.SGD"], "torch.optim.SGD"),
            ([f"={SCHEDULER}.StepLR"], "the following arguments are required: step_size"),
            ([f"={SCHEDULER}.OneCycleLR", ".max_lr=1"], "You must define either total_steps OR"),
            (
                [f"={SCHEDULER}.ExponentialLR", ".gamma=.nan"],
                "expected model.lr_schedule.gamma to be a finite number, got nan",
            ),
        ],
    )
    def test_an_invalid_schedule_is_refused_before_a_folder_exists(self, camvid, monkeypatch, capsys, options, message):
        given = [f"--model.lr_schedule{option}" for option in options]
        assert message in fails(monkeypatch, capsys, "fit", *ARGUMENTS, *given)
        assert not Path("runs").exists()
