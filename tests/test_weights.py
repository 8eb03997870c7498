"""Weight files: what is read, what is refused, and what a network takes from them."""

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import MobileNet_V3_Large_Weights

from cpg_lightning.losses import CrossEntropyCPGLoss
from cpg_lightning.module import SegmentationModule
from cpg_lightning.networks import LRASPP
from cpg_lightning.networks.weights import fill, read_weights


class Malicious:
    """Writes a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def layer():
    return nn.Conv2d(3, 4, 1)


@pytest.mark.parametrize("state", [lambda trap: {"weight": trap}, lambda trap: trap])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, state):
    written = tmp_path / "written"
    torch.save(state(Malicious(written)), tmp_path / "weights.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(state(Malicious(written))))
    for name in ("weights.pth", "plain.pth"):
        with pytest.raises(ValueError, match=rf"got other objects in .*{name}, which could run code"):
            read_weights(tmp_path / name)
    assert not written.exists()
    torch.load(tmp_path / "weights.pth", weights_only=False)
    assert written.exists()  # it would have


def test_weights_in_the_cache_of_the_hub_are_read_as_safely(tmp_path, monkeypatch):
    written, url = tmp_path / "written", MobileNet_V3_Large_Weights.IMAGENET1K_V1.url
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(Malicious(written), tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2])
    with pytest.raises(ValueError, match="expected tensors alone in the file of MobileNet_V3_Large_Weights"):
        LRASPP(3, weights_backbone="IMAGENET1K_V1")
    assert not written.exists()


@pytest.mark.parametrize("wrapped", [lambda w: w, lambda w: {"state_dict": w, "epoch": 1}, lambda w: {"model": w}])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module.model."])
def test_state_dicts_are_found_in_what_others_write(layer, tmp_path, wrapped, prefix):
    torch.save(wrapped({prefix + name: w for name, w in layer.state_dict().items()}), tmp_path / "weights.pt")
    other = nn.Conv2d(3, 4, 1)
    fill(other, read_weights(tmp_path / "weights.pt"))
    torch.testing.assert_close(other.state_dict(), layer.state_dict())


def test_safetensors_and_files_of_old_torch_are_read(layer, tmp_path):
    save_file(layer.state_dict(), tmp_path / "weights.safetensors")
    torch.save(layer.state_dict(), tmp_path / "weights.pth", _use_new_zipfile_serialization=False)
    for name in ("weights.safetensors", "weights.pth"):
        torch.testing.assert_close(read_weights(tmp_path / name), dict(layer.state_dict()))


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights"])
def test_files_of_something_else_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        read_weights(tmp_path / name)


def test_no_file_and_no_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="found none at"):
        read_weights(tmp_path / "weights.pth")
    torch.save({"epoch": 3}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"expected weights by name in .*got a dictionary of epoch \(int\)"):
        read_weights(tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="got a dictionary of nothing"):
        read_weights({})


def test_nothing_is_copied_where_something_does_not_fit(layer):
    before = layer.weight.clone()
    with pytest.raises(ValueError, match="1 missing: bias"):
        fill(layer, {"weight": torch.ones_like(before)})
    torch.testing.assert_close(layer.weight, before, rtol=0, atol=0)


def test_layers_that_differ_in_more_than_classes_are_never_renewed(layer):
    with pytest.raises(ValueError, match="2 of another shape: bias") as error:
        fill(layer, {"weight": torch.ones(5, 2, 1, 1), "bias": torch.ones(5)}, new_classifier=True)
    assert "new_classifier" not in str(error.value)


def test_fine_tuning_starts_from_a_checkpoint_of_the_package(tmp_path):
    trained = SegmentationModule(LRASPP(5), CrossEntropyCPGLoss(), 5)
    checkpoint = {"pytorch-lightning_version": "2.6.6", "state_dict": trained.state_dict()}
    torch.save(checkpoint, tmp_path / "last.ckpt")
    again = SegmentationModule(LRASPP(5), CrossEntropyCPGLoss(), 5, weights=str(tmp_path / "last.ckpt"))
    torch.testing.assert_close(again.state_dict(), trained.state_dict())
    with pytest.warns(UserWarning, match="5 classes instead of 3: classifier.high_classifier.bias"):
        other = SegmentationModule(
            LRASPP(3), CrossEntropyCPGLoss(), 3, weights=str(tmp_path / "last.ckpt"), new_classifier=True
        )
    torch.testing.assert_close(other.network.backbone.state_dict(), trained.network.backbone.state_dict())
