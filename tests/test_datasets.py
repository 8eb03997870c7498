"""The datasets of the paper and a folder of one's own: layouts, zip files, encodings, recipes and errors."""

import io
import json
import shutil
import zipfile
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from layouts import (
    CLASSES,
    write_ade20k,
    write_cityscapes,
    write_coco_stuff,
    write_coco_stuff_10k,
    write_folder,
    zipped,
)
from PIL import Image
from scipy.io import savemat
from torch.utils.data import DataLoader

from cpg_lightning.data import (
    ADE20KDataModule,
    Augmentation,
    CamVidDataModule,
    CityscapesDataModule,
    ClassInfo,
    COCOStuff10kDataModule,
    COCOStuffDataModule,
    FolderDataModule,
)
from cpg_lightning.data.decoding import decode_label
from cpg_lightning.losses import CrossEntropyCPGLoss
from cpg_lightning.module import SegmentationModule

DATASETS = {
    "cityscapes": (CityscapesDataModule, write_cityscapes, (4, 2)),
    "coco_stuff": (COCOStuffDataModule, write_coco_stuff, (4, 2)),
    "coco_stuff_10k": (COCOStuff10kDataModule, write_coco_stuff_10k, (4, 2)),
    "ade20k": (ADE20KDataModule, write_ade20k, (4, 2)),
    "folder": (FolderDataModule, write_folder, (4, 2)),
}
OFFICIAL = [CityscapesDataModule, COCOStuffDataModule, COCOStuff10kDataModule, ADE20KDataModule, CamVidDataModule]

# Counted from the samples' files with Pillow and SciPy alone.
HISTOGRAMS = json.loads((Path(__file__).parent / "sample_histograms.json").read_text())
SAMPLES = {
    "cityscapes": CityscapesDataModule,
    "cocostuff164k": COCOStuffDataModule,
    "cocostuff10k": COCOStuff10kDataModule,
    "ade20k/ADEChallengeData2016": ADE20KDataModule,
}

every_dataset = pytest.mark.parametrize("name", DATASETS)


def built(kind, root, **options):
    return kind(root, **{"augmentation": Augmentation((20, 28)), "batch_size": 2, "num_workers": 0, **options})


def written(name, folder, **options):
    kind, write, _ = DATASETS[name]
    return built(kind, write(folder / name), **options)


def samples_of(loader):
    return [
        (name, image.numpy().tobytes(), mask.numpy().tobytes())
        for batch in loader
        for name, image, mask in zip(batch["name"], batch["image"], batch["mask"], strict=True)
    ]


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


ZIPS = {
    "cityscapes": [("leftImg8bit", "leftImg8bit_trainvaltest.zip"), ("gtFine", "gtFine_trainvaltest.zip")],
    "coco_stuff": [
        ("images/train2017", "train2017.zip"),
        ("images/val2017", "val2017.zip"),
        ("annotations", "stuffthingmaps_trainval2017.zip"),
    ],
    "ade20k": [("", "ADEChallengeData2016.zip")],
    "coco_stuff_10k": [("", "cocostuff-10k-v1.1.zip")],
}
INSIDE = {
    "leftImg8bit": "leftImg8bit",
    "gtFine": "gtFine",
    "images/train2017": "train2017",
    "images/val2017": "val2017",
}


def put_into_zips(name, root, method=zipfile.ZIP_DEFLATED):
    """A new folder with the official zip files of what is in root."""
    holder = root.parent / "zips"
    for folder, archive in ZIPS[name]:
        prefix = "ADEChallengeData2016" if name == "ade20k" else INSIDE.get(folder, "")
        zipped(root / folder, holder / archive, prefix, method)
    return holder


class TestZipFiles:
    @pytest.mark.parametrize("name", ZIPS)
    def test_zip_files_give_the_same_samples_as_folders(self, name, tmp_path):
        options = {"num_workers": 0}
        epochs = []
        root = DATASETS[name][1](tmp_path / name)
        for place in (lambda: root, lambda: put_into_zips(name, root)):
            data = built(DATASETS[name][0], place(), **options)
            L.seed_everything(1)
            data.setup("fit")
            epochs.append((samples_of(data.train_dataloader()), samples_of(data.val_dataloader())))
        assert epochs[0] == epochs[1]

    def test_the_zip_file_itself_may_be_the_root(self, tmp_path):
        holder = put_into_zips("ade20k", write_ade20k(tmp_path / "ade20k"))
        renamed = (holder / "ADEChallengeData2016.zip").rename(holder / "ade.zip")
        data = built(ADE20KDataModule, renamed)
        data.setup("validate")
        assert len(samples_of(data.val_dataloader())) == 2

    @pytest.mark.parametrize("place", [".", "images"])
    def test_zip_files_may_be_in_the_folder_of_their_unpacked_files(self, place, tmp_path):
        root = write_coco_stuff(tmp_path / "coco")
        zipped(root / "images" / "val2017", root / place / "val2017.zip", "val2017")
        assert len(built(COCOStuffDataModule, root).files("val")) == 2

    def test_a_zip_file_that_is_not_the_official_one_is_named(self, tmp_path):
        zipped(write_ade20k(tmp_path / "ade20k"), tmp_path / "zips" / "ADEChallengeData2016.zip")
        with pytest.raises(
            FileNotFoundError, match=r"2016\.zip to contain ADEChallengeData2016/, got annotations, images"
        ):
            built(ADE20KDataModule, tmp_path / "zips").setup("fit")

    def test_a_zip_file_of_another_compression_is_refused(self, tmp_path):
        holder = put_into_zips("ade20k", write_ade20k(tmp_path / "ade20k"), zipfile.ZIP_LZMA)
        with pytest.raises(ValueError, match=r"stored or deflated, got another \(method 14\): .*2016\.zip"):
            built(ADE20KDataModule, holder).setup("fit")

    @pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
    @pytest.mark.parametrize(
        "method",
        [pytest.param(zipfile.ZIP_STORED, marks=pytest.mark.slow), zipfile.ZIP_DEFLATED],
        ids=["stored", "deflated"],
    )
    def test_workers_read_a_zip_file_at_once(self, context, method, tmp_path):
        data = built(CityscapesDataModule, put_into_zips("cityscapes", write_cityscapes(tmp_path / "c"), method))
        data.setup("fit")
        dataset = data.datasets["val"]
        expected = [dataset[index]["image"].numpy().tobytes() for index in (0, 1) * 20]
        loader = DataLoader(dataset, None, sampler=[0, 1] * 20, num_workers=2, multiprocessing_context=context)
        assert [sample["image"].numpy().tobytes() for sample in loader] == expected

    def test_a_broken_zip_file_is_named(self, tmp_path):
        holder = put_into_zips("ade20k", write_ade20k(tmp_path / "ade20k"))
        archive = holder / "ADEChallengeData2016.zip"
        archive.write_bytes(archive.read_bytes()[:-50])
        with pytest.raises(ValueError, match=r"readable zip file, got .*ADEChallengeData2016\.zip; download it again"):
            built(ADE20KDataModule, holder).setup("fit")

    def test_a_broken_file_in_a_zip_file_is_named(self, tmp_path):
        holder = put_into_zips("ade20k", write_ade20k(tmp_path / "ade20k"), zipfile.ZIP_STORED)
        archive = holder / "ADEChallengeData2016.zip"
        content = bytearray(archive.read_bytes())
        with zipfile.ZipFile(archive) as file:
            entry = file.getinfo("ADEChallengeData2016/images/validation/ADE_val_00000001.jpg")
        content[entry.header_offset + 300] ^= 0xFF
        archive.write_bytes(content)
        data = built(ADE20KDataModule, holder)
        data.setup("validate")
        with pytest.raises(
            ValueError, match=r"one that is damaged: .*ADEChallengeData2016\.zip/.*ADE_val_00000001\.jpg"
        ):
            data.datasets["val"][0]


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


class TestErrors:
    @every_dataset
    def test_the_error_for_a_wrong_root_shows_the_layout_and_the_existing_folders(self, name, tmp_path):
        kind, write, _ = DATASETS[name]
        root = write(tmp_path / name)
        if name == "folder":
            (tmp_path / "classes.csv").write_text(CLASSES)
        (tmp_path / "something else").mkdir()
        with pytest.raises(
            FileNotFoundError, match=rf"(?s)got .* which contains .*{name}, something else.*\n    images|left"
        ):
            built(kind, tmp_path).setup("fit")
        assert root.is_dir()

    @pytest.mark.parametrize("name", ["cityscapes", "coco_stuff", "coco_stuff_10k", "ade20k"])
    def test_the_error_for_a_missing_folder_names_the_official_zip_file(self, name, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(FileNotFoundError, match=r"expected the folder .* or .*\.zip with it"):
            built(DATASETS[name][0], tmp_path / "empty").setup("fit")

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("coco_stuff", 182, r"values 0\.\.181, 255, got \[182\]: .*\.png; .*COCOStuff10kDataModule"),
            ("coco_stuff_10k", 255, r"values 0\.\.182, got \[255\]: .*\.(png|mat); .*use COCOStuffDataModule"),
            ("ade20k", 151, r"values 0\.\.150, got \[151\]"),
            ("cityscapes", 255, r"values 0\.\.11, 12\.\.33|values 0\.\.33, got \[255\]"),
            ("folder", 4, r"values 3, 7, 255, got \[4\]"),
        ],
    )
    @pytest.mark.parametrize("stage", ["fit", "validate"])
    def test_an_unknown_label_value_is_an_error(self, name, value, message, stage, tmp_path):
        kind, write, _ = DATASETS[name]
        data = built(kind, write(tmp_path / name), augmentation=Augmentation((36, 48), scale=(1, 1)))
        data.setup(stage)
        dataset = data.datasets["train" if stage == "fit" else "val"]
        path = dataset.files[1][1]
        values = np.full((36, 48), value, dtype=np.uint8)
        if path.suffix == ".mat":
            savemat(path, {"S": values, "names": np.array([[str(n)] for n in range(182)], dtype=object)})
        else:
            Image.fromarray(values).save(path)
        with pytest.raises(ValueError, match=message):
            dataset[1]

    def test_labels_of_release_1_0_are_refused(self, tmp_path):
        data = built(COCOStuff10kDataModule, write_coco_stuff_10k(tmp_path))
        data.setup("validate")
        names = np.array([[str(n)] for n in range(172)], dtype=object)
        savemat(data.datasets["val"].files[0][1], {"S": np.zeros((36, 48), np.uint8), "names": names})
        with pytest.raises(ValueError, match=r"v1\.1, with 182 names, got 172, as in v1\.0"):
            data.datasets["val"][0]

    @pytest.mark.parametrize("content", [b"", b"no mat", b"MATLAB 5.0 MAT-file" + bytes(200)])
    def test_an_invalid_mat_file_is_named(self, content, tmp_path):
        data = built(COCOStuff10kDataModule, write_coco_stuff_10k(tmp_path))
        data.setup("validate")
        data.datasets["val"].files[0][1].write_bytes(content)
        with pytest.raises(ValueError, match=r"expected a \.mat file with the labels S .*000004\.mat"):
            data.datasets["val"][0]

    def test_a_missing_list_is_named(self, tmp_path):
        root = write_coco_stuff_10k(tmp_path)
        (root / "imageLists" / "train.txt").unlink()
        with pytest.raises(FileNotFoundError, match=r"expected the list .*imageLists/train\.txt"):
            built(COCOStuff10kDataModule, root).setup("fit")

    def test_a_listed_image_that_is_missing_is_named(self, tmp_path):
        root = write_coco_stuff_10k(tmp_path)
        (root / "images" / "COCO_train2014_000000000001.jpg").unlink()
        with pytest.raises(
            ValueError, match=r"each of the 4 names in .*train\.txt, got none for 1, e\.g\. .COCO_train2014_0"
        ):
            built(COCOStuff10kDataModule, root).setup("fit")

    @every_dataset
    def test_an_image_without_a_label_is_named(self, name, tmp_path):
        data = written(name, tmp_path)
        image, label = data.files("train")[1]
        label.unlink()
        with pytest.raises(ValueError, match=rf"got none for 1, e\.g\. .*{image.name}"):
            data.setup("fit")

    @pytest.mark.parametrize("name", ["cityscapes", "coco_stuff", "ade20k", "folder"])
    def test_a_label_without_an_image_is_named(self, name, tmp_path):
        data = written(name, tmp_path)
        image, label = data.files("val")[1]
        image.unlink()
        with pytest.raises(ValueError, match=rf"got none for 1, e\.g\. .*{label.name}"):
            data.setup("validate")

    def test_evaluation_on_labels_that_are_not_public_is_refused(self, tmp_path):
        data = written("cityscapes", tmp_path, test_split="test")
        with pytest.raises(ValueError, match=r"labels for test, got the test split of CityscapesDataModule"):
            data.setup("test")

    def test_the_error_for_missing_classes_shows_an_example(self, tmp_path):
        with pytest.raises(
            FileNotFoundError,
            match=r"(?s)file of classes .*classes\.csv, got .* which contains nothing\. .*labels/train.*0,background,#464650",
        ):
            built(FolderDataModule, tmp_path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("value,name,color\n", "2 or more classes, got 0"),
            ("value,name,color\n300,a,#000000\n", r"got line 2 \(value 300\)"),
            ("value,name,color\nx,a,#000000\n", r"got line 2 \(invalid literal"),
            ("value,name,color\n0,a,red\n", r"got line 2 \(colour 'red' instead of #rrggbb"),
            ("value,name,color\n0,a\n", "got line 2"),
            ("name,color\na,#000000\n", "first line to be value,name,color, got name,color"),
            ("value;name;color\n0;a;#000000\n", "first line to be value,name,color, got value;name;color"),
            ('value,name,color\n0,"a,#000000\n', "comma-separated values in UTF-8, got unexpected end"),
            ("value,name,color\n0,a,#000000\n0,b,#000001\n", "each value once, got 0"),
            ("value,name,color\n0,a,#000000\n1,a,#000001\n", "each name once, got a"),
        ],
    )
    def test_a_wrong_file_of_classes_is_named(self, content, message, tmp_path):
        (tmp_path / "classes.csv").write_text(content)
        with pytest.raises(ValueError, match=rf"(?s){message}.*classes\.csv"):
            built(FolderDataModule, tmp_path)

    def test_classes_in_another_encoding_are_refused(self, tmp_path):
        (tmp_path / "classes.csv").write_bytes("value,name,color\n0,früh,#000000\n".encode("latin-1"))
        with pytest.raises(ValueError, match=r"comma-separated values in UTF-8, got .*classes\.csv"):
            built(FolderDataModule, tmp_path)

    def test_an_unknown_split_is_named(self, tmp_path):
        for name in ("ade20k", "coco_stuff", "coco_stuff_10k", "folder"):
            with pytest.raises(ValueError, match="expected split to be one of train, val, got 'test'"):
                written(name, tmp_path).dataset("test", training=False)

    def test_test_images_without_labels_are_never_replaced_by_others(self, tmp_path):
        root = write_folder(tmp_path)
        shutil.copytree(root / "images" / "val", root / "images" / "test")
        shutil.copytree(root / "labels" / "val", root / "labels" / "Test")
        with pytest.raises(ValueError, match=r"(?s)images with labels for test, got the test split .* which has none"):
            built(FolderDataModule, root).setup("test")

    def test_an_image_in_two_splits_is_named(self, tmp_path):
        root = write_folder(tmp_path)
        for kind in ("images", "labels"):
            for path in [*(root / kind).rglob("*.*")]:
                path.rename(root / kind / path.name)
        (root / "train.txt").write_text("train0\ntrain1\n")
        (root / "val.txt").write_text("train1\n")
        with pytest.raises(ValueError, match=r"one split, got 1 both in train\.txt and in val\.txt .* e\.g\. train1"):
            built(FolderDataModule, root).setup("fit")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "got an empty list: .*train.txt"),
            ("\ufefftrain0.jpg".encode(), "got none for 1, e.g. 'train0.jpg'; names are without a suffix"),
            ("train0".encode("utf-16"), "a list in UTF-8, got another encoding: .*train.txt"),
        ],
    )
    def test_an_invalid_list_is_named(self, content, message, tmp_path):
        root = write_folder(tmp_path)
        (root / "train.txt").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            built(FolderDataModule, root).files("train")

    def test_an_image_that_is_shown_rotated_is_refused(self, tmp_path):
        root = write_folder(tmp_path)
        path = root / "images" / "val" / "val0.jpg"
        image = Image.open(path)
        exif = image.getexif()
        exif[0x0112] = 3
        image.save(path, exif=exif)
        data = built(FolderDataModule, root)
        data.setup("validate")
        with pytest.raises(ValueError, match=r"EXIF orientation 3: .*val0\.jpg"):
            data.datasets["val"][0]

    def test_images_of_several_sizes_are_not_predicted_as_one(self):
        network = tiny.Tiny(2)
        module = SegmentationModule(network, CrossEntropyCPGLoss(), ClassInfo.numbered(2))
        batch = {"image": torch.zeros(2, 3, 16, 16), "size": torch.tensor([[16, 16], [9, 20]])}
        with pytest.raises(ValueError, match=r"images of one size in a batch, got .* eval_batch_size of 1"):
            module.predict_step(batch, 0)

    @given(st.data())
    def test_every_flipped_bit_of_a_label_is_detected(self, data):
        pixels = np.random.default_rng(0).integers(0, 19, (24, 32), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        content = bytearray(file.getvalue())
        bit = data.draw(st.integers(0, 8 * len(content) - 1))
        content[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match=r"label\.png"):
            decode_label(bytes(content), Path("label.png"))

    @pytest.mark.parametrize("mode", ["L", "CMYK"])
    def test_grey_and_cmyk_images_become_rgb(self, mode, tmp_path):
        data = written("ade20k", tmp_path)
        data.setup("validate")
        path = data.datasets["val"].files[0][0]
        image = Image.open(path).convert(mode)
        image.save(path, quality=95)
        expected = np.array(Image.open(path).convert("RGB")).astype(int)
        assert np.abs(data.datasets["val"].read(0)[0] - expected).max() <= 2

    def test_a_label_as_jpeg_is_refused(self, tmp_path):
        data = written("folder", tmp_path)
        data.setup("validate")
        path = data.datasets["val"].files[0][1]
        Image.open(path).save(path, format="JPEG")
        with pytest.raises(ValueError, match=r"expected a label as PNG, got another format.*val0\.png"):
            data.datasets["val"][0]

    @pytest.mark.parametrize("damage", ["truncated", "flipped"])
    @pytest.mark.parametrize("part", [0, 1], ids=["image", "label"])
    @pytest.mark.parametrize("name", ["cityscapes", "ade20k"])
    def test_damaged_files_are_named(self, name, part, damage, tmp_path):
        data = written(name, tmp_path)
        data.setup("validate")
        path = data.datasets["val"].files[0][part]
        content = bytearray(path.read_bytes())
        if damage == "truncated" or path.suffix == ".jpg":
            content = content[: len(content) // 2]
        else:
            content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"expected a readable image file, got .*{path.name}"):
            data.datasets["val"][0]


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
