"""Where a progress bar cannot be drawn, lines tell how far a run is."""

import re

import pytest
from lightning.pytorch.callbacks import Callback
from steps import counted, module_of
from tiny import trainer_of

from cpg_lightning.callbacks import ProgressLines, progress_lines, stopwatch


class Clock:
    """A clock that goes on only when told."""

    now = 1000.0

    def monotonic(self):
        return self.now

    perf_counter = monotonic


class Slow(Callback):
    """A step takes 2.5 seconds, a validation batch 0.5, a batch of an evaluation alone 5."""

    def __init__(self, clock):
        self.clock = clock

    def on_train_batch_start(self, *arguments):
        self.clock.now += 2.5

    def on_validation_batch_start(self, trainer, *arguments):
        self.clock.now += 0.5 if trainer.state.fn == "fit" else 5

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress_lines, "time", clock)
    monkeypatch.setattr(stopwatch, "time", clock)
    return clock


def lines_of(capsys):
    return capsys.readouterr().out.splitlines()


def trainer_with(clock, **options):
    settings = {
        "enable_progress_bar": True,
        "callbacks": [ProgressLines(minutes=0.1), Slow(clock)],
        "log_every_n_steps": 1,
    }
    return trainer_of(**{**settings, **options})


def test_each_validation_prints_a_line_and_one_comes_every_few_minutes(batches, clock, capsys):
    trainer_with(clock).fit(module_of(), batches, batches)
    lines = [re.sub(r"(loss|mIoU) \d+\.\d{4}\b", r"\1 0.1234", line) for line in lines_of(capsys)]
    assert lines == [
        "Epoch 0/1, step 3/8: train/loss 0.1234, 0.8 images/s, 0:00:12 left",
        "Epoch 0/1, step 4/8: train/loss 0.1234, val/loss 0.1234, val/mIoU 0.1234, 0.8 images/s, 0:00:12 left",
        "Epoch 1/1, step 7/8: train/loss 0.1234, val/loss 0.1234, val/mIoU 0.1234, 0.8 images/s, 0:00:03 left",
        "Epoch 1/1, step 8/8: train/loss 0.1234, val/loss 0.1234, val/mIoU 0.1234, 0.8 images/s, 0:00:00 left",
    ]


def test_a_run_limited_by_steps_shows_no_last_epoch(batches, clock, capsys):
    trainer_with(clock, max_epochs=-1, max_steps=6).fit(module_of(), batches, batches)
    lines = lines_of(capsys)
    assert lines[1].startswith("Epoch 0, step 4/6: train/loss")
    assert lines[1].endswith("images/s, 0:00:06 left")


@pytest.mark.parametrize(("function", "word"), [("validate", "Validation"), ("test", "Testing")])
def test_a_long_evaluation_prints_its_batch(batches, clock, capsys, function, word):
    trainer = trainer_with(clock)
    getattr(trainer, function)(module_of(), batches, verbose=False)
    assert lines_of(capsys) == [f"{word}: batch 2/4", f"{word}: batch 4/4"]


def test_lines_replace_the_progress_bar(batches, capsys):
    bar = ProgressLines()
    trainer = trainer_of(enable_progress_bar=True, callbacks=[bar])
    assert trainer.progress_bar_callback is bar
    trainer.fit(module_of(), batches, batches)
    assert len(lines_of(capsys)) == 2


def test_other_processes_print_nothing(batches, clock, capsys):
    class Second(ProgressLines):
        def setup(self, trainer, module, stage):
            super().setup(trainer, module, stage)
            self.disable()

    trainer_with(clock, callbacks=[Slow(clock), Second()]).fit(module_of(), batches, batches)
    assert lines_of(capsys) == []


def test_nothing_is_read_from_the_device_between_lines(batches):
    with_lines = counted(batches, ProgressLines(), enable_progress_bar=True)
    assert with_lines.steps == counted(batches).steps


def test_a_negative_time_is_refused():
    with pytest.raises(ValueError, match="expected minutes to be 0 or more, got -1"):
        ProgressLines(minutes=-1)
