"""The classes as one object, and what happens where the classes of two parts meet."""

from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from tiny import SGD, Tiny, trainer_of

from cpg_lightning.data import Augmentation, CamVidDataModule, ClassInfo
from cpg_lightning.losses import CrossEntropyCPGLoss
from cpg_lightning.module import SegmentationModule
from cpg_lightning.predictor import Predictor

CLASSES = CamVidDataModule.classes
SWAPPED = replace(CLASSES, names=("building", "sky", *CLASSES.names[2:]))
RENAMED = replace(CLASSES, names=("heaven", *CLASSES.names[1:]))
FEWER = ClassInfo(CLASSES.names[:5])


def module_of(classes, **options):
    return SegmentationModule(Tiny(classes.num_classes), CrossEntropyCPGLoss(), classes, optimizer=SGD, **options)


@pytest.fixture
def data(camvid):
    return CamVidDataModule(camvid, Augmentation((24, 32)), batch_size=2, num_workers=0)


class TestClassInfo:
    def test_it_cannot_be_changed(self):
        with pytest.raises(FrozenInstanceError):
            CLASSES.names = ()

    @pytest.mark.parametrize(
        "classes", [CLASSES, ClassInfo.numbered(150), ClassInfo(("a", "b"), ((0, 0, 0), (1, 2, 3)))]
    )
    def test_plain_values_restore_the_classes(self, classes):
        torch.save(classes.plain(), "plain.pt")
        assert ClassInfo.from_plain(torch.load("plain.pt", weights_only=True)) == classes

    @pytest.mark.parametrize("number", [2, 19, 171, 254])
    def test_default_colours_are_distinct(self, number):
        assert len(set(ClassInfo.numbered(number).palette)) == number

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"names": ("a",)}, "expected 2 to 254 classes, got 1; name the background as a class"),
            ({"names": tuple(map(str, range(255)))}, "expected 2 to 254 classes, got 255"),
            ({"names": "ab"}, "expected a list of class names, got 'ab'"),
            ({"names": ("a", 1)}, "expected a list of class names"),
            ({"names": ("a", "b", "a")}, "expected each class name once, got more than once: a"),
            ({"palette": ((0, 0, 0),)}, "expected a colour for each of 2 classes, got 1 colours"),
            ({"palette": ((0, 0, 0), (0, 0, 256))}, "expected colours of three numbers from 0 to 255"),
            ({"absent_classes": "none"}, "expected absent_classes to be skip, skip_always or zero, got 'none'"),
            ({"dilation_ratio": 0.0}, "expected dilation_ratio to be above 0 and at most 1, got 0.0"),
        ],
    )
    def test_invalid_values_are_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            ClassInfo(**{"names": ("a", "b"), **options})

    @pytest.mark.parametrize("values", [None, [], {}, {"names": "ab"}, {"names": ["a", "b"], "more": 1}])
    def test_other_plain_values_are_refused(self, values):
        with pytest.raises(ValueError, match="expected"):
            ClassInfo.from_plain(values)


class TestOtherClasses:
    """A network whose classes are not the data's would score 0, or write the wrong classes, without a word."""

    MESSAGES = (
        (SWAPPED, "class 0 is 'building' there, not 'sky', class 1 is 'sky' there, not 'building'"),
        (RENAMED, "class 0 is 'heaven' there, not 'sky'"),
        (FEWER, r"the data has 11 classes \(sky, .*\), and it has 5 classes \(sky, building, pole, road, pavement\)"),
    )

    @pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
    @pytest.mark.parametrize(("classes", "message"), MESSAGES, ids=["order", "name", "number"])
    def test_the_data_module_refuses_a_module_of_other_classes(self, data, command, classes, message):
        with pytest.raises(ValueError, match=f"expected the module to have the data's classes.*{message}"):
            getattr(trainer_of(), command)(module_of(classes), datamodule=data)

    @pytest.mark.parametrize("command", ["fit", "validate"])
    def test_the_module_refuses_a_checkpoint_of_other_classes(self, data, command):
        trainer = trainer_of(max_steps=1, limit_val_batches=0)
        data.classes = SWAPPED
        trainer.fit(module_of(SWAPPED), datamodule=data)
        trainer.save_checkpoint("swapped.ckpt")
        data.classes = CLASSES
        with pytest.raises(ValueError, match="class 0 is 'building' there, not 'sky'"):
            getattr(trainer_of(), command)(module_of(CLASSES), datamodule=data, ckpt_path="swapped.ckpt")
        assert Predictor.from_checkpoint("swapped.ckpt", Tiny(11)).classes == SWAPPED

    def test_start_weights_of_other_classes_give_a_warning(self):
        trainer = trainer_of()
        module = module_of(SWAPPED)
        module.trainer = trainer
        trainer.strategy.connect(module)
        trainer.save_checkpoint("swapped.ckpt")
        with pytest.warns(
            UserWarning, match=r"swapped\.ckpt were trained on other classes.*class 0 is 'building' there"
        ):
            module_of(CLASSES, weights="swapped.ckpt")
