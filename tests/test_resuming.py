"""A training that was interrupted at any moment continues as if it had not been interrupted."""

import csv
import functools
import math
import os
import signal
import subprocess
import sys

import lightning as L
import pytest
import torch
from commands import ARGUMENTS
from conftest import write_camvid
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, StochasticWeightAveraging
from steps import in_two_processes
from tiny import SGD, Recording, Tiny, trainer_of

from cpg_lightning.callbacks import MetricsFile
from cpg_lightning.cli import main
from cpg_lightning.data import Augmentation, CamVidDataModule
from cpg_lightning.losses import CrossEntropyCPGLoss
from cpg_lightning.module import SegmentationModule

COSTS = "costs/"  # the begin of the names of what is measured
SLOW = pytest.mark.slow


class Killed(Callback):
    """Writes a checkpoint in a hook when a step was taken, as a ModelCheckpoint may, and breaks the training off."""

    only_watches = True

    def __init__(self, hook: str, step: int) -> None:
        self.hook, self.step = hook, step

    def act(self, hook, trainer):
        if hook == self.hook and trainer.global_step == self.step and not trainer.sanity_checking:
            trainer.save_checkpoint("killed.ckpt")
            raise KeyboardInterrupt

    def on_train_batch_end(self, trainer, *arguments):
        self.act("training batch", trainer)

    def on_validation_start(self, trainer, module):
        self.act("validation begins", trainer)

    def on_validation_batch_end(self, trainer, *arguments):
        self.act("validation batch", trainer)

    def on_validation_end(self, trainer, module):
        self.act("validation ends", trainer)

    def on_train_epoch_end(self, trainer, module):
        self.act("epoch ends", trainer)


def fit(
    camvid,
    folder,
    *callbacks,
    ckpt_path=None,
    num_workers=0,
    logger=False,
    optimizer=SGD,
    lr_schedule="poly",
    **options,
):
    """A training of three epochs that writes its metrics into a folder."""
    L.seed_everything(0)
    data = CamVidDataModule(camvid, Augmentation((24, 32)), batch_size=2, num_workers=num_workers)
    module = SegmentationModule(
        Tiny(11),
        CrossEntropyCPGLoss(0.5),
        data.classes,
        optimizer=optimizer,
        lr_schedule=lr_schedule,
        warmup_steps=2,
        boundary_metrics_every=2,
    )
    options = {"max_epochs": 3, "log_every_n_steps": 1, "default_root_dir": str(folder), "logger": logger, **options}
    trainer_of(callbacks=[MetricsFile(), *callbacks], **options).fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module


def metrics(folder):
    """The rows of ``metrics.csv`` without what is measured."""
    with open(f"{folder}/metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    kept = [{name: value for name, value in row.items() if value and not name.startswith(COSTS)} for row in rows]
    return [row for row in kept if row.keys() - {"epoch", "step"}]


def check_broken(camvid, hook, step, **options):
    """An interrupted and continued training has the same curves and weights as an uninterrupted one, also in its logger."""
    loggers = [Recording(), Recording()]
    whole = fit(camvid, "whole", **options, logger=loggers[0])
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(camvid, "broken", Killed(hook, step), **options)
    resumed = fit(camvid, "broken", ckpt_path="killed.ckpt", **options, logger=loggers[1])
    assert metrics("broken") == metrics("whole")
    assert loggers[1].rows == loggers[0].rows[len(loggers[0].rows) - len(loggers[1].rows) :]
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, msg=name)
    return metrics("whole")


ANY_STEP = [("training batch", step) for step in range(1, 10)]
WITH_VALIDATION = [
    (hook, step)
    for hook in ("validation begins", "validation batch", "validation ends", "epoch ends")
    for step in (3, 6, 9)
]
QUICK = [("training batch", 2), ("training batch", 3), ("validation batch", 6), ("validation ends", 9)]


@pytest.mark.parametrize(
    ("hook", "step"),
    [each if each in QUICK else pytest.param(*each, marks=SLOW) for each in ANY_STEP + WITH_VALIDATION],
)
def test_curves_and_weights_equal_those_of_an_uninterrupted_training(camvid, hook, step):
    rows = check_broken(camvid, hook, step)
    assert [row["step"] for row in rows if "val/mIoU" in row] == ["3", "6", "9"]


@pytest.mark.parametrize(("hook", "step"), [pytest.param(*each, marks=SLOW) for each in ANY_STEP])
def test_curves_and_weights_are_equal_with_workers(camvid, hook, step):
    check_broken(camvid, hook, step, num_workers=2)


@pytest.mark.parametrize("step", [2, pytest.param(3, marks=SLOW), pytest.param(4, marks=SLOW)])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"val_check_interval": 2}, [2, 5, 8]),
        pytest.param({"val_check_interval": 2, "check_val_every_n_epoch": None}, [2, 4, 6, 8], marks=SLOW),
        pytest.param({"check_val_every_n_epoch": 2}, [6], marks=SLOW),
        pytest.param({"limit_val_batches": 0}, [], marks=SLOW),
    ],
)
def test_curves_and_weights_are_equal_for_any_validation_interval(camvid, options, expected, step):
    rows = check_broken(camvid, "training batch", step, **options)
    assert [int(row["step"]) for row in rows if "val/mIoU" in row] == expected


def test_a_checkpoint_of_a_validation_that_was_pending_twice_is_continued(camvid):
    """What the first continuation leaves in the counters is not taken for another validation."""
    fit(camvid, "whole")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(camvid, "broken", Killed("validation begins", 3))
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(camvid, "broken", Killed("validation ends", 3), ckpt_path="killed.ckpt")
    fit(camvid, "broken", ckpt_path="killed.ckpt")
    assert metrics("broken") == metrics("whole")


class Kept(Callback):
    """Writes a checkpoint after each step."""

    def on_train_batch_end(self, trainer, *arguments):
        trainer.save_checkpoint(f"step={trainer.global_step}.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize(("num_workers", "steps"), [(0, "2, 3, 4"), (2, "2, 3, 4"), (0, "1, 5, 6, 7, 8, 9")])
def test_curves_and_weights_are_equal_in_two_processes(tmp_path, num_workers, steps):
    write_camvid(tmp_path / "camvid", train=12)
    result = in_two_processes(
        "import shutil\n"
        "from test_resuming import Kept, fit, metrics\n"
        f"options = dict(num_workers={num_workers}, **TWO)\n"
        "fit('camvid', 'whole', Kept(), **options)\n"
        "whole = metrics('whole')\n"
        f"for step in [{steps}]:\n"
        "    fit('camvid', 'whole', ckpt_path=f'step={step}.ckpt', **options)\n"  # which drops the later rows
        "    assert metrics('whole') == whole, step\n"
    )
    assert result.returncode == 0, result.stderr


class Kill(Callback):
    """Kills its process in the middle of a step."""

    only_watches = True

    def __init__(self, step: int) -> None:
        self.step = step

    def on_after_backward(self, trainer, module):
        if trainer.global_step + 1 == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


@SLOW
def test_curves_and_weights_are_equal_after_sigkill(camvid):
    every_step = ["filename=last-step", "every_n_train_steps=1", "enable_version_counter=false"]
    options = [*(f"--trainer.callbacks.{each}" for each in every_step), "--trainer.max_epochs=3"]
    arguments = ["fit", *ARGUMENTS, "--trainer.logger=false", "--trainer.callbacks+=ModelCheckpoint", *options]
    main([*arguments, "--output=whole"])
    kill = ["--trainer.callbacks+=test_resuming.Kill", "--trainer.callbacks.step=5", "--output=broken"]
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "cpg_lightning", *arguments, *kill]
    assert subprocess.run(command, env=settings, capture_output=True, check=False).returncode == -signal.SIGKILL
    main([*arguments, "--output=broken"])
    assert metrics("broken") == metrics("whole")
    assert len(metrics("whole")) == 9 + 3


class Rates(Callback):
    """Records the factor of the learning rate in each step."""

    def __init__(self):
        self.values = []

    def on_train_batch_start(self, trainer, *arguments):
        self.values.append(trainer.optimizers[0].param_groups[0]["lr"] / 0.1)


class TestAnotherEnd:
    """The learning rate decays from where it is to the new end."""

    def continued(self, camvid, step, ckpt_path=None, **options):
        rates = Rates()
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit(camvid, "broken", Killed("training batch", step), ckpt_path=ckpt_path, **options)
        fit(camvid, "broken", rates, ckpt_path="killed.ckpt", **{**options, "max_epochs": 5})
        return rates.values

    @pytest.mark.parametrize(
        ("lr_schedule", "shape"),
        [
            ("poly", lambda rest: rest**0.9),
            pytest.param("cosine", lambda rest: (1 - math.cos(math.pi * rest)) / 2, marks=SLOW),
            pytest.param("constant", lambda rest: 1, marks=SLOW),
        ],
    )
    def test_a_longer_training_starts_at_the_current_rate(self, camvid, lr_schedule, shape):
        factor = shape((9 - 4) / (9 - 2))
        expected = [factor * shape((15 - step) / (15 - 4)) for step in range(4, 15)]
        assert self.continued(camvid, 4, lr_schedule=lr_schedule) == pytest.approx(expected)

    def test_a_change_within_the_warm_up_equals_a_change_at_the_start(self, camvid):
        rates = Rates()
        fit(camvid, "whole", rates, max_epochs=5)
        assert self.continued(camvid, 1) == pytest.approx(rates.values[1:])

    def test_a_second_interruption_keeps_the_new_end(self, camvid):
        rates = self.continued(camvid, 4)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit(camvid, "broken", Killed("training batch", 4))
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit(camvid, "broken", Killed("training batch", 7), ckpt_path="killed.ckpt", max_epochs=5)
        again = Rates()
        fit(camvid, "broken", again, ckpt_path="killed.ckpt", max_epochs=5)
        assert again.values == pytest.approx(rates[3:])

    def test_a_finished_training_is_refused(self, camvid):
        with pytest.raises(ValueError, match="expected an unfinished training"):
            self.continued(camvid, 9)


class TestRefused:
    """What would not take effect in a training that continues."""

    @pytest.mark.parametrize(
        "average", [EMAWeightAveraging, pytest.param(lambda: StochasticWeightAveraging(0.01), marks=SLOW)]
    )
    def test_averaged_weights_need_their_callback(self, camvid, average):
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit(camvid, "broken", average(), Killed("training batch", 4))
        with pytest.raises(
            ValueError, match=r"expected the callback \w+Averaging, which averages .* add it .* --model\.weights"
        ):
            fit(camvid, "broken", ckpt_path="killed.ckpt")
        fit(camvid, "broken", average(), ckpt_path="killed.ckpt")

    @pytest.mark.parametrize(
        ("optimizer", "message"),
        [
            (functools.partial(torch.optim.SGD, lr=0.2), "initial_lr is 0.2 instead of 0.1"),
            (functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9), "momentum is 0.9 instead of 0"),
            (functools.partial(torch.optim.AdamW, lr=0.1), "got a AdamW with other options: .*dampening is none"),
        ],
    )
    def test_another_optimizer_and_other_options_are_refused(self, camvid, optimizer, message):
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit(camvid, "broken", Killed("training batch", 4))
        with pytest.raises(ValueError, match=message):
            fit(camvid, "broken", ckpt_path="killed.ckpt", optimizer=optimizer)

    def test_evaluation_needs_neither_the_callback_nor_the_optimizer(self, camvid):
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit(camvid, "broken", EMAWeightAveraging(), Killed("training batch", 4))
        data = CamVidDataModule(camvid, Augmentation((24, 32)), batch_size=2, num_workers=0)
        module = SegmentationModule(Tiny(11), CrossEntropyCPGLoss(), data.classes)
        (scores,) = trainer_of().validate(module, datamodule=data, ckpt_path="killed.ckpt", verbose=False)
        assert scores["val/mIoU"] > 0
