"""The LightningModule: loss, metrics, schedule, checkpoints and resuming."""

import csv
import functools
import math
import os
from dataclasses import replace

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from PIL import Image
from tiny import SGD, Tiny, trainer_of

from cpg_lightning.callbacks import EvaluationReport, PredictionWriter
from cpg_lightning.data import Augmentation, CamVidDataModule, ClassInfo
from cpg_lightning.inference import Inference
from cpg_lightning.losses import CrossEntropyCPGLoss
from cpg_lightning.metrics import BoundaryF1Score, TrimapJaccardIndex, boundary_iou
from cpg_lightning.module import SegmentationModule
from cpg_lightning.networks import LRASPP


def module_of(network=None, **options):
    torch.manual_seed(0)
    options = {"classes": CamVidDataModule.classes, "optimizer": SGD, **options}
    return SegmentationModule(network or Tiny(11), CrossEntropyCPGLoss(0.5), **options)


@pytest.fixture
def data(camvid):
    L.seed_everything(0)
    return CamVidDataModule(camvid, Augmentation((24, 32)), batch_size=2, num_workers=0)


class Rates(Callback):
    """Records the learning rate of each step."""

    def __init__(self):
        self.values = []

    def on_train_batch_start(self, trainer, *args):
        self.values.append(trainer.optimizers[0].param_groups[0]["lr"])


class Broken(Callback):
    """Breaks training off after some steps."""

    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.steps:
            trainer.save_checkpoint("broken.ckpt")
            raise KeyboardInterrupt


class TestLoss:
    def test_images_are_normalised_by_the_networks_mean_and_std(self):
        class Colours(Tiny):
            mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)

            def forward(self, images):
                return {"out": images}

        images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (Colours.mean, Colours.std))
        module = SegmentationModule(Colours(3), CrossEntropyCPGLoss(), ClassInfo.numbered(3))
        torch.testing.assert_close(module(images)["out"], (images / 255 - mean) / std)

    def test_the_auxiliary_output_adds_its_weighted_cross_entropy(self, data):
        still = functools.partial(torch.optim.SGD, lr=0.0)
        module = SegmentationModule(
            Tiny(11, aux_loss=True), CrossEntropyCPGLoss(0.5), data.classes, optimizer=still, aux_weight=0.25
        )
        trainer = trainer_of(max_steps=1, limit_val_batches=0)
        trainer.fit(module, datamodule=data)
        batch = next(iter(data.train_dataloader()))  # the same again: the first of the first epoch
        logits = module(batch["image"])
        aux = F.cross_entropy(
            F.interpolate(logits["aux"], batch["mask"].shape[-2:], mode="bilinear"), batch["mask"], ignore_index=255
        )
        main = CrossEntropyCPGLoss(0.5)(logits["out"], batch["mask"])
        torch.testing.assert_close(trainer.callback_metrics["train/aux"], aux)
        torch.testing.assert_close(trainer.callback_metrics["train/loss"], main + 0.25 * aux)

    @pytest.mark.parametrize("every", [1, 2])
    def test_an_auxiliary_output_of_none_is_ignored(self, data, every):
        class Sometimes(Tiny):
            calls = 0

            def forward(self, images):
                self.calls += 1
                logits = super().forward(images)
                return {**logits, "aux": None} if self.calls % every == 0 else logits

        trainer = trainer_of(max_steps=3, limit_val_batches=0)
        trainer.fit(module_of(Sometimes(11, aux_loss=every > 1)), datamodule=data)
        assert trainer.global_step == 3
        assert ("train/aux" in trainer.callback_metrics) == (every > 1)

    def test_logged_values_have_the_standard_keys(self, data):
        trainer = trainer_of()
        trainer.fit(module_of(), datamodule=data)
        logged = set(trainer.callback_metrics)
        assert {"train/loss", "train/ce", "train/cpg", "lr", "val/mIoU", "val/IoU/sky", "val/IoU/bicyclist"} <= logged
        assert sum(name.startswith("val/IoU/") for name in logged) == 11

    def test_with_more_than_40_classes_no_class_is_logged(self, data):
        data.classes = ClassInfo.numbered(41)
        module = module_of(Tiny(41), classes=data.classes)
        trainer = trainer_of(max_epochs=1)
        trainer.fit(module, datamodule=data)
        assert "val/mIoU" in trainer.callback_metrics
        assert not any(name.startswith("val/IoU") for name in trainer.callback_metrics)


class TestEvaluation:
    def test_every_validated_score_can_be_monitored(self, data):
        trainer = trainer_of(callbacks=[EarlyStopping(monitor="val/boundary_IoU", mode="max", patience=3)])
        module = module_of(boundary_metrics_every=1)
        trainer.fit(module, datamodule=data)
        assert set(module.validation_scores()) == {name for name in trainer.callback_metrics if name.startswith("val/")}

    @pytest.mark.parametrize("image_size", [None, (20, 28)])
    def test_probabilities_are_those_of_the_predicted_classes(self, camvid, image_size):
        data = CamVidDataModule(camvid, Augmentation((24, 32)), image_size=image_size, num_workers=0)
        classes, probabilities = (
            torch.cat(trainer_of().predict(module_of(predict_probabilities=told), datamodule=data))
            for told in (False, True)
        )
        assert torch.equal(probabilities.argmax(dim=1), classes)
        torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(classes.shape))

    def test_iou_is_computed_at_the_size_of_the_label(self, camvid):
        data = CamVidDataModule(camvid, Augmentation((24, 32)), image_size=(20, 28), num_workers=0)
        module = module_of().eval()
        (result,) = trainer_of().validate(module, datamodule=data, verbose=False)
        union, intersection = torch.zeros(11), torch.zeros(11)
        for batch in data.val_dataloader():
            logits = F.interpolate(module(batch["image"])["out"], batch["mask"].shape[-2:], mode="bilinear")
            prediction, mask = logits.argmax(1), batch["mask"]
            assert mask.shape[-2:] == (36, 48)
            for c in range(11):
                hit, true = (prediction == c) & (mask != 255), mask == c
                intersection[c] += (hit & true).sum()
                union[c] += (hit | true).sum()
        expected = (intersection / union)[union > 0].mean()
        assert result["val/mIoU"] == pytest.approx(expected.item(), rel=1e-6)

    def test_test_scores_have_the_prefix_test(self, data):
        (result,) = trainer_of().test(module_of(), datamodule=data, verbose=False)
        assert "test/mIoU" in result

    def test_predictions_are_classes_at_the_labels_size(self, data):
        predictions = trainer_of().predict(module_of(), datamodule=data)
        assert [prediction.shape for prediction in predictions] == [(1, 36, 48)] * 2


class TestSchedule:
    def rates(self, data, steps, warmup_steps, **options):
        rates = Rates()
        module = module_of(warmup_steps=warmup_steps)
        trainer = trainer_of(callbacks=[rates], limit_val_batches=0, **options)
        trainer.fit(module, datamodule=data)
        assert len(rates.values) == steps
        return rates.values, trainer.optimizers[0].param_groups[0]["lr"]

    @pytest.mark.parametrize(
        "options", [{"max_epochs": 3}, {"max_steps": 9, "max_epochs": -1}, {"max_steps": 9, "max_epochs": 50}]
    )
    def test_the_rate_warms_up_and_decays_to_zero_for_any_kind_of_end(self, data, options):
        values, last = self.rates(data, 9, 2, **options)
        expected = [0.05, 0.1, *(0.1 * ((9 - step) / 7) ** 0.9 for step in range(2, 9))]
        assert values == pytest.approx(expected)
        assert last == 0

    def test_without_warm_up_the_first_step_has_the_full_rate(self, data):
        values, last = self.rates(data, 3, 0, max_epochs=1)
        assert values == pytest.approx([0.1 * (1 - step / 3) ** 0.9 for step in range(3)])
        assert last == 0

    def test_accumulated_batches_are_one_step(self, data):
        values, last = self.rates(data, 12, 0, max_epochs=2, accumulate_grad_batches=2)
        assert values == pytest.approx([0.1 * (1 - step // 2 / 6) ** 0.9 for step in range(12)])
        assert last == 0

    def test_training_without_an_end_is_refused(self, data):
        with pytest.raises(ValueError, match="set max_epochs or max_steps"):
            trainer_of(max_epochs=-1).fit(module_of(warmup_steps=100), datamodule=data)

    def test_a_warm_up_longer_than_the_training_gives_a_warning(self, data):
        with pytest.warns(UserWarning, match="warm-up of 7 steps is not shorter than the training of 6"):
            trainer_of(limit_val_batches=0).fit(module_of(warmup_steps=7), datamodule=data)

    def test_the_optimizer_is_adamw_where_none_is_given(self, data):
        trainer = trainer_of(max_epochs=1)
        trainer.fit(SegmentationModule(Tiny(11), CrossEntropyCPGLoss(), data.classes), datamodule=data)
        assert type(trainer.optimizers[0]) is torch.optim.AdamW


class TestCheckpoints:
    def test_a_checkpoint_of_a_module_built_in_python_has_its_classes_and_weights(self, data):
        module = module_of(image_size=(24, 32))
        trainer = trainer_of(max_epochs=1)
        trainer.fit(module, datamodule=data)
        trainer.save_checkpoint("python.ckpt")
        assert "network" not in torch.load("python.ckpt", weights_only=True)["hyper_parameters"]
        loaded = SegmentationModule.load_from_checkpoint("python.ckpt", network=Tiny(11))
        assert (loaded.classes, loaded.image_size) == (data.classes, (24, 32))
        for name, value in module.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value)

    @pytest.mark.parametrize(
        ("steps", "num_workers"),
        [(2, 0), (3, 1), (4, 0), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((2, 1), (3, 0), (4, 1)))],
    )
    def test_a_resumed_training_equals_an_uninterrupted_one(self, camvid, steps, num_workers):
        def fit(ckpt_path=None, **options):
            L.seed_everything(0)
            data = CamVidDataModule(camvid, Augmentation((24, 32)), batch_size=2, num_workers=num_workers)
            module, rates = module_of(warmup_steps=1), Rates()
            options["callbacks"] = [rates, EvaluationReport(), *options.get("callbacks", [])]
            trainer_of(max_epochs=2, **options).fit(module, datamodule=data, ckpt_path=ckpt_path)
            return module, rates.values

        whole, rates = fit()
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit(callbacks=[Broken(steps)])
        resumed, rest = fit("broken.ckpt")
        assert rest == pytest.approx(rates[steps:])
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(resumed.state_dict()[name], value, msg=name)


class TestErrors:
    def test_a_criterion_with_another_ignore_index_is_refused(self):
        with pytest.raises(ValueError, match=r"expected a criterion with ignore_index=255.*, got 0"):
            SegmentationModule(Tiny(11), CrossEntropyCPGLoss(ignore_index=0), CamVidDataModule.classes)

    def test_a_network_of_another_number_of_classes_is_refused(self, data):
        with pytest.raises(ValueError, match="expected the network to have the data's 11 classes, got 5"):
            trainer_of().fit(module_of(Tiny(5)), datamodule=data)

    @pytest.mark.parametrize("number", [-1, math.nan, math.inf])
    @pytest.mark.parametrize("argument", ["warmup_steps", "poly_power", "aux_weight"])
    def test_numbers_out_of_range_are_refused(self, argument, number):
        with pytest.raises(ValueError, match=f"expected {argument} to be 0 or more and finite, got {number}"):
            module_of(**{argument: number})

    def test_a_network_of_one_size_names_it_before_training(self, camvid):
        class Fixed(Tiny):
            fixed_size = (24, 32)

        def fit(inference=None, **sizes):
            data = CamVidDataModule(camvid, batch_size=2, num_workers=0, **sizes)
            module = module_of(Fixed(11), image_size=data.image_size, inference=inference)
            trainer_of(max_steps=1).fit(module, datamodule=data)

        with pytest.raises(
            ValueError,
            match=r"accepts, 24x32 pixels, got a crop_size of \(24, 24\); set --data\.augmentation\.crop_size",
        ):
            fit(augmentation=Augmentation((24, 24)))
        with pytest.raises(
            ValueError,
            match=r"expected images in evaluation of .*, got images of any size; set --data\.image_size \[24, 32\]",
        ):
            fit(augmentation=Augmentation((24, 32)))
        fit(augmentation=Augmentation((24, 32)), image_size=(24, 32))
        fit(Inference((24, 32), border="pad"), augmentation=Augmentation((24, 32)))

    @pytest.mark.parametrize("callback", [EarlyStopping, ModelCheckpoint])
    def test_a_callback_on_a_score_of_some_validations_is_refused(self, data, callback):
        trainer = trainer_of(callbacks=[callback(monitor="val/boundary_IoU")], enable_checkpointing=True)
        with pytest.raises(
            ValueError, match=r"which only every 5th validation computes; set --model.boundary_metrics_every 1"
        ):
            trainer.fit(module_of(), datamodule=data)
        assert trainer.global_step == 0

    def test_a_callback_on_a_score_that_no_validation_has_is_refused(self, data):
        trainer = trainer_of(callbacks=[EarlyStopping(monitor="val/miou")])
        with pytest.raises(ValueError, match=r"monitor one of val/mIoU, val/pixel_accuracy, .*, got val/miou"):
            trainer.fit(module_of(), datamodule=data)

    @pytest.mark.parametrize("argument", ["num_images", "every_n_validations"])
    def test_a_report_without_images_is_refused(self, argument):
        with pytest.raises(ValueError, match=f"expected {argument} to be 1 or more, got 0"):
            EvaluationReport(**{argument: 0})


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


class Board(TensorBoardLogger):
    """Keeps the pictures in place of TensorBoard, which need not be installed."""

    name = version = save_dir = root_dir = log_dir = None

    def __init__(self):
        Logger.__init__(self)
        self.pictures = {}

    @property
    def experiment(self):
        return self

    def add_image(self, name, picture, step, dataformats):
        assert (picture.dtype, picture.shape[2], dataformats) == (np.uint8, 3, "HWC")
        self.pictures.setdefault(name, []).append(step)

    def save(self, *arguments, **options):
        pass

    log_metrics = log_hyperparams = log_graph = finalize = save


def test_tensorboard_gets_the_pictures(data, tmp_path):
    board = Board()
    report = EvaluationReport(every_n_validations=2)
    trainer = trainer_of(callbacks=[report], default_root_dir=tmp_path, logger=board, max_epochs=3)
    trainer.fit(module_of(boundary_metrics_every=1), datamodule=data)
    assert board.pictures == {f"val/{name}": [6, 9] for name in ("examples", "worst", "confusion", "trimap")}


def test_loggers_and_files_share_the_charts_of_a_validation(data, tmp_path, monkeypatch):
    drawn = []

    def draw(confusion, class_names):
        drawn.append(confusion)
        return Image.new("RGB", (len(drawn), 1))

    monkeypatch.setattr("cpg_lightning.callbacks.evaluation_report.confusion_picture", draw)
    report = EvaluationReport(every_n_validations=2)
    trainer = trainer_of(callbacks=[report], default_root_dir=tmp_path, logger=Board(), max_epochs=3)
    trainer.fit(module_of(), datamodule=data)
    assert len(drawn) == 2  # of the second validation and of the last
    assert Image.open(tmp_path / "pictures" / "val-confusion.png").width == 2


def test_a_test_writes_its_tables(data, tmp_path, capsys):
    trainer = trainer_of(callbacks=[EvaluationReport(num_worst=1)], default_root_dir=tmp_path)
    module = module_of()
    (logged,) = trainer.test(module, datamodule=data)
    means = {row["score"]: float(row["value"]) for row in rows_of(tmp_path / "tables" / "test-means.csv")}
    assert means["mIoU"] == pytest.approx(logged["test/mIoU"])
    assert means["boundary_IoU"] == pytest.approx(logged["test/boundary_IoU"])
    assert {"pixel_accuracy", "class_accuracy", "fwIoU", "boundary_F1/3px", "trimap_mIoU/10px"} <= means.keys()
    classes = rows_of(tmp_path / "tables" / "test-classes.csv")
    assert [row["class"] for row in classes] == list(data.classes.names)
    assert np.nanmean([float(row["IoU"]) for row in classes]) == pytest.approx(means["mIoU"], abs=1e-12)
    images = rows_of(tmp_path / "tables" / "test-images.csv")
    assert sorted(row["name"] for row in images) == ["test_000", "test_001"]
    assert [float(row["boundary_iou"]) for row in images] == sorted(float(row["boundary_iou"]) for row in images)
    assert f"{means['mIoU']:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(("every", "expected"), [(1, [1, 2, 3]), (2, [2, 3]), (9, [3])])
def test_boundary_metrics_are_those_of_every_nth_epoch_and_the_last(data, every, expected):
    class Epochs(Callback):
        def on_validation_end(self, trainer, pl_module):
            if not trainer.sanity_checking and pl_module.scores.boundary_iou is not None:
                seen.append(trainer.current_epoch + 1)

    seen = []
    trainer_of(callbacks=[Epochs()], max_epochs=3).fit(module_of(boundary_metrics_every=every), datamodule=data)
    assert seen == expected


def test_a_resumed_training_has_boundary_metrics_in_the_same_epochs(data):
    class Epochs(Callback):
        def on_validation_end(self, trainer, pl_module):
            if not trainer.sanity_checking and pl_module.scores.boundary_iou is not None:
                seen.append(trainer.current_epoch + 1)

    seen = []
    first = trainer_of(max_epochs=3, limit_train_batches=1, callbacks=[Epochs()])
    first.fit(module_of(boundary_metrics_every=5, lr_schedule="constant"), datamodule=data)
    first.save_checkpoint("third.ckpt")
    seen.clear()
    rest = trainer_of(max_epochs=12, limit_train_batches=1, callbacks=[Epochs()])
    rest.fit(module_of(boundary_metrics_every=5, lr_schedule="constant"), datamodule=data, ckpt_path="third.ckpt")
    assert seen == [5, 10, 12]


@pytest.mark.parametrize(("max_epochs", "check", "expected"), [(4, 3, [3]), (6, 2, [6]), (7, 3, [6])])
def test_the_last_validation_has_boundary_metrics(data, max_epochs, check, expected):
    class Epochs(Callback):
        def on_validation_end(self, trainer, pl_module):
            if not trainer.sanity_checking and pl_module.scores.boundary_iou is not None:
                seen.append(trainer.current_epoch + 1)

    seen = []
    options = {"max_epochs": max_epochs, "check_val_every_n_epoch": check, "limit_train_batches": 1}
    trainer_of(callbacks=[Epochs()], **options).fit(module_of(), datamodule=data)
    assert seen == expected


def test_a_training_without_a_validation_reports_none(data, tmp_path, capsys):
    trainer = trainer_of(
        callbacks=[EvaluationReport()], default_root_dir=tmp_path, max_epochs=1, check_val_every_n_epoch=2
    )
    trainer.fit(module_of(), datamodule=data)
    assert "the last validation" not in capsys.readouterr().out
    assert not (tmp_path / "pictures").exists()


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_the_report_computes_no_boundary_again(data, tmp_path, monkeypatch, command):
    def counted(labels, width):
        bands.append(labels.shape)
        return bands_of(labels, width)

    bands, bands_of = [], boundary_iou.inner_bands
    monkeypatch.setattr(boundary_iou, "inner_bands", counted)
    trainer = trainer_of(
        callbacks=[EvaluationReport()], default_root_dir=tmp_path, max_epochs=1, num_sanity_val_steps=0
    )
    getattr(trainer, command)(module_of(), datamodule=data)
    images = {"fit": 3, "validate": 3, "test": 2}[command]
    assert bands == [(2, 36, 48)] * images  # prediction and label of each


def test_a_report_has_the_scores_of_each_image_of_a_batch(data, tmp_path):
    tables = []
    for batch_size in (1, 3):
        data.eval_batch_size = batch_size
        folder = tmp_path / str(batch_size)
        trainer_of(callbacks=[EvaluationReport()], default_root_dir=folder).validate(module_of(), datamodule=data)
        tables.append(rows_of(folder / "tables" / "val-images.csv"))
    assert len(tables[0]) == 3
    assert tables[0] == tables[1]


def test_a_report_has_images_whose_names_are_not_utf_8(data, tmp_path):
    for folder in ("val", "valannot"):
        place = os.fsencode(data.root / folder)
        os.rename(place + b"/val_000.png", place + b"/caf\xe9.png")
    trainer_of(callbacks=[EvaluationReport()], default_root_dir=tmp_path).validate(module_of(), datamodule=data)
    names = {row["name"] for row in rows_of(tmp_path / "tables" / "val-images.csv")}
    assert names == {"caf\\udce9", "val_001", "val_002"}
    with np.load(tmp_path / "tables" / "val-counts.npz") as counts:
        assert set(counts["names"].tolist()) == {"caf\udce9", "val_001", "val_002"}


def test_metrics_of_a_single_distance_are_accepted(data):
    module = module_of()
    module.metrics.boundary_f1, module.metrics.trimap = BoundaryF1Score(11, (3,)), TrimapJaccardIndex(11, (5,))
    (scores,) = trainer_of().validate(module, datamodule=data)
    assert {name for name in scores if "px" in name} == {"val/boundary_F1/3px", "val/trimap_mIoU/5px"}


def test_a_report_without_worst_images_has_none(data, tmp_path):
    trainer_of(callbacks=[EvaluationReport(num_worst=0)], default_root_dir=tmp_path).validate(
        module_of(), datamodule=data
    )
    assert {path.stem for path in (tmp_path / "pictures").iterdir()} == {"val-examples", "val-confusion", "val-trimap"}


def test_the_examples_are_spread_over_the_split_and_have_their_scores(data, tmp_path):
    report = EvaluationReport(num_images=2)
    trainer_of(callbacks=[report], default_root_dir=tmp_path).validate(module_of(), datamodule=data)
    rows = {row["name"]: row for row in rows_of(tmp_path / "tables" / "val-images.csv")}
    assert [each.name for each in report.examples] == ["val_000", "val_002"]
    for each in report.examples:
        mean, boundary = (float(rows[each.name][name]) for name in ("mIoU", "boundary_iou"))
        assert each.title == f"{each.name}, mIoU {mean:.3f}, boundary IoU {boundary:.3f}"


def test_the_mean_follows_the_datasets_rule(data):
    means = {}
    for rule in ("skip", "skip_always", "zero"):
        module = module_of(classes=replace(data.classes, absent_classes=rule))
        trainer_of().validate(module, datamodule=data)
        means[rule] = module.scores.means["mIoU"].item()
    labelled = (module.scores.confusion.sum(dim=1) > 0).sum().item()
    assert means["skip_always"] * labelled == pytest.approx(means["zero"] * 11)
    assert means["skip_always"] >= means["skip"] >= means["zero"]


def test_reports_and_predictions_are_written_without_any_logger(data, tmp_path, capsys):
    callbacks = [EvaluationReport(num_images=2), PredictionWriter("out")]
    trainer = trainer_of(callbacks=callbacks, max_epochs=1, default_root_dir=tmp_path / "root")
    module = module_of()
    trainer.fit(module, datamodule=data)
    pictures = tmp_path / "root" / "pictures"
    assert {path.stem for path in pictures.iterdir()} == {"val-examples", "val-worst", "val-confusion", "val-trimap"}
    assert "sign symbol" in capsys.readouterr().out
    trainer.predict(module, datamodule=data, return_predictions=False)
    for kind in ("palette", "labels", "overlay"):
        assert sorted(path.name for path in (tmp_path / "out" / kind).iterdir()) == ["test_000.png", "test_001.png"]


def test_trainer_options_for_the_data_work(data):
    for options in (
        {"overfit_batches": 2},
        {"fast_dev_run": True},
        {"limit_train_batches": 0.5},
        {"precision": "bf16-mixed"},
        {"precision": "bf16-true"},
        {"precision": "64-true"},
        {"deterministic": True},
    ):
        trainer = trainer_of(max_epochs=1, **options)
        trainer.fit(module_of(), datamodule=data)
        assert trainer.global_step > 0
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("inference", [None, Inference(window=(16, 16)), Inference(scales=(0.5, 1.0), flip=True)])
def test_weights_of_half_precision_predict_resized_images_too(data, inference):
    scores = []
    for precision in ("32-true", "bf16-true"):
        module = module_of(inference=inference)
        scores += trainer_of(precision=precision).validate(module, datamodule=data, verbose=False)
    assert scores[0].keys() == scores[1].keys()
    assert scores[1]["val/pixel_accuracy"] == pytest.approx(scores[0]["val/pixel_accuracy"], abs=0.05)


def test_a_few_steps_on_real_photographs_lower_the_loss(real_data):
    L.seed_everything(0)
    data = CamVidDataModule(real_data / "camvid", Augmentation((96, 128)), (120, 160), batch_size=4, num_workers=0)
    module = SegmentationModule(
        LRASPP(11, batch_norm_momentum=0.1),
        CrossEntropyCPGLoss(),
        data.classes,
        optimizer=functools.partial(torch.optim.AdamW, lr=2e-3),
    )
    losses = []

    class Losses(Callback):
        def on_train_batch_end(self, trainer, module, outputs, *args):
            losses.append(outputs["loss"].item())

    trainer_of(max_steps=20, limit_val_batches=0, callbacks=[Losses()]).fit(module, datamodule=data)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
