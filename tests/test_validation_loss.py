"""``val/loss``: the criterion of an evaluation's whole images, beside its scores."""

import csv
from pathlib import Path

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from conftest import simulated
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from losses_problem import losses
from simulated_device import DEVICE
from steps import in_two_processes, loader_of, module_of
from tiny import SGD, Tiny, trainer_of
from torch.utils.data import DataLoader

from cpg_lightning.callbacks import EvaluationReport, MetricsFile
from cpg_lightning.data import Augmentation, CamVidDataModule, ClassInfo
from cpg_lightning.inference import Inference
from cpg_lightning.losses import CrossEntropyCPGLoss
from cpg_lightning.metrics.mean_loss import MeanLoss
from cpg_lightning.module import SegmentationModule

LOSSES = losses()
SEVERAL_VIEWS = {
    "windows": Inference(window=(16, 16)),
    "flip": Inference(flip=True),
    "scales": Inference(scales=(0.5, 1.0)),
    "exponential": Inference(average="exponential"),
}


class Counting(Tiny):
    """A network that counts how often it runs."""

    calls = 0

    def forward(self, images):
        self.calls += 1
        return super().forward(images)


def camvid_module(network=None, **options):
    torch.manual_seed(0)
    criterion = options.pop("criterion", CrossEntropyCPGLoss(0.5))
    return SegmentationModule(network or Tiny(11), criterion, CamVidDataModule.classes, optimizer=SGD, **options)


def data_of(camvid, **options):
    L.seed_everything(0)
    return CamVidDataModule(camvid, Augmentation((24, 32)), batch_size=2, num_workers=0, **options)


def validated(module, data):
    (scores,) = trainer_of().validate(module, data, verbose=False)
    return {name.removeprefix("val/"): value for name, value in scores.items()}


def loader(*masks):
    """A batch of one image for each label."""
    torch.manual_seed(0)
    images = (torch.randint(0, 256, (1, 3, 32, 48)) for _ in masks)
    batches = [{"image": image, "mask": mask[None], "name": ["a"]} for image, mask in zip(images, masks, strict=True)]
    return DataLoader(batches, batch_size=None)


@pytest.mark.parametrize("image_size", [None, (20, 28)])
@pytest.mark.parametrize("eval_batch_size", [1, 2])
def test_the_validation_loss_is_the_criterion_at_the_label_size_weighted_by_images(camvid, image_size, eval_batch_size):
    data = data_of(camvid, image_size=image_size, eval_batch_size=eval_batch_size)
    module = camvid_module().eval()
    found = validated(module, data)
    sums = dict.fromkeys(("loss", "ce", "cpg"), 0.0)
    for batch in data.val_dataloader():
        assert batch["mask"].shape[-2:] == (36, 48)
        with torch.no_grad():
            logits = F.interpolate(module(batch["image"])["out"], (36, 48), mode="bilinear")
            loss = module.criterion(logits, batch["mask"])
        for name, value in {"loss": loss, **module.criterion.terms}.items():
            sums[name] += len(batch["image"]) * value.item()
    assert {name: found[name] for name in sums} == pytest.approx({name: total / 3 for name, total in sums.items()})


@pytest.mark.parametrize("name", LOSSES)
def test_every_criterion_logs_its_validation_loss_with_its_terms(batches, name):
    criterion = LOSSES[name]
    module = SegmentationModule(Tiny(5), criterion, ClassInfo.numbered(5))
    found = validated(module, batches)
    with torch.no_grad():
        values = [criterion(module(batch["image"])["out"], batch["mask"]).item() for batch in batches]
    assert found["loss"] == pytest.approx(sum(values) / 4, rel=1e-4)
    assert criterion.terms.keys() <= found.keys()


def test_the_network_runs_once_per_image(batches):
    network = Counting(5)
    validated(SegmentationModule(network, CrossEntropyCPGLoss(), ClassInfo.numbered(5)), batches)
    assert network.calls == 4


def test_the_validation_loss_excludes_the_auxiliary_loss(batches):
    found = validated(module_of(), batches)
    assert found["loss"] == pytest.approx(found["ce"] + found["cpg"])
    assert "aux" not in found


def test_the_loss_of_test_has_the_prefix_test(camvid):
    (scores,) = trainer_of().test(camvid_module(), datamodule=data_of(camvid), verbose=False)
    assert {"test/loss", "test/ce", "test/cpg"} <= scores.keys()


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_the_mean_over_many_images_is_exact_where_a_trainer_converts_the_module(precision):
    metric = MeanLoss(["ce"]).to(dtype=precision)
    for _ in range(2):
        for _ in range(1000):
            metric.update(torch.tensor(75.0), {"ce": torch.tensor(0.75)}, images=1)
        assert {name: mean.item() for name, mean in metric.compute().items()} == {"loss": 75.0, "ce": 0.75}
        metric.reset()


@pytest.mark.parametrize("inference", SEVERAL_VIEWS.values(), ids=SEVERAL_VIEWS)
def test_several_views_have_no_validation_loss(batches, inference):
    assert "loss" not in validated(module_of(inference=inference), batches)


@pytest.mark.parametrize("options", [{"scales": (0.5,)}, {"long_side": 24}])
def test_one_view_of_another_size_has_a_validation_loss(batches, options):
    assert "loss" in validated(module_of(inference=Inference(**options)), batches)


def test_the_validation_loss_can_be_turned_off(batches):
    assert "loss" not in validated(module_of(evaluation_loss=False), batches)


def test_an_image_without_labelled_pixels_counts_as_0_as_in_training():
    labelled, empty = torch.ones(32, 48, dtype=torch.long), torch.full((32, 48), 255)
    alone, both = (validated(module_of(), loader(*masks)) for masks in ([labelled], [labelled, empty]))
    assert both["loss"] == pytest.approx(alone["loss"] / 2)
    assert validated(module_of(), loader(empty))["loss"] == 0


def test_a_diverged_network_has_a_non_finite_validation_loss(batches):
    module = module_of()
    module.network.out.bias.data.fill_(torch.nan)
    assert not torch.tensor(validated(module, batches)["loss"]).isfinite()


@pytest.mark.parametrize("monitor", ["val/loss", "val/ce"])
def test_early_stopping_monitors_the_validation_loss(batches, monitor):
    stopping = EarlyStopping(monitor, patience=1, min_delta=1e6)  # nothing is better by so much
    trainer = trainer_of(max_epochs=9, callbacks=[stopping])
    trainer.fit(module_of(), batches, batches)
    assert trainer.current_epoch == 2
    assert stopping.best_score == pytest.approx(trainer.callback_metrics[monitor].item(), abs=1e6)


@pytest.mark.parametrize("options", [{"inference": SEVERAL_VIEWS["windows"]}, {"evaluation_loss": False}])
@pytest.mark.parametrize("callback", [EarlyStopping, ModelCheckpoint])
def test_monitoring_a_validation_loss_that_is_off_is_refused(batches, callback, options):
    trainer = trainer_of(callbacks=[callback(monitor="val/loss")], enable_checkpointing=True)
    with pytest.raises(ValueError, match=r"got val/loss, .*whole-image inference; monitor val/mIoU, or"):
        trainer.fit(module_of(**options), batches, batches)


def test_a_module_refuses_weights_for_another_number_of_classes():
    with pytest.raises(ValueError, match="expected 5 class_weights, one per class, got 2"):
        SegmentationModule(Tiny(5), CrossEntropyCPGLoss(class_weights=[1, 2]), ClassInfo.numbered(5))


def test_the_files_of_a_run_have_the_validation_loss(camvid, tmp_path):
    callbacks = [MetricsFile(), EvaluationReport()]
    trainer = trainer_of(callbacks=callbacks, default_root_dir=tmp_path, log_every_n_steps=1)
    trainer.fit(camvid_module(), datamodule=data_of(camvid))
    last = trainer.callback_metrics["val/loss"].item()
    with (tmp_path / "metrics.csv").open() as file:
        logged = [float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]]
    assert len(logged) == 2
    assert logged[-1] == pytest.approx(last)
    means = dict(line.split(",") for line in (tmp_path / "tables" / "val-means.csv").read_text().splitlines())
    assert float(means["loss"]) == pytest.approx(last)
    assert float(means["loss"]) == pytest.approx(float(means["ce"]) + 0.5 * float(means["cpg"]))


@pytest.mark.slow
def test_two_processes_have_the_mean_of_all_images(tmp_path):
    file = Path(tmp_path, "loss")
    code = (
        "images = [image for batch in loader_of() for image in zip(batch['image'].split(1), batch['mask'].split(1))][:3]\n"
        "shares = {name: [{'image': i, 'mask': m, 'name': ['a']} for i, m in images[start::step]]"
        " for name, start, step in (('all', 0, 1), ('0', 0, 2), ('1', 1, 2))}\n"
        "class Data(L.LightningDataModule):\n"
        "    def val_dataloader(self):\n"
        "        name = str(self.trainer.global_rank) if self.trainer.world_size > 1 else 'all'\n"
        "        return DataLoader(shares[name], batch_size=None)\n"
        "found = [trainer_of(**o).validate(module_of(), Data(), verbose=False)[0]['val/loss'] for o in (TWO, {})]\n"
        f"open({str(file)!r}, 'w').write(repr(found))\n"
    )
    result = in_two_processes(code)
    assert file.is_file(), result.stderr
    together, alone = eval(file.read_text())
    assert together == pytest.approx(alone, rel=1e-6)


@pytest.mark.parametrize("stride", [1, 8])
@pytest.mark.parametrize(
    "options",
    [{}, {"kernel_size": 7}, {"void_borders": False, "class_weights": [1.0] * 7}, {"ohem_threshold": 0.7}],
)
@pytest.mark.parametrize("strips", [1, 3])
def test_the_validation_loss_takes_at_most_200_launches_60_per_strip_and_4_waits_per_image(options, stride, strips):
    height, width = 256, 512
    target = torch.zeros(1, height, width, dtype=torch.long)
    target[:, 10:140, 50:] = 1
    target[:, 30:160, 80:110] = 2
    target[:, :20, :30] = 255
    logits = torch.randn(1, 7, height // stride, width // stride)
    expected = CrossEntropyCPGLoss(**options)(logits, target)
    criterion = CrossEntropyCPGLoss(**options, strip_logits=7 * width * -(-height // strips))
    with simulated() as device:
        logits, target = logits.to(DEVICE), target.to(DEVICE)
        criterion.value(logits, target)  # weights of classes are copied to the device once
        device.reset()
        value = criterion.value(logits, target)
        launches, waits = device.launches, device.waits
    torch.testing.assert_close(value.cpu(), expected)
    assert launches <= 200 + 60 * strips
    assert waits.total() <= 4
    assert all("boundary.py" in place for _, place in waits)


def test_an_evaluation_waits_for_its_loss_only_in_the_criterion():
    with simulated() as device:
        module, counts = module_of().to(DEVICE).eval(), []
        batch = {name: each[:1].to(DEVICE) for name, each in next(iter(loader_of())).items() if name != "name"}
        for with_loss in (False, True):
            module.metrics.begin(training=True, loss=with_loss)
            module.validation_step(batch, 0)
            device.reset()
            with torch.no_grad():
                module.validation_step(batch, 1)
            counts.append((device.launches, device.waits))
    (launches_without, waits_without), (launches, waits) = counts
    assert launches - launches_without <= 260
    assert all("boundary.py" in place for _, place in waits - waits_without)
    assert (waits - waits_without).total() <= 4
