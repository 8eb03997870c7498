"""mmsegmentation's photometric distortion, against an independent statement of it."""

import random

import cv2
import numpy as np
import pytest

from cpg_lightning.cli import main
from cpg_lightning.data import Augmentation, CamVidDataModule
from cpg_lightning.data.photometric import PhotometricDistortion

STEPS = ("brightness", "contrast", "saturation", "hue")


def image_of(seed=0, size=(40, 50)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def stated(image, brightness, contrast, contrast_first, saturation, hue):
    """The distortion as mmsegmentation's documentation states it, on float arrays in BGR."""

    def converted(values, alpha=1.0, beta=0.0):
        return np.clip(values.astype(np.float32) * alpha + beta, 0, 255).astype(np.uint8)

    bgr = image[..., ::-1]
    bgr = bgr if brightness is None else converted(bgr, beta=brightness)
    bgr = converted(bgr, alpha=contrast) if contrast is not None and contrast_first else bgr
    if saturation is not None:
        hsv = cv2.cvtColor(np.ascontiguousarray(bgr), cv2.COLOR_BGR2HSV)
        bgr = cv2.cvtColor(np.dstack([hsv[..., 0], converted(hsv[..., 1], saturation), hsv[..., 2]]), cv2.COLOR_HSV2BGR)
    if hue is not None:
        hsv = cv2.cvtColor(np.ascontiguousarray(bgr), cv2.COLOR_BGR2HSV).astype(int)
        turned = np.dstack([(hsv[..., 0] + hue) % 180, hsv[..., 1], hsv[..., 2]]).astype(np.uint8)
        bgr = cv2.cvtColor(turned, cv2.COLOR_HSV2BGR)
    bgr = converted(bgr, alpha=contrast) if contrast is not None and not contrast_first else bgr
    return bgr[..., ::-1]


def drawn(seeds):
    """The steps that are drawn for some seeds."""
    distortion = PhotometricDistortion()
    for seed in seeds:
        distortion.set_random_state(np.random.default_rng(seed), random.Random(seed))
        yield distortion.get_params()


def test_distortion_equals_an_independent_implementation():
    for seed, steps in enumerate(drawn(range(60))):
        image = image_of(seed)
        assert np.array_equal(PhotometricDistortion().apply(image, **steps), stated(image, **steps)), steps


def test_each_step_has_probability_one_half_and_stays_within_its_limits():
    steps = list(drawn(range(4000)))
    for name in STEPS:
        assert np.mean([step[name] is not None for step in steps]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([step["contrast_first"] for step in steps]) == pytest.approx(0.5, abs=0.03)
    taken = {name: [step[name] for step in steps if step[name] is not None] for name in STEPS}
    for name, low, high in (("brightness", -32, 32), ("contrast", 0.5, 1.5), ("saturation", 0.5, 1.5)):
        assert low <= min(taken[name]) < low + (high - low) / 100
        assert high - (high - low) / 100 < max(taken[name]) <= high
    assert set(taken["hue"]) == set(range(-18, 18))


def test_the_steps_are_independent_of_each_other():
    together = {tuple(step[name] is None for name in STEPS) for step in drawn(range(300))}
    assert len(together) == 16


def test_brightness_is_added_and_clipped():
    steps = dict.fromkeys(STEPS) | {"brightness": 30.7, "contrast_first": True}
    image = np.array([[[0, 100, 250]]], dtype=np.uint8)
    assert PhotometricDistortion().apply(image, **steps).tolist() == [[[30, 130, 255]]]


def test_without_a_step_the_image_does_not_change():
    image = image_of()
    steps = dict.fromkeys(STEPS) | {"contrast_first": False}
    assert np.array_equal(PhotometricDistortion().apply(image, **steps), image)


def test_the_order_of_contrast_matters():
    image = image_of()
    steps = {"brightness": None, "contrast": 1.5, "saturation": 0.6, "hue": 9}
    first, last = (PhotometricDistortion().apply(image, **steps, contrast_first=first) for first in (True, False))
    assert not np.array_equal(first, last)


def test_a_sample_depends_only_on_its_seed(camvid):
    def images():
        augmentation = Augmentation((24, 32), photometric="mmseg")
        data = CamVidDataModule(camvid, augmentation, batch_size=2, num_workers=0)
        data.setup("fit")
        return [batch["image"] for batch in data.train_dataloader()]

    first, again = images(), images()
    assert all(one.equal(other) for one, other in zip(first, again, strict=True))
    plain = CamVidDataModule(camvid, Augmentation((24, 32)), batch_size=2, num_workers=0)
    plain.setup("fit")
    assert not all(one.equal(other["image"]) for one, other in zip(first, plain.train_dataloader(), strict=True))


@pytest.mark.parametrize(
    ("word", "transform"), [("mmseg", "PhotometricDistortion"), ("true", "ColorJitter"), ("false", None)]
)
def test_the_command_line_accepts_three_values(camvid, word, transform):
    parts = ["--data=CamVidDataModule", "--model.network=LRASPP", "--model.criterion=CrossEntropyCPGLoss"]
    options = [f"--data.root={camvid}", "--data.augmentation.crop_size=[24,32]", "--trainer.logger=false"]
    data = main([*parts, *options, f"--data.augmentation.photometric={word}"], run=False).datamodule
    assert [type(each).__name__ for each in data.augmentation.distortions()] == ([transform] if transform else [])


def test_another_value_is_refused():
    with pytest.raises(ValueError, match="expected photometric to be true, false or mmseg, got 'ssd'"):
        Augmentation((24, 32), photometric="ssd")
