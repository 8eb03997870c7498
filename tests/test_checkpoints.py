"""Checkpoints are data from others: nothing in them is imported, opened or run, and damage is named."""

import copy
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ARGUMENTS, fails
from conftest import in_new_folder
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny import Tiny, trainer_of

from cpg_lightning.cli import main
from cpg_lightning.data import Augmentation, CamVidDataModule
from cpg_lightning.losses import CrossEntropyCPGLoss
from cpg_lightning.module import SegmentationModule
from cpg_lightning.networks import LRASPP, Adapter
from cpg_lightning.predictor import Predictor
from cpg_lightning.runs.checkpoints import build_network, read_checkpoint

IMAGE = np.zeros((32, 32, 3), dtype=np.uint8)
FIT = [*ARGUMENTS, "--model.network=LRASPP", "--trainer.logger=false", "--trainer.max_epochs=1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The checkpoint of a short training with a network of this package."""
    with in_new_folder(tmp_path_factory) as folder:
        main(["fit", *FIT])
    (path,) = folder.glob("runs/*/checkpoints/last.ckpt")
    return torch.load(path, weights_only=True)


@pytest.fixture
def checkpoint(trained):
    return copy.deepcopy(trained)


def saved(checkpoint):
    torch.save(checkpoint, "changed.ckpt")
    torch.load("changed.ckpt", weights_only=True)  # plain values alone
    return "changed.ckpt"


def described(class_path, **arguments):
    return {"class_path": class_path, "init_args": arguments}


SHELL = described("os.system", command="touch ran")


class TestNothingRuns:
    def test_a_checkpoint_of_this_package_predicts(self, checkpoint):
        assert Predictor.from_checkpoint(saved(checkpoint))(IMAGE).shape == (32, 32)

    @pytest.mark.parametrize("entry", ["optimizer", "criterion", "inference", "weights", "_instantiator", "anything"])
    def test_entries_that_evaluation_does_not_need_are_ignored(self, checkpoint, entry):
        checkpoint["hyper_parameters"][entry] = SHELL if entry != "_instantiator" else "os.system"
        Predictor.from_checkpoint(saved(checkpoint))
        assert not Path("ran").exists()

    @pytest.mark.parametrize(
        "class_path", ["os.system", "subprocess.Popen", "evil.Net", "torch.nn.Conv2d", "tiny.Tiny"]
    )
    def test_a_class_of_another_package_is_refused_before_it_is_imported(self, checkpoint, class_path):
        Path("evil.py").write_text("open('ran', 'w')\nclass Net: ...\n")
        checkpoint["hyper_parameters"]["network"] = described(class_path)
        with pytest.raises(ValueError, match=rf"got {class_path}; a checkpoint must not choose .*: changed\.ckpt"):
            Predictor.from_checkpoint(saved(checkpoint))
        assert not Path("ran").exists()
        assert "evil" not in sys.modules

    @pytest.mark.parametrize("depth", ["network", "options"])
    def test_a_foreign_class_inside_a_network_is_refused_before_it_is_imported(self, checkpoint, depth):
        inner = {"network": SHELL} if depth == "network" else {"options": {"deep": [SHELL]}}
        checkpoint["hyper_parameters"]["network"] = described("cpg_lightning.networks.Adapter", **inner)
        with pytest.raises(ValueError, match=r"got os\.system"):
            Predictor.from_checkpoint(saved(checkpoint))
        assert not Path("ran").exists()

    def test_other_attributes_of_this_package_are_not_networks(self, checkpoint):
        for name in (
            "cpg_lightning.networks.weights.read_file",
            "cpg_lightning.command.command",
            "cpg_lightning.networks.os",
        ):
            checkpoint["hyper_parameters"]["network"] = described(name)
            with pytest.raises(ValueError, match=f"got {name}"):
                Predictor.from_checkpoint(saved(checkpoint))

    @pytest.mark.parametrize("value", ["/etc/passwd", "../weights.pth", "hf-hub:someone/model", "a\\b"])
    def test_paths_and_addresses_among_a_networks_arguments_are_refused(self, checkpoint, value):
        checkpoint["hyper_parameters"]["network"]["init_args"]["batch_norm_momentum"] = value
        with pytest.raises(ValueError, match="may be a path or a URL; pass network= instead"):
            Predictor.from_checkpoint(saved(checkpoint))

    def test_a_folder_to_read_is_refused(self, checkpoint):
        checkpoint["hyper_parameters"]["network"] = described("cpg_lightning.networks.HuggingFace", folder="model")
        with pytest.raises(ValueError, match="expected no folder in the checkpoint"):
            Predictor.from_checkpoint(saved(checkpoint))

    def test_no_weights_are_downloaded(self, checkpoint):
        checkpoint["hyper_parameters"]["network"]["init_args"]["weights_backbone"] = "IMAGENET1K_V2"
        assert Predictor.from_checkpoint(saved(checkpoint))(IMAGE).shape == (32, 32)

    def test_a_network_that_accepts_any_option_is_built_with_its_options(self, camvid):
        network = ["--model.network=tiny.Flexible", "--model.network.dict_kwargs.aux_loss=true"]
        description = main([*ARGUMENTS, *network], run=False).model.hparams["network"]
        assert build_network(description, 11, ["tiny.Flexible"]).aux is not None

    def test_an_own_class_is_passed_or_allowed_by_name(self, checkpoint):
        expected = Predictor.from_checkpoint(saved(checkpoint))(IMAGE)
        checkpoint["hyper_parameters"]["network"] = described("not_there.Network")
        passed = Predictor.from_checkpoint(saved(checkpoint), network=LRASPP(11))
        assert np.array_equal(passed(IMAGE), expected)
        inner = described("torch.nn.Conv2d", in_channels=3, out_channels=11, kernel_size=1)
        module = SegmentationModule(
            Adapter(11, torch.nn.Conv2d(3, 11, 1)), CrossEntropyCPGLoss(), CamVidDataModule.classes
        )
        checkpoint |= {"state_dict": module.state_dict()}
        checkpoint["hyper_parameters"]["network"] = described("cpg_lightning.networks.Adapter", network=inner)
        allowed = SegmentationModule.load_from_checkpoint(saved(checkpoint), allow=["torch.nn.Conv2d"])
        assert torch.equal(allowed.network.network.weight, module.network.network.weight)
        inner = described("tiny.pointwise", classes=11)  # a function
        checkpoint["hyper_parameters"]["network"] = described("cpg_lightning.networks.Adapter", network=inner)
        with pytest.raises(ValueError, match=r"got tiny\.pointwise; .* pass network= or allow=\['tiny\.pointwise'\]"):
            SegmentationModule.load_from_checkpoint(saved(checkpoint))
        allowed = SegmentationModule.load_from_checkpoint(saved(checkpoint), allow=["tiny.pointwise"])
        assert torch.equal(allowed.network.network.weight, module.network.network.weight)

    @pytest.mark.parametrize("subcommand", ["fit", "validate"])
    @pytest.mark.parametrize("dirpath", [None, "elsewhere"])
    def test_files_outside_its_folder_are_not_replaced(
        self, checkpoint, camvid, monkeypatch, capsys, subcommand, dirpath
    ):
        Path("precious").write_text("")
        key = next(key for key in checkpoint["callbacks"] if key.startswith("ModelCheckpoint"))
        checkpoint["callbacks"][key] |= {"dirpath": dirpath, "best_k_models": {os.path.abspath("precious"): 0.0}}
        shown = fails(monkeypatch, capsys, subcommand, *FIT, "--ckpt_path", saved(checkpoint))
        assert "expected the checkpoints of a ModelCheckpoint in its folder" in shown
        assert Path("precious").exists()

    @pytest.mark.parametrize("key", ["ModelCheckpoint", "MyCheckpoint"])
    @pytest.mark.parametrize("entry", ["best_model_path", "kth_best_model_path", "last_model_path"])
    @pytest.mark.parametrize("file", ["local://{}/precious", "file::{}/precious", "a/../../precious", "../precious"])
    def test_paths_outside_its_folder_are_refused(self, checkpoint, key, entry, file):
        file = file.format(os.getcwd())
        checkpoint["callbacks"] = {f"{key}{{'monitor': None}}": {"dirpath": ".", entry: file}}
        with pytest.raises(ValueError, match="expected the checkpoints of a ModelCheckpoint in its folder"):
            read_checkpoint(saved(checkpoint))

    def test_paths_outside_its_folder_are_refused_in_python_too(self, camvid):
        def fit(epochs, **options):
            callback = ModelCheckpoint(dirpath="checkpoints", filename="last", enable_version_counter=False)
            trainer = trainer_of(
                max_epochs=epochs, enable_checkpointing=True, limit_val_batches=0, callbacks=[callback]
            )
            data = CamVidDataModule(camvid, Augmentation((24, 32)), batch_size=2, num_workers=0)
            trainer.fit(
                SegmentationModule(Tiny(11), CrossEntropyCPGLoss(), CamVidDataModule.classes),
                datamodule=data,
                **options,
            )

        fit(1)
        Path("precious").mkdir()
        checkpoint = torch.load("checkpoints/last.ckpt", weights_only=True)
        for state in checkpoint["callbacks"].values():
            state |= {"dirpath": ".", "best_model_path": f"local://{os.getcwd()}/precious"}
        with pytest.raises(ValueError, match="expected the checkpoints of a ModelCheckpoint in its folder"):
            fit(2, ckpt_path=saved(checkpoint))
        assert Path("precious").exists()

    @pytest.mark.parametrize("dirpath", ["runs/a/checkpoints", "/runs/a/checkpoints"])
    def test_paths_in_its_folder_are_accepted(self, checkpoint, dirpath):
        file = f"{dirpath}/epoch=1-val/mIoU=0.5.ckpt"
        checkpoint["callbacks"] = {"ModelCheckpoint": {"dirpath": dirpath, "best_model_path": file}}
        assert read_checkpoint(saved(checkpoint))["callbacks"] == checkpoint["callbacks"]


class TestDamage:
    @pytest.mark.parametrize("value", ["missing", None, 3, "text", [], {}, {"a": 1}])
    @pytest.mark.parametrize("entry", ["state_dict", "hyper_parameters", "pytorch-lightning_version"])
    def test_a_missing_or_mistyped_entry_is_a_value_error_with_the_path(self, checkpoint, entry, value):
        if value == "missing":
            del checkpoint[entry]
        else:
            checkpoint[entry] = value
        if (entry, value) == ("pytorch-lightning_version", "text"):
            return  # the version is for Lightning
        with pytest.raises(ValueError, match=r"changed\.ckpt"):
            Predictor.from_checkpoint(saved(checkpoint))

    @pytest.mark.parametrize("value", [None, -1, "text", [3], {"a": 1}, 2**70])
    @pytest.mark.parametrize(
        "entry", ["network", "classes", "image_size", "names", "palette", "absent_classes", "dilation_ratio"]
    )
    def test_a_mistyped_hyperparameter_is_a_value_error_with_the_path(self, checkpoint, entry, value):
        parameters = checkpoint["hyper_parameters"]
        (parameters if entry in parameters else parameters["classes"])[entry] = value
        if entry in ("image_size", "palette") and value is None:
            assert Predictor.from_checkpoint(saved(checkpoint))(IMAGE).shape == (32, 32)
        else:
            with pytest.raises(ValueError, match=r"changed\.ckpt"):
                Predictor.from_checkpoint(saved(checkpoint))

    @pytest.mark.parametrize("value", ["missing", None, 3, "text", [], {}, [3], {"a": 1}])
    @pytest.mark.parametrize(
        "entry", ["callbacks", "loops", "lr_schedulers", "optimizer_states", "epoch", "global_step"]
    )
    def test_a_mistyped_state_of_training_is_a_value_error_with_the_path(
        self, checkpoint, camvid, monkeypatch, capsys, entry, value
    ):
        if isinstance(value, type(checkpoint[entry])) and entry in ("callbacks", "epoch", "global_step"):
            return
        if value == "missing":
            del checkpoint[entry]
        else:
            checkpoint[entry] = value
        shown = fails(monkeypatch, capsys, "fit", *FIT, "--ckpt_path", saved(checkpoint))
        assert "changed.ckpt" in shown
        assert "Traceback" not in shown

    def test_a_checkpoint_of_another_package_is_refused(self):
        torch.save({"state_dict": {}, "hyper_parameters": {"lr": 1.0}}, "other.ckpt")
        with pytest.raises(ValueError, match=r"got one without pytorch-lightning_version: other\.ckpt"):
            Predictor.from_checkpoint("other.ckpt")
        with pytest.raises(FileNotFoundError, match=r"expected a checkpoint file, got none: nowhere\.ckpt"):
            Predictor.from_checkpoint("nowhere.ckpt")

    def test_weights_of_another_network_are_refused(self, checkpoint):
        with pytest.raises(ValueError, match="expected a checkpoint of Tiny, got another"):
            Predictor.from_checkpoint(saved(checkpoint), network=Tiny(11))


class TestNonFinite:
    """Weights of a training that has diverged are no start, and predict nothing."""

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_checkpoint_is_refused(self, checkpoint, camvid, monkeypatch, capsys, value):
        name = next(name for name in checkpoint["state_dict"] if name.startswith("network"))
        checkpoint["state_dict"][name][0] = value
        with pytest.raises(ValueError, match=f"expected finite weights, got 1 tensors.*{name}.*changed"):
            Predictor.from_checkpoint(saved(checkpoint))
        for command in ("fit", "validate"):
            assert "expected finite weights" in fails(
                monkeypatch, capsys, command, *FIT, "--ckpt_path", saved(checkpoint)
            )

    def test_initial_weights_are_refused(self, tmp_path):
        state = LRASPP(5).state_dict()
        state["backbone.0.0.weight"][0] = float("nan")
        torch.save(state, tmp_path / "weights.pt")
        with pytest.raises(ValueError, match=r"expected finite weights, got 1 tensors.*backbone\.0\.0\.weight"):
            LRASPP(5).load_weights(tmp_path / "weights.pt")
