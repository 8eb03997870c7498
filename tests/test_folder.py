"""Folders as other tools write them: patterns of paths, names of splits, files of classes, labels in colours."""

import pickle
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import EXPERIMENTS
from layouts import write_cvat, write_folder, write_roboflow
from PIL import Image

from cpg_lightning.check_data import check_data
from cpg_lightning.data import Augmentation, FolderDataModule
from cpg_lightning.data.class_table import read_classes
from cpg_lightning.data.color_labels import ColorLabels

CVAT = {
    "images": "JPEGImages/{name}.*",
    "labels": "SegmentationClass/{name}.png",
    "lists": "ImageSets/Segmentation/{split}.txt",
    "split_names": {"train": ["Train"], "val": ["Validation"]},
    "classes": "labelmap.txt",
    "label_colors": True,
}
ROBOFLOW = {
    "images": "{split}/{name}.jpg",
    "labels": "{split}/{name}_mask.png",
    "split_names": {"val": ["valid"]},
    "classes": "train/_classes.csv",
}


def built(root, **options):
    return FolderDataModule(
        root, **{"augmentation": Augmentation((20, 28)), "batch_size": 2, "num_workers": 0, **options}
    )


class TestExports:
    def test_cvats_segmentation_masks_are_read(self, tmp_path):
        data = built(write_cvat(tmp_path), **CVAT)
        data.setup("fit")
        assert (len(data.datasets["train"]), len(data.datasets["val"])) == (4, 2)
        assert data.classes.names == ("background", "crack", "moss")
        for sample, (_, path) in zip(data.datasets["val"], data.datasets["val"].files, strict=True):
            shown = np.array(data.classes.palette, np.uint8)[sample["mask"]]
            assert np.array_equal(shown, np.array(Image.open(path)))

    def test_roboflows_semantic_masks_are_read(self, tmp_path):
        data = built(write_roboflow(tmp_path), **ROBOFLOW)
        data.setup("fit"), data.setup("test")
        assert [len(data.datasets[split]) for split in ("train", "val", "test")] == [4, 2, 1]
        assert data.classes.names == ("background", "crack", "moss")
        assert len(set(data.classes.palette)) == 3
        assert np.array_equal(data.datasets["val"][0]["mask"], np.array(Image.open(data.datasets["val"].files[0][1])))

    @pytest.mark.parametrize(("write", "options"), [(write_cvat, CVAT), (write_roboflow, ROBOFLOW)])
    def test_check_data_finds_no_problems(self, write, options, tmp_path, capsys):
        arguments = [f"--data.{option}={value}" for option, value in options.items()]
        root = [
            "--data",
            "FolderDataModule",
            "--data.root",
            str(write(tmp_path / "x")),
            "--data.augmentation.crop_size",
            "[20, 28]",
        ]
        assert check_data([*root, *arguments, "--num_workers", "0"]) == 0
        assert "no problems found" in capsys.readouterr().out


def commands():
    """The commands that the README shows for other tools' exports."""
    section = (EXPERIMENTS / "README.md").read_text().split("### Other tools' exports")[1].split("\n### ")[0]
    return [shlex.split(block.split("```")[0].replace("\\\n", "")) for block in section.split("```sh\n")[1:]]


@pytest.mark.parametrize(("number", "write"), [(0, write_cvat), (1, write_roboflow)])
def test_the_commands_of_the_readme_work(number, write, tmp_path, monkeypatch, capsys):
    write(tmp_path / "export")
    command = [str(tmp_path / "export") if part == "path/to/export" else part for part in commands()[number]]
    assert check_data([*command[2:], "--num_workers", "0"]) == 0


class TestPatterns:
    def test_files_that_match_the_label_pattern_are_not_images(self, tmp_path):
        root = write_roboflow(tmp_path)
        assert len(built(root, **{**ROBOFLOW, "images": "{split}/{name}.*"}).files("train")) == 4

    @pytest.mark.parametrize("part", ["[1]", "a*b", "what?", "{", "ü b"])
    def test_names_may_have_characters_of_patterns(self, part, tmp_path):
        root = write_folder(tmp_path / f"root {part}")
        for kind in ("images", "labels"):
            (root / kind / "val" / part).mkdir()
            for path in [*(root / kind / "val").glob("val*")]:
                path.rename(path.parent / part / f"{part}{path.name}")
        data = built(root)
        data.setup("validate")
        assert [batch["name"][0] for batch in data.val_dataloader()] == [f"{part}val0", f"{part}val1"]

    def test_a_part_of_a_file_name_may_be_fixed(self, tmp_path):
        root = write_folder(tmp_path)
        for path in [*(root / "images").rglob("*.jpg")]:
            path.rename(path.with_name(f"img_{path.name}"))
        assert len(built(root, images="images/{split}/img_{name}.jpg").files("val")) == 2

    def test_subfolders_may_be_below_an_image(self, tmp_path):
        root = write_folder(tmp_path)
        for split in ("train", "val"):
            for path in [*(root / "images" / split).iterdir()]:
                folder = root / split / path.stem
                folder.mkdir(parents=True)
                path.rename(folder / "image.jpg")
                (root / "labels" / split / f"{path.stem}.png").rename(folder / "label.png")
        assert (
            len(built(root, images="{split}/{name}/image.jpg", labels="{split}/{name}/label.png").files("train")) == 4
        )

    @pytest.mark.parametrize("suffix", [".*", ".jpg"])
    def test_any_suffix_may_follow_a_fixed_part(self, suffix, tmp_path):
        root = write_folder(tmp_path)
        for path in [*(root / "images").rglob("*.jpg")]:
            path.rename(path.with_name(f"{path.stem}_photo.jpg"))
        assert len(built(root, images=f"images/{{split}}/{{name}}_photo{suffix}").files("val")) == 2

    def test_the_split_may_be_in_the_files_names(self, tmp_path):
        root = write_folder(tmp_path)
        for path in [*root.rglob("*.jpg"), *root.rglob("*.png")]:
            path.rename(root / f"{path.parent.name}_{path.name}")
        data = built(root, images="{split}_{name}.jpg", labels="{split}_{name}.png")
        assert data.splits == ("train", "val")
        assert [len(data.files(split)) for split in data.splits] == [4, 2]

    def test_labels_of_all_splits_may_be_in_one_folder(self, tmp_path):
        root = write_folder(tmp_path)
        (root / "masks").mkdir()
        for path in [*(root / "labels").rglob("*.png")]:
            path.rename(root / "masks" / path.name)
        (root / "images" / "test").mkdir()
        Image.new("RGB", (48, 36)).save(root / "images" / "test" / "test0.png")
        data = built(root, labels="masks/{name}.png")
        for split, number in (("train", 4), ("val", 2)):
            pairs = data.files(split)
            assert [label.name for _, label in pairs] == [f"{split}{index}.png" for index in range(number)]
            assert [image.stem for image, _ in pairs] == [label.stem for _, label in pairs]
        assert data.files("test") == [(root / "images" / "test" / "test0.png", None)]
        (root / "masks" / "val1.png").unlink()
        with pytest.raises(ValueError, match=r"got none for 1, e\.g\. .*images/val/val1\.jpg"):
            data.files("val")

    def test_a_split_may_have_one_of_several_names(self, tmp_path):
        root = write_folder(tmp_path)
        for kind in ("images", "labels"):
            (root / kind / "val").rename(root / kind / "validation")
        names = {"val": ["val", "valid", "validation"]}
        assert len(built(root, split_names=names).files("val")) == 2
        shutil.copytree(root / "images" / "validation", root / "images" / "valid")
        with pytest.raises(
            ValueError, match=r"expected one of val, valid, validation for the val split .* got valid, validation"
        ):
            built(root, split_names=names).files("val")

    def test_a_missing_label_names_the_pattern(self, tmp_path):
        root = write_roboflow(tmp_path)
        next((root / "valid").glob("*_mask.png")).unlink()
        with pytest.raises(
            ValueError, match=r"got none for 1, .*the pattern of the labels is valid/\{name\}_mask\.png"
        ):
            built(root, **ROBOFLOW).files("val")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"images": "images/{split}"}, "images to be a path with {name} once"),
            ({"images": "images/{split}/{name}"}, r"images to end in a suffix, e.g. images/{split}/{name}\.png"),
            ({"labels": "labels/{split}/{name}"}, "labels to end in a suffix"),
            ({"labels": "{name}/{name}.png"}, "labels to be a path with {name} once"),
            ({"labels": "{split}/{image}.png"}, "labels to be a path with {name} once"),
            ({"images": "{name}.png", "labels": "{name}.png"}, "labels to be another pattern than images"),
            ({"lists": "names.txt"}, "lists to be a path with {split} once"),
            ({"split_names": {"valid": ["valid"]}}, "split_names to give train, val or test a list of names"),
            ({"split_names": {"val": []}}, "split_names to give train, val or test a list of names"),
        ],
    )
    def test_invalid_patterns_are_refused(self, options, message, tmp_path):
        with pytest.raises(ValueError, match=f"expected {message}"):
            built(write_folder(tmp_path), **options)

    def test_images_of_all_splits_in_one_folder_need_lists(self, tmp_path):
        with pytest.raises(
            FileNotFoundError, match=r"expected the list .*train\.txt, because images=images/{name}\.\* has no {split}"
        ):
            built(write_folder(tmp_path), images="images/{name}.*").files("train")


class TestClasses:
    def test_ignored_values_may_have_colours(self, tmp_path):
        (tmp_path / "classes.csv").write_text("value,name,color\n0,a,#000000\n1,b,#ff0000\n255,,#ffffff\n254,,\n")
        table = read_classes(tmp_path / "classes.csv", colours=True)
        assert (table.void, table.void_palette) == ((255, 254), ((255, 255, 255), None))

    def test_classes_with_colours_need_no_values(self, tmp_path):
        (tmp_path / "classes.csv").write_text("name,color\na,#000000\nb,#ff0000\n")
        assert read_classes(tmp_path / "classes.csv", colours=True).values == (0, 1)

    @pytest.mark.parametrize(
        ("name", "content", "colours", "message"),
        [
            (
                "classes.csv",
                "value,name,color\n0,a,#000000\n",
                False,
                "2 or more classes, got 1: .*name the background",
            ),
            ("classes.csv", "value,name,color\n0,crack,#000000\n255,,\n", False, "2 or more classes, got 1"),
            (
                "classes.csv",
                "value,name,color\n0,a,#000000\n,,\n",
                False,
                "got line 3 .nothing but commas: remove the line",
            ),
            (
                "classes.csv",
                "value,name,color\n0,a,#000000\n\n0,b,#000001\n",
                False,
                "got 0 more than once, in lines 2, 4",
            ),
            ("classes.csv", "value;name;color\n0;a;#000000\n", False, "separated by ';': save it with commas"),
            ("classes.csv", "value,name,color\n0,a, b,#000000\n", False, "got line 2 .4 values for 3 columns"),
            (
                "classes.csv",
                "Pixel Value, Class\n0, a\n1, b\n",
                True,
                "first line to be value,name,color, got pixel value,class",
            ),
            (
                "classes.csv",
                "name,color\na,#000000\nb,#000000\n",
                True,
                "each colour once, got #000000 .* in lines 2, 3",
            ),
            ("labelmap.txt", "a:0,0,0::\nb:0,0::\n", True, "label:red,green,blue:parts:actions, got line 2 .b:0,0::"),
            ("labelmap.txt", "a:0,0,0::\nb:1,0,0::\n", False, "a file without values: .* --data.label_colors true"),
        ],
    )
    def test_a_wrong_line_is_named(self, name, content, colours, message, tmp_path):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=f"(?s)expected .*{message}"):
            read_classes(tmp_path / name, colours)

    def test_utf_16_is_named(self, tmp_path):
        for encoding in ("utf-16", "utf-16-le"):
            (tmp_path / "classes.csv").write_bytes("value,name,color\n0,a,#000000\n".encode(encoding))
            with pytest.raises(ValueError, match="comma-separated values in UTF-8, got UTF-16"):
                read_classes(tmp_path / "classes.csv")


class TestColours:
    @pytest.fixture
    def colours(self, tmp_path):
        rng = np.random.default_rng(0)
        lines = [f"{value},class {value},#{bytes(rng.integers(0, 256, 3).tolist()).hex()}" for value in range(20)]
        (tmp_path / "classes.csv").write_text("\n".join(["value,name,color", *lines, "255,,#000000"]) + "\n")
        return ColorLabels(read_classes(tmp_path / "classes.csv", colours=True))

    @pytest.mark.parametrize("size", [(1, 1), (3, 5), (64, 7), (130, 129)])
    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
    def test_each_pixel_gets_the_value_of_its_colour(self, mode, size, colours, tmp_path):
        number = np.random.default_rng(1).integers(0, 21, size)
        palette = np.array([colour for _, colour, _ in colours.colours], np.uint8)
        shown = Image.fromarray(palette[number]).convert(mode)
        if mode == "P":
            shown = Image.fromarray(number.astype(np.uint8))
            shown.putpalette(palette.ravel().tolist())
        shown.save(tmp_path / "label.png")
        expected = np.array([value for _, _, value in colours.colours])[number]
        for decode in (colours, pickle.loads(pickle.dumps(colours))):
            assert np.array_equal(decode((tmp_path / "label.png").read_bytes(), Path("x")), expected)

    def test_a_grey_png_is_matched_by_its_rgb_colour(self, colours, tmp_path):
        Image.new("L", (4, 4), 0).save(tmp_path / "black.png")
        assert (colours((tmp_path / "black.png").read_bytes(), Path("x")) == 255).all()

    def test_an_unknown_colour_is_named_with_the_nearest_known_colour(self, colours, tmp_path):
        name, colour, _ = colours.colours[7]
        pixels = np.full((6, 6, 3), colour, np.uint8)
        pixels[2, 3:5, 0] ^= 1
        Image.fromarray(pixels).save(tmp_path / "label.png")
        with pytest.raises(
            ValueError, match=rf"in 2 pixels \(the nearest is {name}'s #{bytes(colour).hex()}\): .*label\.png"
        ):
            colours((tmp_path / "label.png").read_bytes(), tmp_path / "label.png")

    def test_colours_of_16_bits_are_refused(self, colours, tmp_path):
        Image.new("I;16", (4, 4)).save(tmp_path / "label.png")
        with pytest.raises(ValueError, match="8 bits per channel, got 16 bits"):
            colours((tmp_path / "label.png").read_bytes(), Path("x"))
