"""The datasets of the paper and a folder of one's own: layouts, encodings, recipes and real samples."""

import json
import shutil
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from dataset_modules import DATASETS, OFFICIAL, built, every_dataset, samples_of, written
from hypothesis import given
from hypothesis import strategies as st
from layouts import (
    CLASSES,
    write_ade20k,
    write_coco_stuff,
    write_coco_stuff_10k,
    write_folder,
)
from PIL import Image

from cpg_lightning.data import (
    ADE20KDataModule,
    Augmentation,
    CamVidDataModule,
    CityscapesDataModule,
    COCOStuff10kDataModule,
    COCOStuffDataModule,
    FolderDataModule,
)

# Counted from the samples' files with Pillow and SciPy alone.
HISTOGRAMS = json.loads((Path(__file__).parent / "sample_histograms.json").read_text())
SAMPLES = {
    "cityscapes": CityscapesDataModule,
    "cocostuff164k": COCOStuffDataModule,
    "cocostuff10k": COCOStuff10kDataModule,
    "ade20k/ADEChallengeData2016": ADE20KDataModule,
}


class TestLayouts:
    @every_dataset
    def test_splits_are_found_and_every_label_value_is_mapped(self, name, tmp_path):
        data = written(name, tmp_path)
        data.setup("fit"), data.setup("predict")
        assert (len(data.datasets["train"]), len(data.datasets["val"])) == DATASETS[name][2]
        for sample in samples_of(data.val_dataloader()) + samples_of(data.train_dataloader()):
            values = set(np.frombuffer(sample[2], np.int64).tolist())
            assert values <= {*range(data.num_classes), 255}

    def test_cityscapes_labels_become_the_benchmarks_classes(self, tmp_path):
        data = written("cityscapes", tmp_path)
        data.setup("validate")
        raw = np.array(Image.open(data.datasets["val"].files[0][1]))
        expected = {7: 0, 8: 1, 11: 2, 26: 13, 33: 18, 0: 255, 9: 255, 30: 255}
        mask = data.datasets["val"][0]["mask"].numpy()
        for value, label in expected.items():
            assert (mask[raw == value] == label).all()

    def test_the_two_releases_of_coco_stuff_have_the_same_classes(self, tmp_path):
        new, old = (kind.__dict__ for kind in (COCOStuffDataModule, COCOStuff10kDataModule))
        assert old["label_values"] == tuple(value + 1 for value in new["label_values"])
        assert (new["void_values"][0], old["void_values"][0]) == (255, 0)
        assert old["classes"] == new["classes"]

    def test_coco_stuff_10k_labels_may_be_png(self, tmp_path):
        samples = []
        for suffix in (".mat", ".png"):
            data = built(COCOStuff10kDataModule, write_coco_stuff_10k(tmp_path / suffix, suffix))
            data.setup("validate")
            samples.append(samples_of(data.val_dataloader()))
        assert samples[0] == samples[1]

    def test_coco_stuff_labels_may_have_another_folder_and_converted_copies(self, tmp_path):
        root = write_coco_stuff(tmp_path, "stuffthingmaps")
        for path in (root / "stuffthingmaps" / "val2017").iterdir():
            shutil.copy(path, path.with_name(f"{path.stem}_labelTrainIds.png"))
        data = built(COCOStuffDataModule, root)
        data.setup("validate")
        assert [path.name for _, path in data.datasets["val"].files] == ["000000000000.png", "000000000001.png"]

    def test_cityscapes_test_images_have_no_labels_and_can_be_predicted(self, tmp_path):
        data = written("cityscapes", tmp_path)
        data.setup("predict")
        batch = next(iter(data.predict_dataloader()))
        assert batch["name"] == ["bonn_000000_000019_leftImg8bit"]
        assert "mask" not in batch
        assert batch["size"].tolist() == [[36, 48]]

    def test_test_uses_public_labels(self, tmp_path):
        data = written("cityscapes", tmp_path)
        data.setup("test")
        assert "lindau_000000_000019_leftImg8bit" in {batch["name"][0] for batch in data.test_dataloader()}

    def test_training_uses_the_validation_images_on_request(self, tmp_path):
        data = written("cityscapes", tmp_path, train_with_val=True)
        data.setup("fit")
        assert (len(data.datasets["train"]), len(data.datasets["val"])) == (6, 2)

    def test_a_folder_may_be_split_by_lists(self, tmp_path):
        root = tmp_path / "mine"
        write_folder(root)
        for kind in ("images", "labels"):
            for path in [*(root / kind).rglob("*.*")]:
                path.rename(root / kind / path.name)
        (root / "train.txt").write_text("train0\ntrain1\nval0\n")
        (root / "val.txt").write_text("train2\n")
        (root / "test.txt").write_text("val1\n")
        data = built(FolderDataModule, root)
        data.setup("fit"), data.setup("test")
        assert [len(data.datasets[split]) for split in ("train", "val", "test")] == [3, 1, 1]

    def test_images_of_a_folder_without_labels_can_be_predicted(self, tmp_path):
        root = write_folder(tmp_path)
        shutil.copytree(root / "images" / "val", root / "images" / "test")
        data = built(FolderDataModule, root)
        data.setup("predict")
        assert [sorted(batch) for batch in data.predict_dataloader()] == [["image", "name", "size"]] * 2

    def test_subfolders_of_a_folder_are_kept_apart(self, tmp_path):
        root = write_folder(tmp_path)
        for kind in ("images", "labels"):
            for part in ("A", "B"):
                shutil.copytree(root / kind / "val", root / kind / "val" / part)
                shutil.rmtree(root / kind / "val" / part / "A", ignore_errors=True)
            for path in (root / kind / "val").glob("val*"):
                path.unlink()
        data = built(FolderDataModule, root)
        data.setup("validate")
        names = [batch["name"][0] for batch in data.val_dataloader()]
        assert names == ["A/val0", "A/val1", "B/val0", "B/val1"]
        (root / "images" / "val" / "A" / "val0.jpg").unlink()
        with pytest.raises(ValueError, match=r"got none for 1, e\.g\. .*labels/val/A/val0\.png"):
            data.files("val")

    def test_hidden_files_and_folders_are_left_out(self, tmp_path):
        root = write_folder(tmp_path)
        shutil.copytree(root / "images" / "val", root / "images" / "val" / ".ipynb_checkpoints")
        shutil.copy(root / "images" / "val" / "val0.jpg", root / "images" / "val" / "._val0.jpg")
        assert len(built(FolderDataModule, root).files("val")) == 2

    def test_classes_of_a_folder_come_from_its_file(self, tmp_path):
        data = built(FolderDataModule, write_folder(tmp_path))
        assert (data.num_classes, data.classes.names) == (2, ("background", "crack"))
        assert data.classes.palette == ((0x46, 0x46, 0x50), (0xDC, 0x50, 0x6E))
        assert (data.label_values, data.void_values) == ((3, 7), (255,))

    @every_dataset
    def test_other_datasets_in_the_process_keep_their_classes(self, name, tmp_path):
        data = written(name, tmp_path)
        assert data.num_classes == len(data.classes.names) == len(data.classes.palette) == len(data.label_values)
        assert (CamVidDataModule.classes.num_classes, CityscapesDataModule.classes.num_classes) == (11, 19)


class TestLabelTables:
    @pytest.mark.parametrize("module", OFFICIAL)
    @given(st.data())
    def test_label_values_are_restored(self, module, data):
        built_module = built(module, "nowhere")
        values = np.array(data.draw(st.lists(st.sampled_from(module.label_values), min_size=1)), dtype=np.uint8)
        classes = built_module.label_table()[values]
        assert np.array_equal(built_module.to_label_values(classes), values)
        assert np.array_equal(built_module.label_table()[built_module.to_label_values(classes)], classes)

    @pytest.mark.parametrize("module", OFFICIAL)
    def test_ignored_pixels_are_written_as_a_void_value(self, module):
        data = built(module, "nowhere")
        (written,) = data.to_label_values(np.array([255]))
        assert written in module.void_values
        assert data.label_table()[written] == 255

    def test_cityscapes_void_is_written_as_unlabeled(self):
        assert built(CityscapesDataModule, "nowhere").to_label_values(np.array([0, 255])).tolist() == [7, 0]

    @pytest.mark.parametrize("module", OFFICIAL)
    def test_an_invalid_class_is_not_written(self, module):
        for wrong in (module.classes.num_classes, -1):
            with pytest.raises(ValueError, match=rf"expected classes from 0 to .* or 255, got \[{wrong}\]"):
                built(module, "nowhere").to_label_values(np.array([[0, wrong]]))

    def test_a_dataset_without_void_values_writes_none(self, tmp_path):
        root = write_folder(tmp_path)
        (root / "classes.csv").write_text(CLASSES.replace("255,,\n", ""))
        with pytest.raises(ValueError, match=r"expected classes from 0 to 1, got \[255\]"):
            built(FolderDataModule, root).to_label_values(np.array([255]))

    @pytest.mark.parametrize("module", OFFICIAL)
    def test_values_are_classes_void_or_unknown(self, module):
        table = built(module, "nowhere").label_table()
        assert sorted(table[list(module.label_values)]) == list(range(module.classes.num_classes))
        assert (table[list(module.void_values)] == 255).all()
        assert (table == 254).sum() == 256 - len(module.label_values) - len(module.void_values)

    @pytest.mark.parametrize(
        ("module", "classes", "void", "first", "last"),
        [
            (CityscapesDataModule, 19, 15, "road", "bicycle"),
            (COCOStuffDataModule, 171, 12, "person", "wood"),
            (COCOStuff10kDataModule, 171, 12, "person", "wood"),
            (ADE20KDataModule, 150, 1, "wall", "flag"),
        ],
    )
    def test_there_are_as_many_classes_as_published(self, module, classes, void, first, last):
        assert (module.classes.num_classes, len(module.void_values)) == (classes, void)
        assert (module.classes.names[0], module.classes.names[-1]) == (first, last)

    def test_colours_of_coco_stuff_are_distinct(self):
        assert len(set(COCOStuffDataModule.classes.palette)) == 171
        assert (0, 0, 0) not in COCOStuffDataModule.classes.palette

    def test_tables_are_the_official_ones(self):
        labels = pytest.importorskip("cityscapesscripts.helpers.labels").labels
        table = built(CityscapesDataModule, "nowhere").label_table()
        for label in labels:
            if label.id >= 0:
                assert table[label.id] == label.trainId
        named = {label.trainId: label for label in labels if label.trainId not in (255, -1)}
        assert CityscapesDataModule.classes.names == tuple(named[index].name for index in range(19))
        assert CityscapesDataModule.classes.palette == tuple(named[index].color for index in range(19))


class TestRecipes:
    @pytest.mark.parametrize("workers", [0, 2])
    @every_dataset
    def test_masks_are_int64_outside_of_a_trainer(self, name, workers, tmp_path):
        data = written(name, tmp_path, num_workers=workers)
        data.setup("fit")
        for loader in (data.train_dataloader(), data.val_dataloader()):
            assert {batch["mask"].dtype for batch in loader} == {torch.int64}

    def test_scales_are_drawn_by_steps_of_the_long_side(self, tmp_path):
        root = write_ade20k(tmp_path)
        augmentation = Augmentation((200, 200), (0.5, 2.1), scale_step=0.1, long_side=60, horizontal_flip=0)
        data = built(ADE20KDataModule, root, augmentation=augmentation)
        data.setup("fit")
        widths = set()
        loader = data.train_dataloader()
        for _ in range(60):
            for batch in loader:
                inside = (batch["mask"] != 255).any(dim=1) | (batch["image"] > 0).any(dim=1).any(dim=1)
                widths |= {int(row.nonzero().max()) + 1 for row in inside}
        assert widths == {round(60 * (0.5 + 0.1 * step)) for step in range(17)}

    def test_images_keep_their_shape(self, tmp_path):
        data = written(
            "ade20k", tmp_path, image_size=18, augmentation=Augmentation((100, 100), (1, 1), horizontal_flip=0)
        )
        data.setup("fit")
        assert data.datasets["val"][0]["image"].shape == (3, 18, 24)
        mask = data.datasets["train"][0]["image"][0] > 0
        assert (int(mask.any(dim=1).sum()), int(mask.any(dim=0).sum())) == (18, 24)

    def test_crops_with_too_much_of_one_class_are_drawn_again(self, tmp_path):
        root = write_folder(tmp_path)
        label = np.full((96, 96), 3, dtype=np.uint8)
        label[:, 84:] = 7
        for path in (root / "images" / "train").iterdir():
            Image.new("RGB", (96, 96), (9, 9, 9)).save(path)
            Image.fromarray(label).save(root / "labels" / "train" / f"{path.stem}.png")

        def mixed(share):
            L.seed_everything(0)
            data = built(
                FolderDataModule,
                root,
                augmentation=Augmentation((24, 24), scale=(1, 1), max_class_share=share),
                batch_size=4,
            )
            data.setup("fit")
            loader = data.train_dataloader()
            masks = torch.cat([batch["mask"] for _ in range(25) for batch in loader])
            return ((masks == 1).float().mean(dim=(1, 2)) > 0.25).float().mean()

        # A window has over a quarter of the other class in 6 of 73 places: 8 %, of 10 windows one in 57 %.
        assert mixed(1.0) < 0.2
        assert mixed(0.75) > 0.45

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"image_size": 0}, "image_size to be 1 or more"),
            ({"test_split": "test"}, "test_split to be train or val, got 'test'"),
        ],
    )
    def test_options_out_of_range_are_refused(self, options, message, tmp_path):
        with pytest.raises(ValueError, match=message):
            built(ADE20KDataModule, tmp_path, **options)


class TestRealSamples:
    @pytest.mark.parametrize(
        ("folder", "split"), [(folder, split) for folder in HISTOGRAMS for split in HISTOGRAMS[folder]]
    )
    def test_histograms_equal_the_recorded_counts(self, folder, split, real_data):
        dataset = built(SAMPLES[folder], real_data / "samples" / folder).dataset(split, training=False)
        counts = sum(torch.bincount(dataset[index]["mask"].flatten(), minlength=256) for index in range(len(dataset)))
        got = {str(label): int(counts[label]) for label in counts.nonzero().flatten().tolist()}
        assert got == HISTOGRAMS[folder][split]

    def test_cityscapes_labels_are_mapped_as_by_its_own_scripts(self, real_data):
        labels = pytest.importorskip("cityscapesscripts.helpers.labels").labels
        official = np.full(256, 255)
        for label in labels:
            if label.id >= 0:
                official[label.id] = label.trainId
        data = built(CityscapesDataModule, real_data / "samples" / "cityscapes")
        for split in ("train", "val"):
            dataset = data.dataset(split, training=False)
            for index, (_, path) in enumerate(dataset.files):
                assert np.array_equal(dataset[index]["mask"], official[np.array(Image.open(path))])

    def test_both_releases_of_coco_stuff_agree_on_an_image(self, real_data):
        new = built(COCOStuffDataModule, real_data / "samples" / "cocostuff164k").dataset("train", training=False)
        old = built(COCOStuff10kDataModule, real_data / "samples" / "cocostuff10k").dataset("train", training=False)
        by_id = {path.stem: index for index, (path, _) in enumerate(new.files)}
        shared = [(index, path.stem[-12:]) for index, (path, _) in enumerate(old.files) if path.stem[-12:] in by_id]
        assert shared
        for index, name in shared:
            assert torch.equal(old[index]["mask"], new[by_id[name]]["mask"])
