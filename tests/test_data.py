"""The data modules: batches, randomness, order and errors."""

import itertools
import os
import random
import subprocess
import sys

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from cpg_lightning.data import Augmentation, CamVidDataModule, ShapesDataModule
from cpg_lightning.data.loading import TrainingLoader
from cpg_lightning.data.sampling import EvaluationSampler, TrainingSampler
from cpg_lightning.data.steps import Division

IDENTITY = np.arange(256, dtype=np.uint8)


def module_of(root, **options):
    """A data module over a tiny CamVid whose samples show their crop."""
    return CamVidDataModule(
        root, **{"augmentation": Augmentation((20, 28)), "batch_size": 2, "num_workers": 0, **options}
    )


def epoch_of(loader):
    """Every sample of one iteration, as bytes by name."""
    return [
        (name, image.numpy().tobytes(), mask.long().numpy().tobytes())
        for batch in loader
        for name, image, mask in zip(batch["name"], batch["image"], batch["mask"], strict=True)
    ]


def training_epochs(data, epochs=2):
    L.seed_everything(3)
    data.setup("fit")
    loader = data.train_dataloader()
    return [epoch_of(loader) for _ in range(epochs)]


class TestBatches:
    def test_training_batches_have_the_crop_size(self, camvid):
        data = module_of(camvid)
        data.setup("fit")
        batch = next(iter(data.train_dataloader()))
        assert (batch["image"].dtype, batch["image"].shape) == (torch.uint8, (2, 3, 20, 28))
        assert (batch["mask"].dtype, batch["mask"].shape) == (torch.int64, (2, 20, 28))
        assert set(batch["mask"].unique().tolist()) <= {*range(11), 255}

    def test_evaluation_resizes_the_image_and_never_the_label(self, camvid):
        data = module_of(camvid, image_size=(18, 24))
        data.setup("validate")
        batches = list(data.val_dataloader())
        assert [batch["name"] for batch in batches] == [["val_000"], ["val_001"], ["val_002"]]
        assert batches[0]["image"].shape == (1, 3, 18, 24)
        label = np.array(Image.open(camvid / "valannot" / "val_000.png"))
        assert np.array_equal(batches[0]["mask"][0], np.where(label == 11, 255, label))

    def test_padding_is_black_and_ignored(self, camvid):
        data = module_of(camvid, augmentation=Augmentation((60, 70), scale=(1, 1), horizontal_flip=0, photometric=True))
        data.setup("fit")
        batch = next(iter(data.train_dataloader()))
        padding = torch.ones(60, 70, dtype=torch.bool)
        padding[:36, :48] = False
        assert not batch["image"][:, :, padding].any()
        assert (batch["mask"][:, padding] == 255).all()

    def test_image_and_mask_are_cropped_at_the_same_place(self, camvid):
        data = module_of(camvid, augmentation=Augmentation((36, 48), scale=(1, 1), horizontal_flip=0.5))
        data.setup("fit")
        palette = torch.zeros(256, 3, dtype=torch.uint8)
        palette[:11] = torch.tensor(data.classes.palette)
        flipped = 0
        loader = data.train_dataloader()
        for batch in itertools.chain(*(loader for _ in range(4))):
            assert torch.equal(batch["image"].permute(0, 2, 3, 1), palette[batch["mask"]])
            for name, mask in zip(batch["name"], batch["mask"], strict=True):
                label = np.array(Image.open(camvid / "trainannot" / f"{name}.png"))
                flipped += not np.array_equal(mask, np.where(label == 11, 255, label))
        assert 4 < flipped < 20

    def test_scale_is_drawn_evenly_between_its_limits(self):
        pipeline = Augmentation((20, 20), horizontal_flip=0.0).pipeline(IDENTITY)
        ramp = np.arange(200, dtype=np.uint8)[None, :, None].repeat(100, axis=0).repeat(3, axis=2)
        scales = []
        for seed in range(100):
            pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
            row = pipeline(image=ramp, mask=ramp[..., 0])["image"][0, :, 0].astype(int)
            scales.append(19 / (row[-1] - row[0]))
        assert 0.45 < min(scales) < 0.6
        assert 1.85 < max(scales) < 2.25
        assert 1.1 < np.mean(scales) < 1.4

    def test_labels_may_be_palette_pngs_and_images_grey(self, camvid):
        path = camvid / "valannot" / "val_000.png"
        label = Image.open(path)
        values = np.array(label)
        label.putpalette([7] * 768)
        label.save(path)
        Image.open(camvid / "val" / "val_000.png").convert("L").save(camvid / "val" / "val_000.png")
        data = module_of(camvid)
        data.setup("validate")
        item = data.datasets["val"][0]
        assert item["image"].shape == (3, 36, 48)
        assert np.array_equal(item["mask"], np.where(values == 11, 255, values))

    def test_each_stage_reads_only_its_own_split(self, camvid):
        for stage, split in (("validate", "val"), ("test", "test"), ("predict", "test")):
            others = {"train", "val", "test"} - {split}
            for other in others:
                (camvid / other).rename(camvid / f"hidden {other}")
            module_of(camvid).setup(stage)
            for other in others:
                (camvid / f"hidden {other}").rename(camvid / other)

    def test_predict_uses_the_requested_split(self, camvid):
        data = module_of(camvid, predict_split="val")
        data.setup("predict")
        assert [batch["name"][0] for batch in data.predict_dataloader()] == ["val_000", "val_001", "val_002"]


class TestRandomness:
    def test_epochs_differ_and_cover_every_image_once(self, camvid):
        first, second = training_epochs(module_of(camvid))
        assert sorted(name for name, *_ in first) == sorted(name for name, *_ in second)
        assert len({name for name, *_ in first}) == 6
        assert len(set(first) | set(second)) == 12

    @pytest.mark.parametrize("num_workers", [1, 2, 8])
    def test_samples_do_not_depend_on_the_number_of_workers(self, camvid, num_workers):
        assert training_epochs(module_of(camvid, num_workers=num_workers)) == training_epochs(module_of(camvid))

    def test_spawned_workers_draw_the_same_samples(self, camvid):
        expected = training_epochs(module_of(camvid), epochs=1)
        data = module_of(camvid)
        data.setup("fit")
        loader = data.train_dataloader()
        spawned = DataLoader(loader.dataset, 2, sampler=loader.sampler, num_workers=1, multiprocessing_context="spawn")
        assert [epoch_of(spawned)] == expected

    @pytest.mark.parametrize(("num_workers", "context"), [(0, None), (2, "fork"), (1, "spawn")])
    @pytest.mark.slow
    def test_two_processes_draw_the_samples_of_one(self, camvid, num_workers, context):
        expected = training_epochs(module_of(camvid))
        data = module_of(camvid)
        data.setup("fit")
        dataset = data.datasets["train"]
        samplers = [TrainingSampler(dataset, Division(2, processes=2), rank, seed=3) for rank in range(2)]
        loaders = [
            DataLoader(dataset, 1, sampler=sampler, num_workers=num_workers, multiprocessing_context=context)
            for sampler in samplers
        ]
        for epoch in expected:
            shares = [epoch_of(loader) for loader in loaders]
            assert [len(share) for share in shares] == [3, 3]
            assert set(shares[0]) | set(shares[1]) == set(epoch)

    def test_another_seed_draws_other_samples(self, camvid):
        data = module_of(camvid)
        data.setup("fit")
        L.seed_everything(4)
        other = epoch_of(data.train_dataloader())
        assert not set(other) & set(training_epochs(module_of(camvid), epochs=1)[0])

    def test_a_trainer_gives_the_same_samples_as_a_plain_loop(self, camvid):
        class Recorder(L.LightningModule):
            def __init__(self):
                super().__init__()
                self.weight = torch.nn.Parameter(torch.zeros(()))
                self.epochs = []

            def on_train_epoch_start(self):
                self.epochs.append([])

            def training_step(self, batch, batch_idx):
                self.epochs[-1].extend(epoch_of([batch]))
                return self.weight.square()

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), 0.1)

        expected = training_epochs(module_of(camvid))
        for num_workers in (0, 1):
            recorder = Recorder()
            L.seed_everything(3)
            options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
            trainer = L.Trainer(max_epochs=2, limit_val_batches=0, accelerator="cpu", **options)
            trainer.fit(recorder, datamodule=module_of(camvid, num_workers=num_workers))
            assert recorder.epochs == expected

    def test_transforms_are_independent_of_each_other(self):
        pipeline = Augmentation((20, 20)).pipeline(IDENTITY)
        ramp = np.arange(200, dtype=np.uint8)[None, :, None].repeat(100, axis=0).repeat(3, axis=2)

        def correlation(prepare):
            flips, scales = [], []
            for seed in range(300):
                prepare(seed)
                row = pipeline(image=ramp, mask=ramp[..., 0])["image"][0, :, 0].astype(int)
                flips.append(row[-1] < row[0])
                scales.append(19 / abs(row[-1] - row[0]))
            return abs(np.corrcoef(flips, scales)[0, 1])

        assert (
            correlation(lambda seed: pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))) < 0.2
        )
        assert correlation(pipeline.set_random_seed) > 0.5  # the trap that this is about: one seed for every transform

    def test_processes_share_the_images(self):
        epochs = [
            [list(TrainingSampler(range(11), Division(2, processes=2), rank, seed=5)) for rank in range(2)]
            for _ in range(2)
        ]
        assert epochs[0] == epochs[1]
        indices = [draw.index for share in epochs[0] for draw in share]
        assert len(indices) == len(set(indices)) == 10
        assert [list(EvaluationSampler(range(5), 2, rank)) for rank in range(2)] == [[0, 2, 4], [1, 3]]

    def test_more_processes_than_images_are_refused(self):
        with pytest.raises(ValueError, match="at least one image for each process, got 2 for 3"):
            EvaluationSampler(range(2), 3, 0)

    def test_a_loader_continues_with_another_batch_size(self, camvid):
        (expected,) = training_epochs(module_of(camvid), epochs=1)
        data = module_of(camvid, batch_size=1)
        data.setup("fit")
        L.seed_everything(3)
        resumed = data.train_dataloader()
        resumed.load_state_dict({"epoch": 0, "images": 4})
        assert epoch_of(resumed) == expected[4:]

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_a_loader_continues_in_the_middle_of_an_epoch(self, camvid, num_workers):
        data = module_of(camvid, num_workers=num_workers)
        first, second = training_epochs(module_of(camvid))
        L.seed_everything(3)
        data.setup("fit")
        loader = data.train_dataloader()
        batches = iter(loader)
        next(batches), next(batches)
        state = loader.state_dict()
        resumed = data.train_dataloader()
        assert isinstance(resumed, TrainingLoader)
        resumed.load_state_dict(state)
        assert [epoch_of(resumed), epoch_of(resumed)] == [first[4:], second]


class TestShapes:
    def test_images_depend_only_on_the_index(self):
        items = []
        for seed in (0, 1):
            L.seed_everything(seed)
            data = ShapesDataModule(train_images=4, batch_size=2, num_workers=0)
            data.setup("validate")
            items.append(epoch_of(data.val_dataloader()))
        assert items[0] == items[1]
        assert len({image for _, image, _ in items[0]}) == 64

    def test_splits_have_different_images(self):
        data = ShapesDataModule(num_workers=0)
        data.setup("fit"), data.setup("test")
        images = {data.datasets[split].read(0)[0].tobytes() for split in ("train", "val", "test")}
        assert len(images) == 3

    def test_every_class_occurs_and_none_is_ignored(self):
        data = ShapesDataModule(val_images=32, num_workers=0)
        data.setup("validate")
        counts = sum(torch.bincount(batch["mask"].flatten(), minlength=4) for batch in data.val_dataloader())
        assert len(counts) == 4
        assert (counts > 0.02 * counts.sum()).all()

    def test_labels_are_exact(self):
        data = ShapesDataModule(num_workers=0)
        data.setup("validate")
        image, mask, _ = data.datasets["val"].read(0)
        means = np.array([image[mask == label].mean(axis=0) for label in np.unique(mask)])
        distance = np.abs(image[:, :, None].astype(float) - means).sum(axis=-1).argmin(axis=-1)
        assert (np.unique(mask)[distance] == mask).mean() > 0.98  # off by one pixel it is 0.96


class TestErrors:
    def test_the_error_for_a_missing_root_shows_the_layout_and_the_existing_folders(self, camvid):
        with pytest.raises(FileNotFoundError, match=r"(?s)got .*which contains .*camvid.*root/.*trainannot/"):
            module_of(camvid.parent / "nowhere").setup("fit")

    def test_the_error_for_a_file_as_root_names_the_file(self, camvid):
        with pytest.raises(FileNotFoundError, match=r"a file instead of a folder: .*train_000\.png"):
            module_of(camvid / "train" / "train_000.png").setup("fit")

    def test_a_missing_split_is_named(self, camvid):
        (camvid / "val").rename(camvid / "validation")
        with pytest.raises(FileNotFoundError, match=r"expected the folder .*camvid/val, got .* validation"):
            module_of(camvid).setup("fit")

    def test_a_split_without_images_is_refused(self, camvid):
        for path in (camvid / "val").iterdir():
            path.unlink()
        with pytest.raises(ValueError, match=r"expected images in .*val, got none"):
            module_of(camvid).setup("fit")

    def test_images_without_labels_are_counted(self, camvid):
        (camvid / "trainannot" / "train_001.png").unlink()
        with pytest.raises(ValueError, match=r"trainannot for each of the 6 files .* none for 1, e\.g\. .*train_001"):
            module_of(camvid).setup("fit")

    def test_labels_without_images_are_counted(self, camvid):
        (camvid / "train" / "train_002.png").unlink()
        with pytest.raises(ValueError, match=r"none for 1, e\.g\. .*trainannot/train_002"):
            module_of(camvid).setup("fit")

    @pytest.mark.parametrize(
        ("label", "message"),
        [
            (Image.new("L", (48, 30)), r"36x48 pixels \(height x width\), got 30x48: .*train_003"),
            (Image.new("L", (48, 36), 17), r"label values 0\.\.11, got \[17\]: .*train_003"),
            (Image.new("RGB", (48, 36)), r"one 8-bit channel .* colour type RGB: .*train_003"),
            (
                Image.new("I;16", (48, 36)),
                r"one 8-bit channel .* 16 bits per channel and colour type grey: .*train_003",
            ),
        ],
        ids=["size", "value", "RGB", "16 bit"],
    )
    def test_an_invalid_label_file_is_named(self, camvid, label, message):
        label.save(camvid / "trainannot" / "train_003.png")
        data = module_of(camvid)
        data.setup("fit")
        with pytest.raises(ValueError, match=message):
            data.datasets["train"][3]

    def test_an_image_of_16_bits_is_refused_rather_than_clipped(self, camvid):
        Image.new("I;16", (48, 36)).save(camvid / "val" / "val_001.png")
        data = module_of(camvid)
        data.setup("validate")
        with pytest.raises(ValueError, match=r"8 bits per channel, got 16: .*val_001\.png"):
            data.datasets["val"][1]

    def test_two_images_of_one_name_are_refused(self, camvid):
        Image.new("RGB", (48, 36)).save(camvid / "val" / "val_001.jpg")
        with pytest.raises(ValueError, match=r"one file per name, got both .*val_001"):
            module_of(camvid).setup("validate")

    def test_a_loader_before_setup_asks_for_setup(self, camvid):
        with pytest.raises(ValueError, match=r"expected a call of setup\('validate'\) before val_dataloader\(\)"):
            module_of(camvid).val_dataloader()

    @pytest.mark.parametrize(
        ("content", "num_workers"),
        [(b"", 0), (b"no image", 0), (None, 0), (None, 1)],
        ids=["empty", "text", "truncated", "in a worker"],
    )
    def test_an_unreadable_image_is_named(self, camvid, content, num_workers):
        path = camvid / "val" / "val_001.png"
        path.write_bytes(path.read_bytes()[:150] if content is None else content)
        data = module_of(camvid, num_workers=num_workers)
        data.setup("validate")
        with pytest.raises(ValueError, match=r"expected a readable image file, got .*val_001\.png"):
            list(data.val_dataloader())

    def test_fewer_images_than_a_batch_are_refused(self, camvid):
        with pytest.raises(ValueError, match=r"at least data\.batch_size=7 training images, got 6"):
            module_of(camvid, batch_size=7).setup("fit")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"image_size": (5, 5, 5)}, "image_size to be a height and a width"),
            ({"augmentation": (20, 28)}, r"expected an Augmentation, such as .*, got \(20, 28\)"),
            ({"batch_size": 0}, "batch_size to be 1 or more"),
            ({"num_workers": -1}, "num_workers to be 0 or more"),
        ],
    )
    def test_options_out_of_range_are_refused(self, camvid, options, message):
        with pytest.raises(ValueError, match=message):
            module_of(camvid, **options)

    def test_an_unknown_stage_is_refused(self, camvid):
        with pytest.raises(ValueError, match="expected stage to be one of fit, validate, test, predict, got 'train'"):
            module_of(camvid).setup("train")


def test_importing_the_data_modules_opens_no_connection():
    program = (
        "import socket, urllib.request; asked = [];"
        "urllib.request.OpenerDirector.open = lambda *a, **k: asked.append(a[1]) or (_ for _ in ()).throw(OSError('no network'));"
        "import cpg_lightning.data; print(asked)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "NO_ALBUMENTATIONS_UPDATE"}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert result.stdout.strip() == "[]"


class TestRealCamVid:
    def test_it_is_complete_and_every_label_is_a_class(self, real_data):
        data = CamVidDataModule(real_data / "camvid", Augmentation((240, 320)), image_size=(240, 320), num_workers=2)
        data.setup("fit")
        assert (len(data.datasets["train"]), len(data.datasets["val"])) == (367, 101)
        counts = torch.zeros(256, dtype=torch.int64)
        for batch in data.val_dataloader():
            assert batch["image"].shape == (1, 3, 240, 320)
            assert batch["mask"].shape == (1, 360, 480)
            counts += torch.bincount(batch["mask"].flatten(), minlength=256)
        assert (counts[:11] > 0).all()
        assert counts[255] > 0
        assert counts[11:255].sum() == 0
