"""Costs of a training are those of its steps alone, and measuring them makes no step wait for the device."""

import csv

import pytest
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.profilers import SimpleProfiler
from steps import counted, in_two_processes, module_of
from tiny import Broken, trainer_of
from torch.utils.data import DataLoader

from cpg_lightning.callbacks import Costs, MetricsFile, costs, stopwatch

LOADING, STEP, VALIDATION, SAVING, EPOCH_START = 1.0, 3.0, 100.0, 50.0, 20.0  # seconds on the clock of these tests


class Clock:
    """A clock that goes on only when told."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


class Slow(Callback):
    """Everything around a step takes its time."""

    def __init__(self, clock):
        self.clock = clock

    def on_train_epoch_start(self, *arguments):
        self.clock.now += EPOCH_START

    def on_train_batch_start(self, *arguments):
        self.clock.now += STEP

    def on_validation_batch_end(self, *arguments):
        self.clock.now += VALIDATION

    def on_save_checkpoint(self, *arguments):
        self.clock.now += SAVING


class SlowBatches(list):
    """Batches that take their time to be loaded."""

    def __getitem__(self, index):
        self.clock.now += LOADING
        return super().__getitem__(index)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(costs, "time", clock)
    monkeypatch.setattr(stopwatch, "time", clock)
    return clock


@pytest.fixture
def slow(batches, clock):
    """Four batches of two images."""
    loaded = SlowBatches(batches.dataset)
    loaded.clock = clock
    return DataLoader(loaded, batch_size=None)


def rows_of():
    with open("metrics.csv", newline="") as file:
        return [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]


def column(name):
    return {row["step"]: row[name] for row in rows_of() if name in row}


@pytest.mark.parametrize("every", [1, 3])
def test_images_a_second_are_of_the_steps_alone(slow, batches, clock, every):
    kept = ModelCheckpoint(every_n_train_steps=1)
    callbacks = [MetricsFile("."), Costs(), Slow(clock), kept]
    trainer_of(
        max_epochs=3, log_every_n_steps=every, enable_checkpointing=True, callbacks=callbacks, default_root_dir="run"
    ).fit(module_of(), slow, batches)
    expected = list(range(2 if every == 1 else 3, 13, every))
    assert column("costs/images_per_second") == dict.fromkeys(expected, 2 / (LOADING + STEP))
    assert column("costs/data_seconds_per_step") == dict.fromkeys(expected, LOADING)
    assert set(column("costs/parameters").values()) == {2 * (3 * 16 + 1) * 5}


def test_the_time_of_an_epoch_includes_loading_and_validation(slow, batches, clock):
    trainer_of(callbacks=[MetricsFile(), Costs(), Slow(clock)]).fit(module_of(), slow, batches)
    seconds = 4 * (LOADING + STEP + VALIDATION) + EPOCH_START
    assert column("costs/epoch_seconds") == {4: seconds, 8: seconds}


def test_accumulated_batches_are_timed_as_one_step(slow, clock):
    callbacks = [MetricsFile(), Costs(), Slow(clock)]
    trainer_of(accumulate_grad_batches=2, log_every_n_steps=1, callbacks=callbacks).fit(module_of(), slow)
    assert column("costs/data_seconds_per_step") == dict.fromkeys([2, 3, 4], 2 * LOADING)
    assert column("costs/images_per_second") == dict.fromkeys([2, 3, 4], 2 / (LOADING + STEP))


def test_the_summary_includes_the_time_before_a_resume(slow, clock):
    kept = ModelCheckpoint(dirpath=".", filename="last", save_on_train_epoch_end=True, enable_version_counter=False)
    options = {"max_epochs": 4, "log_every_n_steps": 1, "enable_checkpointing": True}
    with pytest.raises(SystemExit):
        trainer_of(**options, callbacks=[Costs(), Slow(clock), kept, Broken(2)]).fit(module_of(), slow)
    measured = Costs()
    trainer_of(**options, callbacks=[measured, Slow(clock), kept]).fit(module_of(), slow, ckpt_path="last.ckpt")
    assert measured.totals["steps"] == 7 + 7  # without the first of each start
    assert measured.summary == {
        "parameters": 490,
        "training_seconds": 14 * (LOADING + STEP),
        "images_per_second": 2 / (LOADING + STEP),
        "data_seconds_per_step": LOADING,
    }


def test_a_profiler_of_the_user_is_kept(batches):
    profiler = SimpleProfiler()
    trainer = trainer_of(max_epochs=1, log_every_n_steps=1, callbacks=[MetricsFile(), Costs()], profiler=profiler)
    trainer.fit(module_of(), batches)
    assert trainer.profiler is profiler
    assert "costs/images_per_second" in set().union(*rows_of())
    assert "costs/data_seconds_per_step" not in set().union(*rows_of())


def test_the_gradient_norm_is_that_before_clipping(batches):
    class Norms(Callback):
        def on_after_backward(self, trainer, module):
            squares = [parameter.grad.double().square().sum() for parameter in module.parameters()]
            norms.append(sum(squares).sqrt().item())

    norms = []
    callbacks = [MetricsFile(), Costs(), Norms()]
    trainer_of(gradient_clip_val=0.01, log_every_n_steps=1, callbacks=callbacks).fit(module_of(), batches)
    assert min(norms) > 0.02
    assert list(column("train/gradient_norm").values()) == pytest.approx(norms)


def test_no_step_waits_for_the_device(batches):
    without, measured = (counted(batches, *added, log_every_n_steps=2) for added in ([], [Costs()]))
    assert measured.steps == without.steps
    added = [more - less for more, less in zip(measured.launches, without.launches, strict=True)]
    assert added[0] == added[2] == 0
    assert added[1] <= 12  # the norm of each of four gradients and of all, and what is logged


@pytest.mark.slow
def test_two_processes_count_the_images_of_both(batches):
    ended = in_two_processes(
        "from cpg_lightning.callbacks import Costs, MetricsFile\n"
        "class Told(Costs):\n"
        "    def on_train_end(self, *arguments):\n"
        "        print('images', self.totals['images'])\n"
        "callbacks = [Told(), MetricsFile()]\n"
        "trainer_of(**TWO, log_every_n_steps=1, callbacks=callbacks).fit(module_of(), loader_of(), loader_of())"
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("images 28.0") == 2  # in each process: 7 batches of two images, in two processes
    assert "sync_dist" not in ended.stderr
    assert list(column("costs/epoch_seconds")) == [4, 8]
