"""A training that diverges ends at once and says where, and none of its checkpoints is broken."""

from pathlib import Path

import pytest
import torch
from commands import ARGUMENTS, fails
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from PIL import Image
from steps import counted, in_two_processes, loader_of, module_of
from tiny import trainer_of

from cpg_lightning.callbacks import BestCheckpoint, TerminateOnNonFinite
from cpg_lightning.cli import main
from cpg_lightning.data import Augmentation, CamVidDataModule
from cpg_lightning.networks.weights import non_finite
from cpg_lightning.runs.folder import RunFolder


class Poisoned(Callback):
    """Spoils something in the module when a step has computed its gradients, or when it is over."""

    def __init__(self, step, spoil, hook="on_after_backward"):
        self.step, self.spoil = step, spoil
        setattr(self, hook, self.act)

    def act(self, trainer, module, *arguments):
        if trainer.global_step + (len(arguments) == 0) == self.step:
            self.spoil(module)


def infinite_gradient(module):
    module.network.out.weight.grad[0, 0, 0, 0] = torch.inf


def undefined_weight(module):
    with torch.no_grad():
        module.network.out.weight[0, 0, 0, 0] = torch.nan


def undefined_buffer(module):
    module.mean[0] = torch.nan


@pytest.fixture
def named():
    """Four batches of two images, with names of their own."""
    loader = loader_of()
    for index, batch in enumerate(loader.dataset):
        batch["name"] = [f"image{2 * index}", f"image{2 * index + 1}"]
    return loader


def fitted(loader, *callbacks, module=None, **options):
    trainer = trainer_of(**{"log_every_n_steps": 3, "callbacks": list(callbacks), **options})
    trainer.fit(module or module_of(), loader, loader)
    return trainer


def test_a_loss_that_is_not_finite_ends_the_training_within_the_logged_steps(named):
    poison = Poisoned(1, undefined_weight, "on_train_batch_end")
    with pytest.raises(ValueError) as end:
        trainer = trainer_of(log_every_n_steps=3, callbacks=[TerminateOnNonFinite(), poison])
        trainer.fit(module_of(), named)
    assert trainer.global_step == 3
    assert str(end.value) == (
        "expected a finite loss, got nan in step 2, epoch 0, learning rate 0.0886762. The training has stopped; earlier "
        "checkpoints are complete. Use a lower learning rate (--model.optimizer.lr), more warm-up "
        "(--model.warmup_steps) or --trainer.gradient_clip_val. The images since the last check: image0, image1, image2, "
        "image3, image4, image5."
    )


def test_the_checked_steps_can_be_chosen(named):
    poison = Poisoned(1, undefined_weight, "on_train_batch_end")
    trainer = trainer_of(log_every_n_steps=50, callbacks=[TerminateOnNonFinite(every_n_steps=2), poison])
    with pytest.raises(ValueError, match="got nan in step 2, epoch 0"):
        trainer.fit(module_of(), named)
    assert trainer.global_step == 2


def test_each_part_of_a_step_is_checked(named):
    poison = Poisoned(1, undefined_weight, "on_train_batch_start")
    with pytest.raises(ValueError, match=r"got nan in step 2, .* image4, image5, image6, image7"):
        fitted(named, TerminateOnNonFinite(every_n_steps=2), poison, accumulate_grad_batches=2)


def test_a_short_training_is_checked_at_its_end(named):
    poison = Poisoned(4, undefined_weight, "on_train_batch_end")
    with pytest.raises(
        ValueError, match=r"expected finite weights, got 1 .* after step 4, epoch 0.*: network\.out\.weight"
    ):
        fitted(named, TerminateOnNonFinite(every_n_steps=50), poison, max_epochs=1)


def test_gradients_that_are_not_finite_end_the_training(named):
    with pytest.raises(ValueError, match="expected finite gradients, got a largest gradient of inf in step 3, epoch 0"):
        fitted(named, TerminateOnNonFinite(), Poisoned(3, infinite_gradient), gradient_clip_val=1.0)


def test_a_finite_training_is_not_ended(named):
    expected, found = module_of(), module_of()
    fitted(named, module=expected)
    fitted(named, TerminateOnNonFinite(), module=found)
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)


class TestScaled:
    def test_a_step_that_the_scaler_skips_does_not_end_the_training(self, named):
        scaled = MixedPrecision("16-mixed", "cpu")
        fitted(named, TerminateOnNonFinite(), Poisoned(3, infinite_gradient), max_epochs=1, plugins=[scaled])
        assert scaled.scaler.get_scale() == 32768

    def test_a_scale_below_one_ends_the_training(self, named):
        scaled = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1.0))
        with pytest.raises(ValueError, match=r"got a scale of the loss below 1, 0\.5, in step 3, epoch 0"):
            fitted(named, TerminateOnNonFinite(), Poisoned(3, infinite_gradient), plugins=[scaled])


class TestCheckpoints:
    @pytest.mark.parametrize("spoil", [undefined_weight, undefined_buffer])
    def test_no_checkpoint_with_non_finite_weights_is_written(self, named, spoil):
        every = ModelCheckpoint(dirpath="kept", save_top_k=-1, every_n_train_steps=1)
        poison = Poisoned(3, spoil, "on_train_batch_end")
        watched = TerminateOnNonFinite(every_n_steps=50)
        with pytest.raises(ValueError, match="expected finite weights, got 1 that are infinite or NaN after step 3"):
            fitted(named, watched, poison, every, enable_checkpointing=True)
        paths = sorted(Path("kept").iterdir())
        assert [path.name for path in paths] == ["epoch=0-step=1.ckpt", "epoch=0-step=2.ckpt"]
        for path in paths:
            assert non_finite(torch.load(path, weights_only=True)["state_dict"]) == []

    def test_a_buffer_that_was_infinite_at_the_start_is_accepted(self, named):
        module = module_of()
        module.network.register_buffer("causal", torch.tensor([0.0, -torch.inf]))
        last = ModelCheckpoint(dirpath="kept", filename="last")
        fitted(named, TerminateOnNonFinite(), last, module=module, enable_checkpointing=True)
        assert Path("kept/last.ckpt").exists()


class TestBest:
    def scored(self, named, *scores, kind=BestCheckpoint):
        class Scores(Callback):
            def on_validation_epoch_end(self, trainer, module):
                module.log("score", torch.tensor(scores[trainer.current_epoch]))

        best = kind(dirpath="kept", filename="{epoch}", monitor="score", mode="max", save_top_k=1)
        fitted(named, Scores(), best, max_epochs=len(scores), enable_checkpointing=True)
        return best

    @pytest.mark.filterwarnings("ignore:.*is not kept as one of the best")
    @pytest.mark.parametrize("position", [0, 1, 2])
    def test_a_score_of_nan_is_never_the_best(self, named, position):
        scores = [0.1, 0.2]
        scores.insert(position, float("nan"))
        best = self.scored(named, *scores)
        assert Path(best.best_model_path).name == f"epoch={scores.index(0.2)}.ckpt"
        assert [path.name for path in Path("kept").iterdir()] == [Path(best.best_model_path).name]

    def test_a_score_of_nan_gives_a_warning(self, named):
        with pytest.warns(UserWarning, match="score is nan after step 4: this checkpoint is not kept"):
            best = self.scored(named, float("nan"))
        assert best.best_model_path == ""

    def test_lightnings_own_checkpoint_would_keep_a_score_of_nan(self, named):
        assert Path(self.scored(named, float("nan"), kind=ModelCheckpoint).best_model_path).exists()


def test_only_checked_steps_wait_and_launch(batches):
    without, watched = (counted(batches, *added, log_every_n_steps=2) for added in ([], [TerminateOnNonFinite()]))
    added = [more.total() - less.total() for more, less in zip(watched.steps, without.steps, strict=True)]
    assert added == [0, 1, 0]
    added = [more - less for more, less in zip(watched.launches, without.launches, strict=True)]
    assert added[0] == added[2] == 0
    assert added[1] <= 8  # the largest of each of four gradients, and of all; the values in one tensor


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_one_value_among_many_is_found(dtype, value):
    weights = {"whole": torch.full((1000,), 60000.0, dtype=dtype), "count": torch.tensor(1), "none": torch.zeros(0)}
    assert non_finite(weights) == []
    weights["broken"] = torch.randn(10_000).to(dtype)
    weights["broken"][1234] = value
    assert non_finite(weights) == ["broken"]


def test_an_interval_of_0_steps_is_refused():
    with pytest.raises(ValueError, match="expected every_n_steps to be 1 or more, got 0"):
        TerminateOnNonFinite(every_n_steps=0)


@pytest.mark.slow
def test_all_processes_end_when_one_has_a_loss_that_is_not_finite():
    ended = in_two_processes(
        "from cpg_lightning.callbacks import TerminateOnNonFinite\n"
        "class Spoiled(TerminateOnNonFinite):\n"
        "    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):\n"
        "        if trainer.global_rank == 1 and trainer.global_step == 2:\n"
        "            outputs = {'loss': outputs['loss'] * torch.nan}\n"
        "        super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)\n"
        "trainer_of(**TWO, log_every_n_steps=2, callbacks=[Spoiled()]).fit(module_of(), loader_of())"
    )
    assert ended.returncode == 1
    assert "expected a finite loss, got nan in step 2, epoch 0" in ended.stderr


class TestNothingLabelled:
    """Labels whose pixels are all ignored."""

    def without_labels(self, camvid, split):
        for path in (camvid / f"{split}annot").iterdir():
            with Image.open(path) as label:
                Image.new("L", label.size, 11).save(path)

    def test_a_training_without_labelled_pixels_is_an_error(self, camvid, monkeypatch, capsys):
        self.without_labels(camvid, "train")
        shown = fails(monkeypatch, capsys, "fit", *ARGUMENTS, "--trainer.logger=false", "--output=first")
        assert (
            "expected labelled pixels, got none in 6 labels: each pixel has a value that is ignored, e.g. in" in shown
        )
        assert not Path("first").exists()

    def test_one_labelled_image_is_enough(self, camvid):
        data = CamVidDataModule(camvid, Augmentation((24, 32)), batch_size=2, num_workers=0)
        last = camvid / "trainannot" / "train_005.png"
        label = last.read_bytes()
        self.without_labels(camvid, "train")
        last.write_bytes(label)
        data.setup("fit")
        assert len(data.datasets["train"]) == 6

    def test_a_validation_without_labels_gives_a_warning_and_is_never_the_best(self, camvid):
        self.without_labels(camvid, "val")
        with pytest.warns(UserWarning, match="val/mIoU is nan .* is not kept as one of the best"):
            main(["fit", *ARGUMENTS, "--trainer.logger=false", "--trainer.max_epochs=1", "--output=first"])
        assert [path.name for path in Path("first/checkpoints").iterdir()] == ["last.ckpt"]
        assert RunFolder("first").summary()["best"] == {}
