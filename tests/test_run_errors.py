"""What a run says that needs more memory than there is."""

import pytest
from commands import ARGUMENTS, fails

from cpg_lightning.data.steps import Division
from cpg_lightning.run_errors import smaller_batches

HUNGRY = [*ARGUMENTS, "--model.network=tiny.Hungry", "--trainer.limit_val_batches=1"]


@pytest.mark.parametrize(("cuda", "words"), [("true", "CUDA out of memory"), ("false", "can't allocate memory")])
def test_too_little_memory_in_training_names_the_option_that_keeps_the_step(camvid, monkeypatch, capsys, cuda, words):
    message = fails(monkeypatch, capsys, "fit", *HUNGRY, f"--model.network.cuda={cuda}")
    assert (
        "a training step of 2 images, 2 at a time on a device: set --trainer.accumulate_grad_batches 2, 1 at a"
        in message
    )
    assert words in message
    assert "Traceback" not in message


def test_too_little_memory_in_evaluation_names_the_options_of_evaluation(camvid, monkeypatch, capsys):
    arguments = [*HUNGRY, "--model.network.hungry_in_training=false"]
    message = fails(monkeypatch, capsys, "fit", *arguments, "--data.eval_batch_size=3")
    assert "out of memory in evaluation, 3 images at a time: set --data.eval_batch_size 1" in message
    message = fails(monkeypatch, capsys, "fit", *arguments)
    assert "use sliding windows with --model.inference Inference --model.inference.window" in message


def test_another_error_is_not_changed(camvid, monkeypatch, capsys):
    with pytest.raises(RuntimeError, match="no such thing"):
        fails(monkeypatch, capsys, "fit", *ARGUMENTS, "--model.network=tiny.Failing")


@pytest.mark.parametrize(
    ("division", "interval", "smallest", "flags"),
    [
        (Division(12), 1.0, 1, "--trainer.accumulate_grad_batches 2, 6 at a time"),
        (Division(12, 2, 2), None, 1, "--trainer.accumulate_grad_batches 6, 1 at a time"),
        (
            Division(16, 1, 2),
            100,
            1,
            "--trainer.accumulate_grad_batches 4 --trainer.val_check_interval 200, 4 at a time",
        ),
        (Division(8, 2), 1.0, 2, "--trainer.accumulate_grad_batches 2, 2 at a time"),
        (Division(4, 2), 1.0, 2, "a smaller --data.augmentation.crop_size"),
        (Division(4, 4), 1.0, 1, "a smaller --data.augmentation.crop_size"),
    ],
)
def test_proposed_batch_sizes_divide_the_images_of_a_step(division, interval, smallest, flags):
    assert f": set {flags}" in smaller_batches(division, interval, smallest)
