"""What is said of wrong roots, files and labels of a dataset."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from dataset_modules import DATASETS, built, every_dataset, written
from hypothesis import given
from hypothesis import strategies as st
from layouts import (
    CLASSES,
    write_coco_stuff_10k,
    write_folder,
)
from PIL import Image
from scipy.io import savemat

from cpg_lightning.data import (
    Augmentation,
    ClassInfo,
    COCOStuff10kDataModule,
    FolderDataModule,
)
from cpg_lightning.data.decoding import decode_label
from cpg_lightning.losses import CrossEntropyCPGLoss
from cpg_lightning.module import SegmentationModule


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
