"""Augmentation: its numbers are checked, its crops are those of a resized image, and a subclass of the user's takes its place."""

import random
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import pytest

from cpg_lightning.cli import main
from cpg_lightning.data import Augmentation, CamVidDataModule, ShapesDataModule
from cpg_lightning.data.augmentation import RandomScaleCrop

IDENTITY = np.arange(256, dtype=np.uint8)
OWN = """
import albumentations as A
from cpg_lightning.data import Augmentation

class Inverted(Augmentation):
    def __init__(self, crop_size: tuple[int, int] = (16, 24), inverted: float = 1.0) -> None:
        super().__init__(crop_size, scale=(1.0, 1.0))
        self.inverted = inverted

    def distortions(self) -> list[A.BasicTransform]:
        return [A.InvertImg(p=self.inverted)]
"""
ARGUMENTS = ["--data=CamVidDataModule", "--model.network=LRASPP", "--model.criterion=CrossEntropyCPGLoss"]


@pytest.fixture
def command_line(camvid, monkeypatch):
    """Builds what a command line describes, over a tiny CamVid, with an augmentation of the user's own in ``own.py``."""
    monkeypatch.chdir(camvid.parent)
    monkeypatch.syspath_prepend(camvid.parent)
    Path("own.py").write_text(OWN)

    def build(*options):
        return main([*ARGUMENTS, f"--data.root={camvid}", "--trainer.logger=false", *options], run=False).datamodule

    return build


@pytest.mark.parametrize("crop_size", [512, None, (2.5, 2), (1, 2, 3), (0, 5)])
def test_a_crop_size_is_two_whole_numbers(crop_size):
    with pytest.raises(ValueError, match="expected crop_size to be a height and a width of 1 or more pixels, got"):
        Augmentation(crop_size)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), True, 0, -1, "1"])
@pytest.mark.parametrize("option", ["scale", "scale_step", "horizontal_flip", "max_class_share", "long_side"])
def test_numbers_out_of_range_are_refused(option, wrong):
    if (option, wrong) == ("horizontal_flip", 0):
        pytest.skip("0 is a probability")
    with pytest.raises(ValueError, match=f"expected {option} to be "):
        Augmentation((20, 20), **{option: (wrong, 2.0) if option == "scale" else wrong})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": (2.0, 0.5)}, r"two positive numbers, the smaller one first, got \(2\.0, 0\.5\)"),
        ({"scale_step": 9.0}, r"to fit between the scales \(0\.5, 2\.0\), got 9\.0"),
        ({"horizontal_flip": 1.5}, "expected horizontal_flip to be a probability, got 1.5"),
    ],
)
def test_an_error_says_what_was_expected(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation((20, 20), **options)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7])
def test_a_crop_is_part_of_the_resized_image(scale):
    height, width = 300, 400
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], axis=-1).astype(np.uint8)
    whole = cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_LINEAR)
    crop = RandomScaleCrop(Augmentation((80, 100), scale=(scale, scale)), IDENTITY)
    for seed in range(10):
        crop.set_random_state(np.random.default_rng(seed), random.Random(seed))
        params = crop.get_params_dependent_on_data({"shape": image.shape}, {})
        top, left = (round(window.start * scale) for window in params["window"])
        expected = whole[top : top + 80, left : left + 100].astype(int)
        assert np.abs(crop.apply(image, **params).astype(int) - expected).max() <= 2


def test_the_drawn_images_are_cropped_at_their_own_size():
    data = ShapesDataModule(size=(64, 48), train_images=4, batch_size=2, num_workers=0)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (2, 3, 64, 48)
    assert (batch["mask"] != 255).all()


def test_distortions_come_before_the_padding(camvid):
    class Inverted(Augmentation):
        def distortions(self):
            return [A.InvertImg(p=1.0)]

    data = CamVidDataModule(camvid, Inverted((60, 70), scale=(1, 1)), batch_size=2, num_workers=0)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert not batch["image"][:, :, 36:].any()


class TestCommandLine:
    def test_options_are_those_of_the_augmentation(self, command_line):
        data = command_line("--data.augmentation.crop_size=[16,24]", "--data.augmentation.scale=[0.5,1]")
        assert type(data.augmentation) is Augmentation
        assert (data.augmentation.crop_size, data.augmentation.scale) == ((16, 24), (0.5, 1.0))

    def test_files_may_be_given_in_part_and_completed(self, command_line):
        Path("data.yaml").write_text("data: {init_args: {augmentation: {crop_size: [16, 24], long_side: 60}}}")
        data = command_line("--config=data.yaml", "--data.augmentation.scale=[0.5,1]")
        assert (data.augmentation.crop_size, data.augmentation.long_side) == ((16, 24), 60)
        assert data.augmentation.scale == (0.5, 1.0)

    def test_a_subclass_replaces_the_augmentation(self, command_line):
        data = command_line(
            "--data.augmentation=own.Inverted", "--data.augmentation.inverted=0.5", "--data.batch_size=2"
        )
        assert (type(data.augmentation).__name__, data.augmentation.inverted) == ("Inverted", 0.5)
        data.setup("fit")
        assert next(iter(data.train_dataloader()))["image"].shape == (2, 3, 16, 24)

    def test_the_name_of_an_imported_subclass_is_enough(self, command_line):
        command_line("--data.augmentation=own.Inverted")
        assert type(command_line("--data.augmentation=Inverted").augmentation).__name__ == "Inverted"

    def test_an_option_can_be_unset(self, command_line):
        Path("data.yaml").write_text("data: {init_args: {augmentation: {crop_size: [16, 24], long_side: 60}}}")
        data = command_line("--config=data.yaml", "--data.augmentation.long_side=null")
        assert data.augmentation.long_side is None

    def test_without_an_augmentation_the_error_says_how_to_give_one(self, command_line, capsys):
        with pytest.raises(SystemExit):
            command_line()
        assert 'e.g. --data.augmentation.crop_size "[512, 512]"' in capsys.readouterr().err

    def test_a_crop_size_is_required(self, command_line, capsys):
        with pytest.raises(SystemExit):
            command_line("--data.augmentation.scale=[0.5,1]")
        assert "required: crop_size" in " ".join(capsys.readouterr().err.split())

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ("--data.augmentation.crop_sise=[1,2]", "did you mean crop_size?"),
            ("--data.augmentation=Augmentatoin", "did you mean Augmentation?"),
        ],
    )
    def test_a_mistyped_name_is_followed_by_a_similar_name(self, command_line, capsys, option, message):
        with pytest.raises(SystemExit):
            command_line(option)
        assert message in capsys.readouterr().err
