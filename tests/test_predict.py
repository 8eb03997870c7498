"""Predictions: of splits and of any images, their files, what is broken or finished, and Predictor."""

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from commands import ARGUMENTS, BASE
from layouts import write_cityscapes
from PIL import Image
from tiny import SGD, Tiny, trainer_of

from cpg_lightning.callbacks import PredictionWriter
from cpg_lightning.cli import main
from cpg_lightning.command import command
from cpg_lightning.data import Augmentation, CamVidDataModule, CityscapesDataModule, ShapesDataModule
from cpg_lightning.inference import Inference
from cpg_lightning.losses import CrossEntropyCPGLoss
from cpg_lightning.metrics import ClassIoU
from cpg_lightning.module import SegmentationModule
from cpg_lightning.pictures import colour_classes, overlay
from cpg_lightning.predictor import Predictor


def module_of(classes=CamVidDataModule.classes, **options):
    torch.manual_seed(0)
    return SegmentationModule(Tiny(classes.num_classes), CrossEntropyCPGLoss(), classes, optimizer=SGD, **options)


def predict(data, tmp_path, module=None, **options):
    trainer = trainer_of(callbacks=[PredictionWriter(str(tmp_path / "out"), **options)])
    trainer.predict(module or module_of(data.classes), datamodule=data, return_predictions=False)


@pytest.fixture
def photographs(tmp_path):
    """Images of several sizes and kinds, without labels."""
    folder = tmp_path / "photographs"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size, mode in (("a.jpg", (30, 40), "RGB"), ("b.png", (25, 31), "L"), ("more/a.jpg", (17, 60), "CMYK")):
        image = Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8))
        image.convert(mode).save(folder / name)
    return folder


def data_of(tmp_path, **options):
    return CamVidDataModule(tmp_path / "nowhere", Augmentation((24, 32)), num_workers=0, **options)


class TestFiles:
    def test_any_folder_of_images_is_predicted_at_their_own_size(self, photographs, tmp_path):
        predict(data_of(tmp_path, predict_images=str(photographs), image_size=(24, 32)), tmp_path)
        for kind in ("palette", "labels", "overlay"):
            written = {
                str(path.relative_to(tmp_path / "out" / kind)) for path in (tmp_path / "out" / kind).rglob("*.png")
            }
            assert written == {"a.png", "b.png", "more/a.png"}
            assert Image.open(tmp_path / "out" / kind / "more" / "a.png").size == (60, 17)

    def test_images_of_one_name_are_kept_apart(self, photographs, tmp_path):
        Image.new("RGB", (12, 12)).save(photographs / "a.png")
        (tmp_path / "b.png").write_bytes((photographs / "b.png").read_bytes())
        (tmp_path / "some.txt").write_text(
            "photographs/../b.png\nphotographs/a.jpg\nphotographs/a.png\nphotographs/b.png\n"
        )
        predict(data_of(tmp_path, predict_images="some.txt"), tmp_path)
        labels = tmp_path / "out" / "labels"
        written = {str(path.relative_to(labels)) for path in labels.rglob("*.png")}
        assert written == {"b.png.png", *(f"photographs/{name}.png" for name in ("a.jpg", "a.png", "b.png"))}

    def test_other_files_in_the_folder_are_counted(self, photographs, tmp_path):
        for name in ("a.heic", "b.HEIC", "notes.md", "LICENSE"):
            (photographs / name).write_text("")
        data = data_of(tmp_path, predict_images=str(photographs))
        with pytest.warns(UserWarning, match=r"not predicted in .*photographs.*: 2 \.heic, 1 without a suffix, 1 \.md"):
            data.setup("predict")
        assert len(data.datasets["predict"]) == 3

    def test_a_split_needs_no_labels(self, camvid, tmp_path):
        shutil.rmtree(camvid / "testannot")
        (camvid / "valannot" / "val_000.png").unlink()
        for split, images in (("test", 2), ("val", 3)):
            data = CamVidDataModule(camvid, Augmentation((24, 32)), num_workers=0, predict_split=split)
            data.setup("predict")
            assert len(data.datasets["predict"]) == images
        with pytest.raises(FileNotFoundError, match="testannot"):
            data.setup("test")

    def test_drawn_images_are_predicted_without_their_labels(self):
        data = ShapesDataModule(val_images=2, eval_batch_size=2, num_workers=0)
        data.setup("predict")
        (batch,) = data.predict_dataloader()
        assert set(batch) == {"image", "name", "size"}
        assert batch["name"] == ["shapes-test-00000", "shapes-test-00001"]

    def test_several_sizes_in_a_batch_are_refused(self, photographs, tmp_path):
        data = data_of(tmp_path, predict_images=str(photographs), eval_batch_size=3)
        with pytest.raises(ValueError, match=r"images of one size in a batch, got .* eval_batch_size of 1"):
            predict(data, tmp_path)

    def test_an_image_or_a_list_of_images_is_accepted(self, photographs, tmp_path):
        (tmp_path / "some.txt").write_text(f"{photographs}/b.png\n{photographs}/more/a.jpg\n")
        for number, place in enumerate((photographs / "b.png", tmp_path / "some.txt")):
            data = data_of(tmp_path, predict_images=str(place))
            data.setup("predict")
            assert len(data.datasets["predict"]) == number + 1

    def test_labels_are_the_values_of_the_datasets_files(self, tmp_path):
        data = CityscapesDataModule(write_cityscapes(tmp_path / "c"), Augmentation((24, 32)), num_workers=0)
        module = module_of(CityscapesDataModule.classes)
        predict(data, tmp_path, module)
        data.setup("predict")
        name = "bonn_000000_000019_leftImg8bit"
        classes = module.predicted_classes(next(iter(data.predict_dataloader())))[0].numpy()
        values = np.array(Image.open(tmp_path / "out" / "labels" / f"{name}.png"))
        assert np.array_equal(values, np.array(data.label_values)[classes])
        shown = np.array(Image.open(tmp_path / "out" / "palette" / f"{name}.png"))
        assert shown.shape == (36, 48, 3)

    def test_probabilities_are_written_if_the_module_predicts_them(self, photographs, tmp_path):
        module = module_of(predict_probabilities=True)
        predict(data_of(tmp_path, predict_images=str(photographs)), tmp_path, module, overlay=False)
        probabilities = np.load(tmp_path / "out" / "probabilities" / "a.npz")["probabilities"]
        assert (probabilities.shape, probabilities.dtype) == ((11, 30, 40), np.float16)
        np.testing.assert_allclose(probabilities.astype(float).sum(axis=0), 1, atol=0.01)
        labels = np.array(Image.open(tmp_path / "out" / "labels" / "a.png"))
        assert (labels == probabilities.argmax(axis=0)).mean() > 0.99
        assert not (tmp_path / "out" / "overlay").exists()

    @pytest.mark.parametrize("workers", [0, 1])
    def test_unreadable_images_are_skipped_and_named_at_the_end(self, photographs, tmp_path, workers):
        (photographs / "b.png").write_bytes(b"no image")
        (photographs / "c.jpg").write_bytes((photographs / "a.jpg").read_bytes()[:99])
        data = data_of(tmp_path, predict_images=str(photographs))
        data.num_workers = workers
        with pytest.raises(ValueError, match=r"(?s)got 2 that were skipped:.*b\.png.*c\.jpg"):
            predict(data, tmp_path)
        assert (tmp_path / "out" / "labels" / "more" / "a.png").is_file()

    def test_an_interruption_leaves_no_partial_file(self, photographs, tmp_path, monkeypatch):
        def interrupted(image, path, **options):
            path.write_bytes(b"half")
            raise KeyboardInterrupt

        monkeypatch.setattr(Image.Image, "save", interrupted)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            predict(data_of(tmp_path, predict_images=str(photographs)), tmp_path)
        assert [path for path in (tmp_path / "out").rglob("*.png") if not path.name.startswith(".")] == []

    @pytest.mark.parametrize("place", ["missing", "missing.txt", "empty"])
    def test_missing_images_are_named(self, place, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises((FileNotFoundError, ValueError), match=f"expected images .*{place}"):
            data_of(tmp_path, predict_images=str(tmp_path / place)).setup("predict")


class TestOutput:
    """``cpg predict --output`` into a folder where predictions are already."""

    @pytest.fixture
    def predicted(self, camvid, photographs, tmp_path, capsys):
        """Runs the command; the names of the label files that it wrote, and what it printed."""

        def run(*options, images=photographs, output="out"):
            written = {path: path.stat().st_mtime_ns for path in Path(output).rglob("labels/**/*.png")}
            main(
                [
                    *("predict", *ARGUMENTS, "--trainer.logger=false", "--trainer.callbacks.overlay=false"),
                    *("--data.predict_images", str(images), "--output", output, *options),
                ]
            )
            now = {path: path.stat().st_mtime_ns for path in Path(output).rglob("labels/**/*.png")}
            new = [path for path, time in now.items() if written.get(path) != time]
            return sorted(path.relative_to(Path(output, "labels")).as_posix() for path in new), capsys.readouterr()

        return run

    def test_predicted_images_are_skipped_and_counted(self, predicted, photographs, caplog):
        assert predicted()[0] == ["a.png", "b.png", "more/a.png"]
        assert predicted()[0] == []
        assert "3 images are already predicted in out and skipped; --overwrite true predicts them again" in caplog.text
        Image.new("RGB", (12, 12)).save(photographs / "c.png")
        assert predicted()[0] == ["c.png"]

    @pytest.mark.parametrize(
        "option",
        ["--seed_everything=1", "--model.inference=Inference --model.inference.flip=true", "--data.image_size=[24,32]"],
    )
    def test_predictions_by_other_weights_inference_or_size_are_made_again(self, predicted, option):
        predicted()
        assert predicted(*option.split())[0] == ["a.png", "b.png", "more/a.png"]

    def test_an_image_of_the_same_name_in_another_folder_is_predicted(self, predicted, photographs):
        predicted()
        shutil.copytree(photographs, "others")
        assert predicted(images="others")[0] == ["a.png", "b.png", "more/a.png"]
        assert predicted()[0] == ["a.png", "b.png", "more/a.png"]  # the files are the others' now

    def test_changed_images_and_images_without_files_are_predicted_again(self, predicted, photographs):
        predicted()
        Image.new("RGB", (31, 25)).save(photographs / "b.png")
        Path("out/palette/a.png").unlink()
        assert predicted()[0] == ["a.png", "b.png"]

    def test_predictions_by_other_weights_of_the_same_path_are_made_again(self, predicted):
        for seed, names in ((0, ["a.png", "b.png", "more/a.png"]), (0, []), (1, ["a.png", "b.png", "more/a.png"])):
            torch.manual_seed(seed)
            torch.save(Tiny(11).state_dict(), "weights.pth")
            assert predicted("--model.weights=weights.pth")[0] == names

    def test_predictions_among_the_images_change_no_name(self, predicted, photographs):
        (photographs / "a.jpg").unlink()
        (photographs / "more").rename("photographs/fewer")
        (photographs / "b.png").rename("photographs/fewer/b.png")
        assert predicted(output="photographs")[0] == ["a.png", "b.png"]
        assert predicted(output="photographs")[0] == []

    def test_any_file_name_is_accepted(self, predicted):
        names = {b"caf\xe9.png", b"a\nb.png", b'a,"b.png', b"[a]*?.png", b"[red]:car:.png"}
        os.mkdir("odd")
        for name in names:
            Image.new("RGB", (12, 12)).save("odd/a.png")
            os.rename(b"odd/a.png", b"odd/" + name)
        for output in ("out", "out[/x]"):
            assert {os.fsencode(path) for path in predicted(images="odd", output=output)[0]} == names
            assert predicted(images="odd", output=output)[0] == []

    def test_a_damaged_record_is_read_up_to_the_damage(self, predicted):
        predicted()
        with open("out/predicted-0.csv", "ab") as file:
            file.write(b"1,done," + 200_000 * b"x" + b"\n\xff\0,,\n")
        assert predicted()[0] == []

    def test_overwrite_predicts_all_images_again(self, predicted):
        predicted()
        assert predicted("--overwrite=true")[0] == ["a.png", "b.png", "more/a.png"]

    def test_an_interrupted_prediction_continues(self, predicted):
        predicted()
        (record,) = Path("out").glob("predicted-*.csv")
        record.write_text(record.read_text()[:-7])  # the last line, cut off
        assert len(predicted()[0]) == 1

    def test_files_of_others_are_not_overwritten(self, predicted):
        Path("out/labels").mkdir(parents=True)
        Path("out/labels/b.png").write_text("precious")
        with pytest.raises(ValueError, match=r"got out/labels/b\.png, which it did not write; choose another --output"):
            predicted()
        assert Path("out/labels/b.png").read_text() == "precious"
        assert predicted("--overwrite=true")[0] == ["a.png", "b.png", "more/a.png"]

    @pytest.mark.parametrize("output", [".", "photographs", "photographs/out"])
    def test_the_output_may_be_above_in_or_below_the_folder_of_images(self, predicted, output):
        assert predicted(output=output)[0] == ["a.png", "b.png", "more/a.png"]
        assert predicted(output=output)[0] == []

    def test_the_output_may_be_in_the_folder_of_a_split(self, predicted):
        assert predicted(images="null", output="camvid/test/out")[0] == ["test_000.png", "test_001.png"]
        assert predicted(images="null", output="camvid/test/out")[0] == []


class TestCommand:
    def test_an_unreadable_image_is_named_in_every_run(self, camvid, photographs, tmp_path, monkeypatch, capsys):
        (photographs / "broken.png").write_bytes(b"")
        options = ["--data.predict_images", str(photographs), "--output", "out", "--trainer.logger=false"]
        monkeypatch.setattr(sys, "argv", ["cpg", "predict", *ARGUMENTS, *options])
        for _ in range(2):
            with pytest.raises(SystemExit) as stopped:
                command()
            assert "got 1 that were skipped" in str(stopped.value)
        (photographs / "broken.png").unlink()
        before = (tmp_path / "out" / "labels" / "a.png").stat().st_mtime_ns
        cli = main(sys.argv[1:])
        assert len(cli.datamodule.datasets["predict"]) == 0
        assert (tmp_path / "out" / "labels" / "a.png").stat().st_mtime_ns == before

    def test_output_is_an_option_of_predict_only(self, camvid):
        with pytest.raises(ValueError, match="expected --output with fit or predict, got it with validate"):
            main(["validate", *ARGUMENTS, "--output", "out"])

    def test_inference_on_the_command_line_replaces_that_of_the_checkpoint(self, camvid, tmp_path):
        main(["fit", *ARGUMENTS, "--trainer.logger=false"])
        (checkpoint,) = tmp_path.glob("runs/*/checkpoints/last.ckpt")
        (tmp_path / "flip.yaml").write_text("class_path: Inference\ninit_args:\n  flip: true\n")
        options = ["--ckpt_path", str(checkpoint), "--trainer.logger=false"]
        cli = main(["validate", *ARGUMENTS, *options, "--model.inference", "flip.yaml"])
        assert cli.model.inference.flip
        assert not main(["validate", *ARGUMENTS, *options]).model.inference.flip


class TestPredictor:
    @pytest.fixture
    def checkpoint(self, camvid, tmp_path):
        main(["fit", *ARGUMENTS, "--trainer.logger=false", "--trainer.max_epochs=1", "--data.image_size=[24, 32]"])
        (path,) = tmp_path.glob("runs/*/checkpoints/last.ckpt")
        return path

    def test_predictions_equal_those_of_the_validation(self, checkpoint, camvid):
        predictor = Predictor.from_checkpoint(checkpoint, allow=["tiny.Tiny"])
        data = CamVidDataModule(camvid, Augmentation((24, 32)), image_size=(24, 32), num_workers=0)
        data.setup("validate")
        for batch, (path, _) in zip(data.val_dataloader(), data.datasets["val"].files, strict=True):
            expected = predictor.module.predicted_classes(batch)[0].numpy()
            image = Image.open(path)
            for given in (path, str(path), image, np.array(image.convert("RGB"))):
                assert np.array_equal(predictor(given), expected)
        assert predictor.classes == CamVidDataModule.classes

    def test_a_checkpoint_of_a_module_built_in_python_needs_its_network(self, camvid, tmp_path):
        data = CamVidDataModule(camvid, Augmentation((24, 32)), batch_size=2, num_workers=0)
        trainer = L.Trainer(max_epochs=1, logger=False, accelerator="cpu", enable_progress_bar=False)
        module = module_of()
        trainer.fit(module, datamodule=data)
        trainer.save_checkpoint(tmp_path / "module.ckpt")
        with pytest.raises(
            ValueError, match="expected a network with the checkpoint of a module that was built in Python"
        ):
            Predictor.from_checkpoint(tmp_path / "module.ckpt")
        image = np.zeros((30, 40, 3), dtype=np.uint8)
        expected = Predictor(module)(image)
        assert np.array_equal(Predictor.from_checkpoint(tmp_path / "module.ckpt", Tiny(11))(image), expected)
        with pytest.raises(ValueError, match=r"expected a checkpoint of Tiny, got another.*module\.ckpt"):
            Predictor.from_checkpoint(tmp_path / "module.ckpt", Tiny(7))

    def test_the_module_of_the_caller_does_not_change(self, camvid):
        module = module_of().train()
        given = module.inference
        predictor = Predictor(module, Inference(flip=True))
        assert predictor.module.inference.flip
        assert module.training
        assert module.inference is given
        trainer = L.Trainer(max_epochs=1, logger=False, accelerator="cpu", enable_checkpointing=False)
        trainer.fit(module, datamodule=CamVidDataModule(camvid, Augmentation((24, 32)), batch_size=2, num_workers=0))
        assert Predictor(module)(np.zeros((30, 40, 3), dtype=np.uint8)).shape == (30, 40)
        assert module.trainer is trainer

    def test_sliding_windows_are_accepted(self):
        image = np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)
        assert Predictor(module_of(), Inference(window=(16, 16), flip=True))(image).shape == (40, 56)

    def test_a_list_of_images_of_any_sizes_gives_a_list(self, photographs):
        predictor = Predictor(module_of())
        images = [photographs / "a.jpg", np.zeros((8, 12, 3), np.uint8), torch.zeros(3, 12, 8, dtype=torch.uint8)]
        found = predictor(images)
        assert [each.shape for each in found] == [(30, 40), (8, 12), (12, 8)]
        for image, classes in zip(images, found, strict=True):
            assert np.array_equal(predictor(image), classes)

    def test_a_tensor_has_its_channels_first(self):
        image = np.random.default_rng(0).integers(0, 255, (8, 12, 3), dtype=np.uint8)
        predictor = Predictor(module_of())
        assert np.array_equal(predictor(torch.from_numpy(image).permute(2, 0, 1)), predictor(image))

    @pytest.mark.parametrize("inference", [None, Inference(flip=True)])
    def test_probabilities_are_those_of_its_classes_at_the_images_own_size(self, inference):
        image = np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)
        predictor = Predictor(module_of(image_size=(20, 28)), inference)
        probabilities = predictor.probabilities(image)
        assert (probabilities.shape, probabilities.dtype) == ((11, 40, 56), np.float32)
        np.testing.assert_allclose(probabilities.sum(axis=0), 1, rtol=1e-5)
        assert np.array_equal(probabilities.argmax(axis=0), predictor(image))

    def test_an_overlay_is_a_picture_of_the_image_and_its_classes(self, photographs):
        predictor = Predictor(module_of())
        image = np.array(Image.open(photographs / "a.jpg"))
        expected = overlay(image, predictor(photographs / "a.jpg"), CamVidDataModule.classes.palette)
        assert np.array_equal(np.array(predictor.overlay(photographs / "a.jpg")), expected)

    def test_label_values_are_those_of_the_datasets_files(self):
        predictor, image = Predictor(module_of(CityscapesDataModule.classes)), np.zeros((8, 12, 3), np.uint8)
        data = CityscapesDataModule("no such folder", Augmentation((24, 32)))
        assert np.array_equal(predictor.label_values(image, data), np.array(data.label_values)[predictor(image)])
        with pytest.raises(ValueError, match="expected the predictor to have the data's classes"):
            predictor.label_values(image, CamVidDataModule("no such folder", Augmentation((24, 32))))

    @pytest.mark.parametrize(
        ("image", "message"),
        [
            (np.zeros((4, 4, 3)), r"uint8 \(H, W, 3\), got float64 .*\* image\)\.round\(\)\.astype\(np\.uint8\)"),
            (np.zeros((4, 4, 3), np.uint16), r"uint8 \(H, W, 3\), got uint16 \(4, 4, 3\); convert it to 0\.\.255"),
            (np.zeros((4, 4, 4), np.uint8), r"got uint8 \(4, 4, 4\); .* remove alpha and other channels"),
            (np.zeros((3, 4, 5), np.uint8), r"got uint8 \(3, 4, 5\); np\.moveaxis"),
            (np.zeros((2, 4, 4, 3), np.uint8), "pass several images as a list"),
            (np.zeros(4, np.uint8), r"uint8 \(H, W, 3\), got uint8 \(4,\)"),
            (np.zeros((0, 4, 3), np.uint8), r"uint8 \(H, W, 3\), got uint8 \(0, 4, 3\)"),
            (torch.zeros(4, 5, 3, dtype=torch.uint8), r"a tensor as uint8 \(3, H, W\), got torch\.uint8 \(4, 5, 3\)"),
            (torch.zeros(3, 4, 4), r"a tensor as uint8 \(3, H, W\), got torch\.float32"),
            (b"content", "expected an image as a path, .* got bytes"),
            (None, "expected an image as a path, .* got NoneType"),
            ([], "expected one image or more, got an empty list"),
            ([np.zeros((4, 4, 3), np.uint8), None], "expected an image as a path, .* got NoneType"),
        ],
    )
    def test_other_values_than_images_are_refused(self, image, message):
        with pytest.raises(ValueError, match=message):
            Predictor(module_of())(image)

    def test_a_folder_is_refused(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="expected an image file, got a folder; list its files"):
            Predictor(module_of())(tmp_path)


def test_testing_on_a_dataset_without_labels_is_refused(tmp_path):
    data = CityscapesDataModule(write_cityscapes(tmp_path / "c"), Augmentation((24, 32)), test_split="test")
    with pytest.raises(ValueError, match="expected images with labels for test, got the test split"):
        trainer_of().test(module_of(CityscapesDataModule.classes), datamodule=data)


def test_a_checkpoint_of_other_classes_is_named(camvid, tmp_path):
    main(["fit", *ARGUMENTS, "--trainer.logger=false", "--trainer.max_epochs=1"])
    (path,) = tmp_path.glob("runs/*/checkpoints/last.ckpt")
    shapes = [*BASE, "--data=ShapesDataModule", "--model.network=tiny.Tiny", "--model.criterion=CrossEntropyCPGLoss"]
    with pytest.raises(ValueError, match=r"the data has 4 classes .* and it has 11 classes"):
        main(["test", *shapes, "--ckpt_path", str(path), "--trainer.logger=false"])


class TestCityscapesEvaluation:
    @pytest.mark.parametrize("split", ["train", "val"])
    def test_our_iou_is_that_of_the_official_scripts(self, split, real_data, tmp_path):
        """``cpg predict``'s PNGs of the real samples, by ``evalPixelLevelSemanticLabeling`` and by our metric."""
        evaluation = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
        root = real_data / "samples" / "cityscapes"
        data = CityscapesDataModule(root, Augmentation((64, 64)), num_workers=0, predict_split=split)
        module = module_of(CityscapesDataModule.classes)
        predict(data, tmp_path, module, overlay=False)
        files = data.files(split)
        labels = [str(label) for _, label in files]
        predictions = [str(tmp_path / "out" / "labels" / f"{image.stem}.png") for image, _ in files]
        args = SimpleNamespace(**vars(evaluation.args))
        args.evalInstLevelScore, args.quiet, args.JSONOutput = False, True, False  # with NumPy 2.4 the rest of it fails
        official = evaluation.evaluateImgLists(predictions, labels, args)
        metric = ClassIoU(19, absent=data.classes.absent_classes)
        for item in data.dataset(split, training=False):
            mask = item["mask"][None].long()
            metric.update(module.predicted_classes({"image": item["image"][None], "mask": mask}), mask)
        iou = metric.compute()
        assert iou.nanmean().item() == pytest.approx(official["averageScoreClasses"], abs=1e-9)
        for name, value in zip(data.classes.names, iou.tolist(), strict=True):
            assert value == pytest.approx(official["classScores"][name], abs=1e-9, nan_ok=True)


def test_overlays_show_the_image_and_the_classes(photographs, tmp_path):
    predict(data_of(tmp_path, predict_images=str(photographs / "a.jpg")), tmp_path)
    labels = np.array(Image.open(tmp_path / "out" / "labels" / "a.png"))
    overlay = np.array(Image.open(tmp_path / "out" / "overlay" / "a.png")).astype(int)
    image = np.array(Image.open(photographs / "a.jpg")).astype(int)
    halfway = (image + colour_classes(labels, CamVidDataModule.classes.palette)) / 2
    assert (np.abs(overlay - halfway).max(axis=-1) <= 2).mean() > 0.2
