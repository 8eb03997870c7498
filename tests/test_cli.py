"""The cpg command: what a run leaves behind, how it is resumed, and what bad input gets."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
import wandb
import yaml
from commands import ARGUMENTS, BASE, PARTS, fails, in_a_process
from conftest import in_new_folder
from lightning.pytorch.loggers import WandbLogger
from PIL import Image
from tiny import SGD, Tiny
from torchvision.models import mobilenet_v3_large

import cpg_lightning
from cpg_lightning.callbacks import EvaluationReport
from cpg_lightning.cli import main
from cpg_lightning.command import command
from cpg_lightning.data import Augmentation, CamVidDataModule
from cpg_lightning.losses import CrossEntropyCPGLoss
from cpg_lightning.module import SegmentationModule


@functools.cache
def inspect(run, *options):
    """What a finished offline W&B run holds, as JSON."""
    wandb_command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", *options, "--json", run]
    result = subprocess.run(wandb_command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def records(run):
    """The history of an offline W&B run, item by item, and its summary with the configuration."""
    lines = [json.loads(line) for line in inspect(run).splitlines()]
    return [line["history"]["item"] for line in lines if line["type"] == "history"], json.loads(
        inspect(run, "--summary")
    )


class Run:
    """One run of the command, its folder and what it printed."""

    def __init__(self, folder, output):
        self.folder = folder
        self.output = output

    @property
    def config(self):
        return self.folder / "config.yaml"

    @property
    def last(self):
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def offline(self):
        return sorted((self.folder / "wandb").glob("offline-run-*"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished training on a tiny CamVid, in a folder of its own."""
    with in_new_folder(tmp_path_factory) as folder, redirect_stdout(StringIO()) as output:
        main(["fit", *ARGUMENTS])
    (runs,) = (folder / "runs").glob("camvid-*")
    return Run(runs, output.getvalue())


class TestRun:
    def test_a_run_is_named_by_its_parts(self, run):
        assert re.fullmatch(r"camvid-tiny-ce\+cpg-seed0-[0-9a-f]{8}", run.folder.name)

    def test_without_an_api_key_a_run_logs_offline_with_a_message(self, run):
        (offline,) = run.offline
        assert f"W&B: no API key, logging offline to {offline}; upload with: wandb sync {offline}\n" in run.output

    def test_a_run_ends_with_its_table_checkpoint_and_picture(self, run):
        for name in (*CamVidDataModule.classes.names, "mIoU", "boundary_IoU", "trimap_mIoU/3px"):
            assert re.search(rf"{name}\s*│\s*(\d\.\d{{4}}|absent)", run.output)
        best = re.search(r"best checkpoint: (.*)", run.output)[1]
        picture = re.search(r"picture: (.*)", run.output)[1]
        assert (run.folder.parent.parent / best).is_file()
        with Image.open(run.folder.parent.parent / picture) as image:
            assert np.asarray(image).std() > 20

    def test_a_run_ends_with_the_next_commands(self, run):
        for subcommand in ("validate", "predict"):
            assert f"with the best checkpoint: cpg {subcommand} --run runs/{run.folder.name}\n" in run.output

    def test_the_configuration_is_saved_as_it_was_given(self, run):
        config = yaml.safe_load(run.config.read_text())
        assert config["trainer"]["default_root_dir"] == "runs"
        assert config["trainer"]["logger"]["init_args"]["id"] is None
        assert config["model"]["criterion"]["init_args"]["cpg_weight"] == 1.0
        assert config["data"]["init_args"]["batch_size"] == 2

    def test_the_saved_configuration_runs_again(self, run, camvid):
        cli = main(["--config", str(run.config), "--data.root", str(camvid)], run=False)
        assert cli.datamodule.batch_size == 2

    def test_weights_and_biases_has_scalars_against_the_trainers_step(self, run):
        history, _ = records(run.offline[0])
        validations = {item["trainer/global_step"]: item["val/mIoU"] for item in history if "val/mIoU" in item}
        assert list(validations) == [2, 5]
        assert all(0 <= value <= 1 for value in validations.values())
        steps = [item["trainer/global_step"] for item in history if "train/loss" in item]
        assert steps == list(range(6))
        assert {"train/ce", "train/cpg", "lr"} <= {key for item in history for key in item}

    def test_weights_and_biases_has_masks_with_their_class_names(self, run):
        history, _ = records(run.offline[0])
        examples = next(item for item in history if "val/examples._type" in item)
        for name, caption in zip(("val_000", "val_001", "val_002"), examples["val/examples.captions"], strict=True):
            assert re.fullmatch(rf"{name}, mIoU 0\.\d{{3}}, boundary IoU 0\.\d{{3}}", caption)
        assert [set(masks) for masks in examples["val/examples.all_masks"]] == [{"prediction", "ground_truth"}] * 3
        files = run.offline[0] / "files"
        label = np.array(Image.open(files / examples["val/examples.all_masks"][0]["ground_truth"]["path"]))
        with Image.open(run.folder.parent.parent / "camvid" / "valannot" / "val_000.png") as original:
            assert np.array_equal(label, np.where(np.array(original) == 11, 255, original))
        assert np.array(Image.open(files / examples["val/examples.filenames"][0])).max() > 100
        labels = "".join(line for line in inspect(run.offline[0]).splitlines() if "mask/class_labels" in line)
        assert '"6":"sign symbol"' in labels
        assert '"255":"ignored"' in labels

    def test_weights_and_biases_has_the_worst_images_the_confusion_matrix_and_the_trimap_curve(self, run):
        history, _ = records(run.offline[0])
        for name, number in (("worst", 3), ("confusion", 1), ("trimap", 1)):
            (pictures,) = [item for item in history if f"val/{name}._type" in item]  # of two validations the last
            assert len(pictures[f"val/{name}.filenames"]) == number
            for file in pictures[f"val/{name}.filenames"]:
                assert np.array(Image.open(run.offline[0] / "files" / file)).std() > 20

    def test_weights_and_biases_has_the_boundary_metrics(self, run):
        history, _ = records(run.offline[0])
        last = [item for item in history if "val/boundary_IoU" in item]
        assert len(last) == 1  # of two epochs the last
        assert {"val/boundary_F1/3px", "val/trimap_mIoU/3px", "val/pixel_accuracy", "val/fwIoU"} <= last[0].keys()

    def test_weights_and_biases_has_the_table_of_the_classes(self, run):
        history, _ = records(run.offline[0])
        table = next(item for item in history if "val/IoU_table.path" in item)
        content = json.loads((run.offline[0] / "files" / table["val/IoU_table.path"]).read_text())
        assert content["columns"] == ["class", "IoU", "boundary IoU", "pixels"]
        assert [row[0] for row in content["data"]] == list(CamVidDataModule.classes.names)

    def test_weights_and_biases_has_the_columns_for_filtering(self, run):
        config = records(run.offline[0])[1]["config"]
        expected = {"dataset": "CamVid", "network": "Tiny", "criterion": "CrossEntropyCPGLoss", "cpg_weight": 1.0}
        expected |= {"optimizer": "SGD", "learning_rate": 0.1, "images_a_step": 2, "precision": "32-true", "seed": 0}
        assert {name: config[name] for name in expected} == expected
        assert not any("." in name for name in config)


def test_python_gives_the_pictures_tables_and_columns_of_the_command(run, camvid):
    """``Trainer(callbacks=[EvaluationReport()], logger=WandbLogger())``, with the options of the command."""
    L.seed_everything(0)
    data = CamVidDataModule("camvid", Augmentation((24, 32)), batch_size=2, num_workers=0)
    module = SegmentationModule(Tiny(data.num_classes), CrossEntropyCPGLoss(), data.classes, optimizer=SGD)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        log_every_n_steps=1,
        default_root_dir="python",
        callbacks=[EvaluationReport()],
        # Absolute, because the service of Weights & Biases may have been started in another folder.
        logger=WandbLogger(mode="offline", save_dir=Path("python").absolute()),
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(module, datamodule=data)
    wandb.finish()
    (offline,) = Path("python/wandb").glob("offline-run-*")
    found, expected = records(offline), records(run.offline[0])
    assert found[1]["config"] == expected[1]["config"]
    keys, of_command = ({name for item in history for name in item} for history in (found[0], expected[0]))
    of_costs = {name for name in of_command if name.startswith("costs/") or name == "train/gradient_norm"}
    assert of_command - keys == of_costs  # of the callback Costs
    for folder in ("pictures", "tables"):
        names = {path.name for path in (run.folder / folder).iterdir()}
        assert {path.name for path in Path("python", folder).iterdir()} == names


class TestAfterwards:
    """What is done with a finished run."""

    def test_a_checkpoint_is_loaded_from_its_path_for_evaluation(self, run):
        module = SegmentationModule.load_from_checkpoint(run.last, allow=["tiny.Tiny"])
        assert module.network.__class__.__name__ == "Tiny"
        assert module.classes == CamVidDataModule.classes

    def test_a_checkpoint_downloads_no_pretrained_weights(self, camvid, monkeypatch):
        def state_of(url, *arguments, **options):
            return mobilenet_v3_large().state_dict()

        monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", state_of)
        lraspp = ["--model.network=LRASPP", "--model.network.weights_backbone=IMAGENET1K_V2"]
        main(["fit", *ARGUMENTS, *lraspp, "--trainer.max_steps=1", "--trainer.logger=false"])
        monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", None)
        (path,) = Path("runs").glob("*/checkpoints/last.ckpt")
        assert SegmentationModule.load_from_checkpoint(path).network.backbone is not None

    def test_validate_finds_the_same_iou_and_the_command_line_wins(self, run, camvid, capsys):
        history, _ = records(run.offline[0])
        last = [item["val/mIoU"] for item in history if "val/mIoU" in item][-1]
        arguments = ["--config", str(run.config), "--ckpt_path", str(run.last), "--data.root", str(camvid)]
        cli = main(["validate", *arguments, "--model.aux_weight=0.123"])
        assert cli.trainer.callback_metrics["val/mIoU"].item() == pytest.approx(last)
        assert cli.model.aux_weight == 0.123
        assert f"picture: {run.folder}/evaluations/val-last-" in capsys.readouterr().out
        assert not Path("runs").exists()

    def test_predict_writes_one_picture_per_image(self, run, camvid):
        arguments = ["--config", str(run.config), "--ckpt_path", str(run.last), "--data.root", str(camvid)]
        cli = main(["predict", *arguments])
        (folder,) = Path("runs").glob("predict-*/predictions")
        for kind in ("palette", "labels", "overlay"):
            assert sorted(path.name for path in (folder / kind).iterdir()) == ["test_000.png", "test_001.png"]
        batch = next(iter(cli.datamodule.predict_dataloader()))
        expected = cli.model.predict_step(batch, 0)[0]
        palette = np.array(CamVidDataModule.classes.palette, dtype=np.uint8)
        assert np.array_equal(np.array(Image.open(folder / "palette" / "test_000.png")), palette[expected])

    def test_evaluation_without_a_checkpoint_gives_a_warning(self, camvid):
        with pytest.warns(UserWarning, match="validate uses the initial weights of the network"):
            main(["validate", *ARGUMENTS, "--trainer.logger=false"])

    def test_a_run_needs_its_initial_weights_only_once(self, run, camvid, capsys):
        shutil.copy(run.last, "start.ckpt")
        frozen = ["--trainer.max_epochs=1", "--model.optimizer.lr=0", "--model.weights=start.ckpt"]
        started = main(["fit", *ARGUMENTS, *frozen]).model
        expected = torch.load("start.ckpt", weights_only=True)["state_dict"]
        torch.testing.assert_close(dict(started.state_dict()), dict(expected))
        Path("start.ckpt").unlink()
        (folder,) = Path("runs").glob("camvid-*")
        last = folder / "checkpoints" / "last.ckpt"
        main(["validate", "--config", str(folder / "config.yaml"), "--ckpt_path", str(last)])

    def test_weights_of_another_network_or_number_of_classes_are_refused(self, run, camvid, monkeypatch, capsys):
        other = ["--data=ShapesDataModule", f"--model.weights={run.last}"]
        shown = fails(monkeypatch, capsys, "fit", *BASE, *PARTS, *other)
        assert "2 of another shape: out.bias (11,) instead of (4,)" in shown
        assert "new_classifier=True reinitialises the last layers" in shown
        assert not Path("runs").exists()

    def test_a_module_of_the_user_is_adapted(self, camvid):
        network = [
            "--model.network=Adapter",
            "--model.network.network=torch.nn.Conv2d",
            "--model.network.network.in_channels=3",
            "--model.network.network.out_channels=11",
            "--model.network.network.kernel_size=1",
        ]
        main(["fit", *ARGUMENTS, *network, "--trainer.max_epochs=1"])
        (last,) = Path("runs").glob("camvid-adapter-*/checkpoints/last.ckpt")
        module = SegmentationModule.load_from_checkpoint(last, allow=["torch.nn.Conv2d"])
        assert module.network.network.out_channels == 11

    def test_test_reports_the_test_split(self, run, camvid):
        arguments = ["--config", str(run.config), "--ckpt_path", str(run.last), "--data.root", str(camvid)]
        assert "test/mIoU" in main(["test", *arguments]).trainer.callback_metrics

    @pytest.mark.parametrize("checkpoint", ["last", pytest.param("best", marks=pytest.mark.slow)])
    def test_an_interrupted_run_continues_in_its_folder_with_its_id_and_schedule(self, camvid, checkpoint):
        arguments = ["fit", *ARGUMENTS, "--trainer.max_epochs=4", "--model.warmup_steps=2"]
        whole = main(arguments)
        (first,) = Path("runs").iterdir()
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            main([*arguments, "--trainer.callbacks+=tiny.Broken", "--trainer.callbacks.epoch=2"])
        (broken,) = set(Path("runs").iterdir()) - {first}
        pattern = {"last": "last.ckpt", "best": "epoch=*.ckpt"}[checkpoint]
        (path,) = (broken / "checkpoints").glob(pattern)
        resumed = main([*arguments, "--ckpt_path", str(path)])

        assert set(Path("runs").iterdir()) == {first, broken}
        assert (broken / "config-1.yaml").is_file()
        offline = Run(broken, "").offline
        assert [broken.name.split("-")[-1] in folder.name for folder in offline] == [True, True]
        rates = {item["trainer/global_step"]: item["lr"] for item in records(offline[1])[0] if "lr" in item}
        expected = {
            item["trainer/global_step"]: item["lr"] for item in records(Run(first, "").offline[0])[0] if "lr" in item
        }
        assert len(rates) >= 6
        assert rates == {step: expected[step] for step in rates}
        assert max(rates) == max(expected) == 11
        for name, value in whole.model.state_dict().items():
            torch.testing.assert_close(resumed.model.state_dict()[name], value, msg=name)


def test_two_runs_from_one_folder_do_not_clash(camvid):
    for _ in range(2):
        main(["fit", *ARGUMENTS, "--trainer.max_epochs=1"])
    runs = list(Path("runs").glob("camvid-*"))
    assert len(runs) == 2
    for folder in runs:
        assert (folder / "config.yaml").is_file()
        assert (folder / "checkpoints" / "last.ckpt").is_file()
        assert len(list(folder.glob("wandb/offline-run-*"))) == 1


def test_two_processes_count_every_image_once(camvid, monkeypatch):
    """3 validation images on 2 processes: whoever repeats one to make the shares even finds another IoU."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    in_a_process("fit", *ARGUMENTS, "--trainer.devices=2", "--trainer.strategy=ddp")
    (folder,) = Path("runs").iterdir()
    distributed = Run(folder, "")
    history = records(distributed.offline[0])[0]
    cli = main(
        ["validate", "--config", str(distributed.config), "--ckpt_path", str(distributed.last), "--trainer.devices=1"]
    )
    for name in ("mIoU", "boundary_IoU", "boundary_F1/2px", "trimap_mIoU/5px", "class_accuracy"):
        found = [item[f"val/{name}"] for item in history if f"val/{name}" in item][-1]
        assert found == pytest.approx(cli.trainer.callback_metrics[f"val/{name}"].item()), name


@pytest.mark.slow
def test_two_processes_write_one_table_of_all_images(camvid, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    monkeypatch.setenv("WANDB_MODE", "offline")
    in_a_process("validate", *ARGUMENTS, "--trainer.devices=2", "--trainer.strategy=ddp")
    (table,) = Path("runs").glob("*/tables/val-images.csv")
    rows = table.read_text().splitlines()[1:]
    assert sorted(row.split(",")[0] for row in rows) == ["val_000", "val_001", "val_002"]


@pytest.mark.slow
def test_two_processes_predict_every_image_and_name_the_unreadable_ones(camvid, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    (Path("camvid") / "val" / "val_002.png").write_bytes(b"")
    options = ["--data.predict_images=camvid/val", "--output=out", "--trainer.logger=false"]
    with pytest.raises(AssertionError, match="got 1 that were skipped"):
        in_a_process("predict", *ARGUMENTS, *options, "--trainer.devices=2", "--trainer.strategy=ddp")
    assert sorted(path.name for path in Path("out/labels").iterdir()) == ["val_000.png", "val_001.png"]
    shutil.copy("camvid/val/val_000.png", "camvid/val/val_002.png")  # one image is left for two processes
    in_a_process("predict", *ARGUMENTS, *options, "--trainer.devices=2", "--trainer.strategy=ddp")
    assert len(list(Path("out/labels").iterdir())) == 3


class TestHelp:
    @pytest.mark.parametrize("arguments", [[], ["fit"]])
    def test_help_lists_our_classes(self, arguments, capsys):
        with pytest.raises(SystemExit) as end:
            main([*arguments, "--help"])
        shown = capsys.readouterr().out
        assert end.value.code == 0
        assert shown.startswith("usage: cpg")
        for name in ("ShapesDataModule", "CamVidDataModule", "DeepLabV3", "LRASPP", "CrossEntropyCPGLoss"):
            assert name in shown

    def test_the_version_is_the_packages(self, capsys):
        with pytest.raises(SystemExit):
            main(["--version"])
        assert cpg_lightning.__version__ in capsys.readouterr().out


class TestErrors:
    def test_a_missing_root(self, monkeypatch, capsys):
        message = fails(monkeypatch, capsys, "fit", *ARGUMENTS)
        assert "expected the folder camvid/train, got" in message
        assert "trainannot/" in message
        assert not Path("runs").exists()

    def test_a_missing_split(self, camvid, monkeypatch, capsys):
        (camvid / "test").rename(camvid / "elsewhere")
        assert "expected the folder camvid/test, got" in fails(monkeypatch, capsys, "test", *ARGUMENTS)

    def test_images_without_labels(self, camvid, monkeypatch, capsys):
        (camvid / "valannot" / "val_000.png").unlink()
        assert "none for 1, e.g. camvid/val/val_000.png" in fails(monkeypatch, capsys, "fit", *ARGUMENTS)

    @pytest.mark.parametrize("num_workers", [0, 1])
    @pytest.mark.parametrize(
        ("label", "message"),
        [
            (Image.new("L", (48, 30)), "got 30x48"),
            (Image.new("L", (48, 36), 77), "got [77]"),
            (None, "readable image file"),
        ],
        ids=["size", "value", "unreadable"],
    )
    def test_a_bad_label(self, camvid, monkeypatch, capsys, label, message, num_workers):
        path = camvid / "trainannot" / "train_004.png"
        label.save(path) if label else path.write_bytes(b"nothing")
        shown = fails(monkeypatch, capsys, "fit", *ARGUMENTS, f"--data.num_workers={num_workers}")
        assert message in shown
        assert str(path.relative_to(camvid.parent)) in shown
        assert "Traceback" not in shown
        assert not list(Path("runs").glob("*/checkpoints/*"))

    @pytest.mark.parametrize(
        ("argument", "message"),
        [
            ("--data=Nowhere", "Nowhere"),
            ("--model.network=not_there.Network", "not_there"),
            ("--model.criterion.cpg_wieght=1", "'cpg_wieght' is not accepted"),
            ("--data.batch_sise=1", "'batch_sise' is not accepted"),
            ("--trainer.max_epoks=1", "max_epoks"),
            ("--model.criterion.kernel_size=4", "odd number of pixels"),
            ("--data.augmentation.scale=[2,1]", "smaller one first"),
        ],
    )
    def test_a_wrong_name_or_value(self, camvid, monkeypatch, capsys, argument, message):
        shown = fails(monkeypatch, capsys, "fit", *ARGUMENTS, argument)
        assert message in shown
        assert len(shown.splitlines()) < 30
        assert not Path("runs").exists()

    def test_an_output_folder_that_cannot_be_written(self, camvid, monkeypatch, capsys):
        Path("occupied").write_text("a file")
        shown = fails(monkeypatch, capsys, "fit", *ARGUMENTS, "--trainer.default_root_dir=occupied")
        assert "expected a folder that can be written to, got occupied/camvid-tiny" in shown
        access = os.access  # the tests may run as root, whom no permission stops
        monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK and access(path, mode))
        assert "choose another folder with --trainer.default_root_dir" in fails(monkeypatch, capsys, "fit", *ARGUMENTS)

    @pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "predict"])
    def test_a_file_that_is_not_a_checkpoint(self, camvid, monkeypatch, capsys, subcommand):
        shown = fails(monkeypatch, capsys, subcommand, *ARGUMENTS, "--ckpt_path=missing.ckpt")
        assert "expected a checkpoint file, got none: missing.ckpt" in shown
        Path("text.ckpt").write_text("no checkpoint")
        shown = fails(monkeypatch, capsys, subcommand, *ARGUMENTS, "--ckpt_path=text.ckpt")
        assert "could not read text.ckpt" in shown
        assert not Path("runs").exists()

    def test_a_checkpoint_without_the_state_of_training(self, run, camvid, monkeypatch, capsys):
        whole = torch.load(run.last, weights_only=True)
        torch.save({name: whole[name] for name in ("pytorch-lightning_version", "state_dict")}, "weights.ckpt")
        main(["validate", *ARGUMENTS, "--ckpt_path=weights.ckpt"])
        shown = fails(monkeypatch, capsys, "fit", *ARGUMENTS, "--ckpt_path=weights.ckpt")
        assert (
            "got one without callbacks, epoch, global_step, loops, lr_schedulers, optimizer_states: weights.ckpt"
            in shown
        )
        assert "can start another training with --model.weights, but cannot continue one" in shown

    @pytest.mark.parametrize("subcommand", ["fit", "validate"])
    def test_a_checkpoint_of_another_network(self, run, camvid, monkeypatch, capsys, subcommand):
        other = ["--model.network=tiny.Tiny", "--model.network.aux_loss=true"]
        shown = fails(monkeypatch, capsys, subcommand, *ARGUMENTS, *other, f"--ckpt_path={run.last}")
        assert "expected a checkpoint of Tiny, got another: 2 weights differ" in shown
        assert not Path("runs").exists()

    def test_an_environment_variable_shows_the_traceback(self, monkeypatch):
        monkeypatch.setenv("CPG_TRACEBACK", "1")
        monkeypatch.setattr("sys.argv", ["cpg", "fit", *ARGUMENTS])
        with pytest.raises(FileNotFoundError):
            command()


class TestLoggers:
    def test_a_second_logger_changes_nothing_for_the_first(self, camvid):
        main(
            [
                "fit",
                *ARGUMENTS,
                "--trainer.max_epochs=1",
                "--trainer.logger+=CSVLogger",
                "--trainer.logger.save_dir=csv",
            ]
        )
        (folder,) = Path("runs").glob("camvid-tiny-ce+cpg-seed0-*")
        assert len(list(folder.glob("wandb/offline-run-*"))) == 1
        assert list(Path("csv").rglob("metrics.csv"))

    def test_a_dot_as_save_dir_is_the_run_folder(self, camvid):
        other = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=."]
        cli = main([*ARGUMENTS, *other], run=False)
        assert cli.trainer.logger.save_dir == os.path.abspath(cli.trainer.default_root_dir)

    def test_the_users_own_name_id_and_folder_are_kept(self, camvid):
        own = ["--trainer.logger.name=mine", "--trainer.logger.id=abc", "--trainer.logger.save_dir=elsewhere"]
        cli = main([*ARGUMENTS, *own], run=False)
        assert cli.trainer.logger.version == "abc"
        assert cli.trainer.logger.save_dir == "elsewhere"
        assert cli.trainer.default_root_dir.endswith("runs/mine-abc")

    def test_files_staged_by_weights_and_biases_stay_in_the_run_folder(self, camvid, monkeypatch):
        monkeypatch.delenv("WANDB_DATA_DIR")
        for _ in range(2):
            cli = main([*ARGUMENTS], run=False)
            assert os.environ["WANDB_DATA_DIR"] == os.path.abspath(cli.trainer.default_root_dir)
        monkeypatch.setenv("WANDB_DATA_DIR", "chosen")
        main([*ARGUMENTS], run=False)
        assert os.environ["WANDB_DATA_DIR"] == "chosen"
