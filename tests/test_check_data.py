"""cpg check-data: what it counts, what it finds wrong, and the class weights that it writes."""

import io
import os
import sys

import numpy as np
import pytest
import yaml
from commands import EXPERIMENTS
from layouts import write_ade20k, write_cityscapes, write_coco_stuff, write_coco_stuff_10k, write_folder
from PIL import Image
from rich.console import Console

from cpg_lightning.check_data import check_data, class_weights, inspect_split
from cpg_lightning.cli import main
from cpg_lightning.command import command
from cpg_lightning.data import (
    Augmentation,
    CityscapesDataModule,
    COCOStuff10kDataModule,
    COCOStuffDataModule,
    FolderDataModule,
)


@pytest.fixture
def folder(tmp_path):
    """Two classes and void, of which every count is known."""
    root = write_folder(tmp_path / "mine")
    for number, path in enumerate(sorted((root / "labels" / "train").iterdir())):
        label = np.full((36, 48), 3, dtype=np.uint8)
        if number:
            label[:, 36:] = 7
        label[:4] = 255
        Image.fromarray(label).save(path)
    return root


def checked(root, capsys, *options):
    """Exit status and what was printed, for a folder."""
    data = ["--data", "FolderDataModule", "--data.root", str(root), "--data.augmentation.crop_size", "[20, 28]"]
    status = check_data([*data, "--num_workers", "0", *options])
    return status, " ".join(capsys.readouterr().out.split())


def looked_at(root, split="train", workers=0):
    return inspect_split(FolderDataModule(root, Augmentation((20, 28))), split, workers, Console(quiet=True))


class TestCounting:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_pixels_and_images_of_each_value_are_counted(self, folder, workers):
        findings = looked_at(folder, workers=workers)
        assert findings.images == 4
        assert findings.pixels[[3, 7, 255]].tolist() == [32 * (48 + 3 * 36), 32 * 3 * 12, 4 * 4 * 48]
        assert findings.pixels.sum() == 4 * 36 * 48
        assert findings.images_with[[3, 7, 255]].tolist() == [4, 3, 4]
        assert findings.pixels_beside[[3, 7]].tolist() == [4 * 32 * 48, 3 * 32 * 48]

    def test_pixels_at_a_boundary_are_those_beside_another_class_and_not_beside_void(self, folder):
        assert looked_at(folder).boundary[[3, 7, 255]].tolist() == [32 * 3, 32 * 3, 0]

    def test_sizes_and_modes_are_collected(self, folder):
        Image.new("L", (24, 50)).save(folder / "images" / "train" / "train0.jpg")
        Image.fromarray(np.full((50, 24), 3, np.uint8)).save(folder / "labels" / "train" / "train0.png")
        findings = looked_at(folder)
        assert (findings.heights, findings.widths) == ((36, 50), (24, 48))
        assert findings.modes == {"image RGB": 3, "image L": 1, "label L": 4}

    @pytest.mark.parametrize("name", ["[/]", "[red]a[/x]", ":car:", "a\\"])
    def test_names_of_classes_are_shown_as_they_are(self, folder, capsys, name):
        (folder / "classes.csv").write_text(f"value,name,color\n3,{name},#464650\n7,crack,#dc506e\n255,,\n")
        assert f"│ {name} " in checked(folder, capsys, "--crops", "[/x].png", "--class_weights", "[/x].yaml")[1]

    def test_a_name_that_cannot_be_printed_does_not_end_the_report(self, folder, monkeypatch):
        images = os.fsencode(folder / "images" / "train")
        os.rename(images + b"/train0.jpg", images + b"/caf\xe9.jpg")
        data = ["--data", "FolderDataModule", "--data.root", str(folder), "--data.augmentation.crop_size", "[20, 28]"]
        monkeypatch.setattr(sys, "argv", ["cpg", "check-data", *data, "--num_workers", "0"])
        shown = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, "utf-8", "strict"))
        with pytest.raises(SystemExit):
            command()
        sys.stdout.flush()
        assert b"caf\\udce9.jpg" in shown.getvalue()
        assert b"2 problems" in shown.getvalue()

    def test_every_class_is_listed_with_its_share(self, folder, capsys):
        status, shown = checked(folder, capsys)
        assert status == 0
        for expected in (
            "4 images",
            "height x width: 36 x 48 pixels; image RGB: 4, label L: 4",
            "│ 3 │ background │ 72.22% │ 4 │ 1.9% │",
            "│ 7 │ crack │ 16.67% │ 3 │ 8.3% │",
            "│ 255 │ ignored │ 11.11% │ 4 │ │",
            "no problems found",
        ):
            assert expected in shown

    def test_an_absent_class_is_named(self, folder, capsys):
        (folder / "classes.csv").write_text((folder / "classes.csv").read_text() + "9,moss,#00ff00\n")
        assert "│ 9 │ moss │ absent │ 0 │" in checked(folder, capsys)[1]

    def test_public_labels_are_checked_and_images_without_labels_are_counted(self, tmp_path, capsys):
        options = ["--data.root", str(write_cityscapes(tmp_path / "c")), "--data.augmentation.crop_size", "[20, 28]"]
        assert check_data(["--data", "CityscapesDataModule", *options, "--splits", "[val, test]"]) == 1
        shown = " ".join(capsys.readouterr().out.split())
        assert "2 images of 500 published" in shown
        assert "wrong: expected the 1525 images of the test split as published, got 2" in shown
        assert "height x width: 36 x 48 pixels; image RGB: 2" in shown
        assert "CityscapesDataModule: train" not in shown


class TestProblems:
    def test_one_run_finds_broken_files_sizes_and_values(self, folder, capsys):
        images, labels = folder / "images" / "train", folder / "labels" / "train"
        (images / "train0.jpg").write_bytes((images / "train0.jpg").read_bytes()[:200])
        Image.new("L", (10, 10), 3).save(labels / "train1.png")
        Image.new("L", (48, 36), 99).save(labels / "train2.png")
        (labels.parent / "val" / "val1.png").unlink()
        status, shown = checked(folder, capsys)
        assert status == 1
        for expected in (
            r"train0.jpg; replace or remove it",
            "expected the label to have its image's size",
            "expected label values 3, 7, 255, got [99]",
            "│ 99 │ unknown │",
            "got none for 1, e.g.",
            "4 problems",
        ):
            assert expected in shown

    def test_few_problems_are_shown_and_all_are_counted(self, tmp_path):
        root = write_folder(tmp_path)
        for number in range(30):
            for kind, suffix in (("images", "jpg"), ("labels", "png")):
                (root / kind / "train" / f"broken{number}.{suffix}").write_bytes(b"")
        findings = looked_at(root)
        assert (findings.problems, len(findings.messages)) == (30, 20)

    def test_a_missing_folder_is_a_problem_of_its_split(self, folder, capsys):
        (folder / "images" / "val").rename(folder / "images" / "validation")
        status, shown = checked(folder, capsys)
        assert status == 1
        assert "wrong: expected the folder" in shown
        assert "1 problem" in shown

    def test_a_wrong_number_of_images_is_a_problem(self, tmp_path, capsys):
        options = ["--config", str(EXPERIMENTS / "ade20k.yaml"), "--data.root", str(write_ade20k(tmp_path / "ade"))]
        assert check_data([*options, "--num_workers", "0"]) == 1
        assert "expected the 20210 images of the train split as published, got 4" in capsys.readouterr().out

    def test_the_command_exits_with_the_status(self, folder, monkeypatch, capsys):
        options = [
            "--data",
            "FolderDataModule",
            "--data.root",
            str(folder),
            "--data.augmentation.crop_size",
            "[20, 28]",
        ]
        monkeypatch.setattr("sys.argv", ["cpg", "check-data", *options, "--num_workers", "0"])
        with pytest.raises(SystemExit) as stopped:
            command()
        assert stopped.value.code == 0

    def test_options_of_a_training_in_its_file_are_not_used(self, folder, tmp_path, capsys):
        (tmp_path / "fit.yaml").write_text(
            "seed_everything: true\noutput: runs/mine\nrun: null\noverwrite: false\nckpt_path: last.ckpt\n"
            "trainer: {max_epochs: 3}\nmodel: {criterion: nowhere.yaml}\n"
        )
        status, shown = checked(folder, capsys, "--config", "fit.yaml")
        assert (status, "no problems found" in shown) == (0, True)
        assert not (tmp_path / "runs").exists()

    def test_only_the_pictures_are_written(self, folder, tmp_path, capsys):
        before = {path for path in tmp_path.rglob("*")}
        checked(folder, capsys)
        assert {path.name for path in tmp_path.rglob("*")} - {path.name for path in before} == {"check-data.png"}


class TestOneReport:
    """All that is wrong is said in one run."""

    def test_partners_jpegs_and_values_do_not_hide_each_other(self, folder, capsys):
        images, labels = folder / "images" / "train", folder / "labels" / "train"
        (labels / "train0.png").rename(labels / "train0.jpg")
        Image.open(labels / "train1.png").save(labels / "train1.png", format="JPEG")
        ramp = np.arange(48, dtype=np.uint8)[None].repeat(36, axis=0)
        Image.fromarray(ramp).save(labels / "train2.png")
        (images / "extra.heic").write_bytes(b"")
        status, shown = checked(folder, capsys)
        assert status == 1
        for expected in (
            "got none for 1, e.g. ",
            "train0.jpg is a JPEG, which changes label values: export PNG",
            "expected a label as PNG, got another format (JPEG)",
            "train2.png; values between the classes come from a JPEG",
            "note: not read in ",
            "1 .heic, e.g. ",
            "3 problems",
            "training crops: check-data.png",
        ):
            assert expected in shown

    @pytest.mark.parametrize("split", ["train", "val"])
    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (
                lambda labels: [path.rename(path.with_suffix(".jpg")) for path in labels.iterdir()],
                " .jpg files; a label is a PNG",
            ),
            (lambda labels: labels.rename(labels.with_name("other")), "--data.labels 'masks/{split}/{name}.png'"),
            (
                lambda labels: labels.parent.rename(labels.parent.with_name("masks")),
                "which contains classes.csv, images, masks",
            ),
            (lambda labels: [path.unlink() for path in labels.iterdir()], "no files of these names"),
        ],
    )
    def test_a_split_without_labels_lists_the_files_that_exist(self, change, expected, split, folder, capsys):
        change(folder / "labels" / split)
        status, shown = checked(folder, capsys)
        assert status == 1
        assert f"expected labels for the {split} split, got none for its" in shown
        assert f"labels/{split}/{{name}}.png: " in shown
        assert expected in shown

    def test_training_on_a_split_without_labels_gives_the_same_error(self, folder):
        (folder / "labels").rename(folder / "masks")
        with pytest.raises(
            ValueError,
            match=r"labels for fit, .*labels/train/\{name\}\.png: got .*, which contains classes\.csv, images, masks",
        ):
            FolderDataModule(folder, Augmentation((20, 28))).setup("fit")

    def test_labels_that_are_all_ignored_are_wrong(self, folder, capsys):
        for path in (folder / "labels" / "val").iterdir():
            Image.new("L", (48, 36), 255).save(path)
        status, shown = checked(folder, capsys)
        assert (status, "each pixel of the val labels has a value that is ignored" in shown) == (1, True)

    def test_a_class_that_no_label_has_is_a_note(self, folder, capsys):
        (folder / "classes.csv").write_text((folder / "classes.csv").read_text() + "9,moss [wet],#00ff00\n")
        status, shown = checked(folder, capsys)
        assert (status, "note: no label of the train split has moss [wet]" in shown) == (0, True)

    def test_damage_found_by_the_decoder_is_named_with_the_file(self, folder, capfd):
        path = folder / "images" / "train" / "train2.jpg"
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (36, 48, 3), np.uint8)).save(path)
        content = bytearray(path.read_bytes())
        content[-600:-2] = bytes(598)
        path.write_bytes(content)
        data = ["--data", "FolderDataModule", "--data.root", str(folder), "--data.augmentation.crop_size", "[20, 28]"]
        assert check_data([*data, "--num_workers", "0", "--crops", ""]) == 1
        shown = capfd.readouterr()
        assert "whose decoder says 'Corrupt JPEG data: " in shown.out
        assert "train2.jpg; replace it" in shown.out
        assert "Corrupt" not in shown.err

    def test_every_rotated_image_is_named(self, folder, capsys):
        for name in ("train0", "train3"):
            image = Image.open(folder / "images" / "train" / f"{name}.jpg")
            exif = image.getexif()
            exif[0x0112] = 6
            image.save(folder / "images" / "train" / f"{name}.jpg", exif=exif)
        shown = checked(folder, capsys)[1]
        assert shown.count("got EXIF orientation 6") == 2

    def test_labels_with_train_ids_get_a_hint(self, tmp_path, capsys):
        root = write_cityscapes(tmp_path / "c")
        for path in root.rglob("*_labelIds.png"):
            Image.fromarray(np.array(Image.open(path)) % 19).save(path)
        options = [
            "--data",
            "CityscapesDataModule",
            "--data.root",
            str(root),
            "--data.augmentation.crop_size",
            "[20, 28]",
        ]
        assert check_data([*options, "--splits", "[val]", "--num_workers", "0"]) == 1
        assert "suspicious: all label values are from 0 to 18: these look like train IDs" in " ".join(
            capsys.readouterr().out.split()
        )

    @pytest.mark.parametrize(
        ("module", "write", "value", "other"),
        [
            (
                COCOStuffDataModule,
                write_coco_stuff,
                44,
                "COCO-Stuff 10k, whose values are larger by one; use COCOStuff10kDataModule",
            ),
            (
                COCOStuff10kDataModule,
                write_coco_stuff_10k,
                45,
                "COCO-Stuff 164k, whose values are smaller by one; use COCOStuffDataModule",
            ),
        ],
    )
    def test_labels_of_the_other_release_get_a_hint(self, module, write, value, other, tmp_path):
        data = module(write(tmp_path), Augmentation((20, 28)))
        known = np.zeros(256, np.int64)
        known[[*data.label_values, data.void_values[0]]] = 1
        assert data.suspicions(known) == []
        known[value] = 1
        assert other in data.suspicions(known)[0]

    def test_crops_are_drawn_from_the_readable_files(self, folder, tmp_path, capsys):
        (folder / "labels" / "train" / "train0.png").unlink()
        checked(folder, capsys)
        assert (tmp_path / "check-data.png").is_file()


class TestPictures:
    def test_crops_are_drawn_with_their_labels(self, folder, tmp_path, capsys):
        checked(folder, capsys, "--crops", "sheets/crops.png")
        sheet = np.array(Image.open(tmp_path / "sheets" / "crops.png"))
        assert sheet.shape[0] > 4 * 180 and sheet.shape[1] > 8 * 260
        crack = (sheet == (0xDC, 0x50, 0x6E)).all(axis=-1)
        assert crack.sum() >= 15 * 15  # its entry below

    def test_crops_depend_only_on_the_seed(self, folder, tmp_path, capsys):
        sheets = []
        for seed in ("1", "1", "2"):
            checked(folder, capsys, "--seed_everything", seed)
            sheets.append((tmp_path / "check-data.png").read_bytes())
        assert sheets[0] == sheets[1] != sheets[2]


class TestClassWeights:
    def test_class_weights_follow_their_formulas(self, folder):
        data, findings = FolderDataModule(folder, Augmentation((20, 28))), looked_at(folder)
        share = np.array([32 * 156, 32 * 36]) / (32 * 192)
        assert class_weights(data, findings, "inverse_log") == np.round(1 / np.log(1.02 + share), 4).tolist()
        frequency = np.array([156 / 192, 36 / 144])
        expected = np.round(np.median(frequency) / frequency, 4).tolist()
        assert class_weights(data, findings, "median_frequency") == expected

    @pytest.mark.parametrize("weighting", ["inverse_log", "median_frequency"])
    def test_a_class_that_does_not_occur_weighs_1(self, folder, weighting):
        (folder / "classes.csv").write_text((folder / "classes.csv").read_text() + "9,moss,#00ff00\n")
        data, findings = FolderDataModule(folder, Augmentation((20, 28))), looked_at(folder)
        weights = class_weights(data, findings, weighting)
        assert weights[2] == 1.0
        assert all(0 < weight < 100 for weight in weights)

    def test_the_file_is_a_criterion_for_training(self, folder, tmp_path, capsys):
        status, shown = checked(folder, capsys, "--class_weights", "weights/mine.yaml")
        assert (status, "--model.criterion weights/mine.yaml" in shown) == (0, True)
        written = yaml.safe_load((tmp_path / "weights" / "mine.yaml").read_text())
        data = ["--data", "FolderDataModule", "--data.root", str(folder), "--data.augmentation.crop_size", "[20, 28]"]
        criterion = ["--model.criterion", "weights/mine.yaml", "--model.criterion.cpg_weight", "0.5"]
        cli = main([*data, "--model.network", "LRASPP", *criterion], run=False)
        assert cli.model.criterion.class_weights == pytest.approx(written["init_args"]["class_weights"])
        assert cli.model.criterion.cpg_weight == 0.5

    def test_class_weights_need_training_labels(self, folder):
        with pytest.raises(ValueError, match="expected training labels, to compute class weights from"):
            checked(folder, None, "--splits", "[val]", "--class_weights", "w.yaml")


def test_all_of_cityscapes_values_have_a_name(tmp_path, capsys):
    root = write_cityscapes(tmp_path / "c")
    check_data(["--data", "CityscapesDataModule", "--data.root", str(root), "--data.augmentation.crop_size", "[9, 9]"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in CityscapesDataModule.classes.names)
    assert "unknown" not in shown


def test_the_real_camvid_is_as_published_but_for_its_test_split(real_data, capsys):
    root = [
        "--data",
        "CamVidDataModule",
        "--data.root",
        str(real_data / "camvid"),
        "--data.augmentation.crop_size",
        "[240, 320]",
    ]
    assert check_data([*root, "--splits", "[train, val]"]) == 0
    shown = capsys.readouterr().out
    assert "367 images of 367 published" in shown
    assert "101 images of 101 published" in shown
