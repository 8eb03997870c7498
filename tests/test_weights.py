"""Weight files: what is read, what is refused, and what a network takes from them."""

import os
import pickle
import random
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision.models import MobileNet_V3_Large_Weights

from cpg_lightning import networks
from cpg_lightning.data import ClassInfo
from cpg_lightning.losses import CrossEntropyCPGLoss
from cpg_lightning.module import SegmentationModule
from cpg_lightning.networks import LRASPP, SMP, Adapter, SegmentationNetwork
from cpg_lightning.networks.weights import load_into, read_file, read_weights


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


def test_weights_in_the_hub_cache_are_read_safely(tmp_path, monkeypatch):
    written, url = tmp_path / "written", MobileNet_V3_Large_Weights.IMAGENET1K_V1.url
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(Malicious(written), tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2])
    with pytest.raises(ValueError, match="expected only tensors in the file of MobileNet_V3_Large_Weights"):
        LRASPP(3, weights_backbone="IMAGENET1K_V1")
    assert not written.exists()


@pytest.mark.parametrize("wrapped", [lambda w: w, lambda w: {"state_dict": w, "epoch": 1}, lambda w: {"model": w}])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module.model."])
def test_state_dicts_are_found_in_files_of_other_libraries(layer, tmp_path, wrapped, prefix):
    torch.save(wrapped({prefix + name: w for name, w in layer.state_dict().items()}), tmp_path / "weights.pt")
    other = nn.Conv2d(3, 4, 1)
    load_into(other, read_weights(tmp_path / "weights.pt"))
    torch.testing.assert_close(other.state_dict(), layer.state_dict())


def test_safetensors_and_files_of_old_torch_are_read(layer, tmp_path):
    save_file(layer.state_dict(), tmp_path / "weights.safetensors")
    torch.save(layer.state_dict(), tmp_path / "weights.pth", _use_new_zipfile_serialization=False)
    for name in ("weights.safetensors", "weights.pth"):
        torch.testing.assert_close(read_weights(tmp_path / name), dict(layer.state_dict()))


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights"])
def test_files_that_are_not_weights_are_refused_by_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        read_weights(tmp_path / name)


def mutated(content, rng):
    """A file that was cut, or in which up to 16 bytes are others."""
    content = bytearray(content)
    if rng.random() < 0.3:
        return content[: rng.randrange(len(content))]
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        content[rng.randrange(len(content))] = rng.choice([0, 255, rng.randrange(256)])
    return content


@pytest.mark.parametrize("name", ["zip.pth", "pickle.pth", "weights.safetensors"])
def test_a_damaged_file_is_read_or_refused_with_its_path(layer, tmp_path, name):
    whole, damaged = tmp_path / name, tmp_path / f"damaged_{name}"
    if name == "weights.safetensors":
        save_file(layer.state_dict(), whole)
    else:
        torch.save({"state_dict": layer.state_dict()}, whole, _use_new_zipfile_serialization=name == "zip.pth")
    rng, refused = random.Random(0), 0
    for _ in range(200):
        damaged.write_bytes(mutated(whole.read_bytes(), rng))
        try:
            read_file(damaged)
        except ValueError as error:
            assert str(damaged) in str(error)
            refused += 1
    assert refused > 100


class OfSize:
    """A pickle of a few bytes that asks for any number of them."""

    def __init__(self, size):
        self.size = size

    def __reduce__(self):
        return bytearray, (self.size,)


def test_a_file_that_requests_too_much_memory_is_refused(layer, tmp_path):
    torch.save({"weight": OfSize(1 << 60)}, tmp_path / "size.pth")
    (tmp_path / "header.safetensors").write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    torch.save(layer.state_dict(), tmp_path / "weights.pth")
    with (
        zipfile.ZipFile(tmp_path / "weights.pth") as plain,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for record in plain.namelist():
            packed.writestr(record, plain.read(record))
    for name, reason in (("size.pth", "MemoryError"), ("header.safetensors", "header"), ("packed.pth", "compressed")):
        with pytest.raises(ValueError, match=rf"could not read .*{name}: .*{reason}"):
            read_file(tmp_path / name)


def test_a_file_with_a_cycle_is_read(layer, tmp_path):
    state = dict(layer.state_dict())
    state["model"] = state
    torch.save(state, tmp_path / "loop.pth")
    with pytest.warns(UserWarning, match=r"expected only weights in .*loop.pth; left out: model"):
        torch.testing.assert_close(read_weights(tmp_path / "loop.pth"), dict(layer.state_dict()))


def test_missing_files_and_missing_weights_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="found none at"):
        read_weights(tmp_path / "weights.pth")
    torch.save({"epoch": 3}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"expected weights by name in .*got a dictionary of epoch \(int\)"):
        read_weights(tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="got a dictionary of nothing"):
        read_weights({})


def test_nothing_is_copied_if_a_weight_does_not_fit(layer):
    before = layer.weight.clone()
    with pytest.raises(ValueError, match="1 missing: bias"):
        load_into(layer, {"weight": torch.ones_like(before)})
    torch.testing.assert_close(layer.weight, before, rtol=0, atol=0)


def test_layers_that_differ_in_more_than_classes_are_never_reinitialised(layer):
    with pytest.raises(ValueError, match="2 of another shape: bias") as error:
        load_into(layer, {"weight": torch.ones(5, 2, 1, 1), "bias": torch.ones(5)}, new_classifier=True)
    assert "new_classifier" not in str(error.value)


def test_a_scalar_weight_is_not_a_classifier():
    network = nn.Module()
    network.scale = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"1 of another shape: scale \(3,\) instead of \(\)$"):
        load_into(network, {"scale": torch.ones(3)}, new_classifier=True)


def test_fine_tuning_starts_from_a_checkpoint_of_the_package(tmp_path):
    trained = SegmentationModule(LRASPP(5), CrossEntropyCPGLoss(), ClassInfo.numbered(5))
    checkpoint = {"pytorch-lightning_version": "2.6.6", "state_dict": trained.state_dict()}
    torch.save(checkpoint, tmp_path / "last.ckpt")
    again = SegmentationModule(
        LRASPP(5), CrossEntropyCPGLoss(), ClassInfo.numbered(5), weights=str(tmp_path / "last.ckpt")
    )
    torch.testing.assert_close(again.state_dict(), trained.state_dict())
    with pytest.warns(UserWarning, match="5 classes instead of 3: classifier.high_classifier.bias"):
        other = SegmentationModule(
            LRASPP(3),
            CrossEntropyCPGLoss(),
            ClassInfo.numbered(3),
            weights=str(tmp_path / "last.ckpt"),
            new_classifier=True,
        )
    torch.testing.assert_close(other.network.backbone.state_dict(), trained.network.backbone.state_dict())


EXPERIMENTS = Path(__file__).parents[1] / "experiments" / "networks"


class Own(SegmentationNetwork):
    """A network whose own names begin as those of wrappers and of what is left out do."""

    def __init__(self, num_classes):
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.meanpool = nn.Conv2d(4, 4, 1)
        self.criterion = nn.Conv2d(4, num_classes, 1)

    def forward(self, images):
        return {"out": self.criterion(self.meanpool(self.network(images)))}


def experiment(file):
    config = yaml.safe_load(file.read_text())
    return lambda classes: getattr(networks, config["class_path"])(classes, **config.get("init_args", {}))


NETWORKS = {file.stem: experiment(file) for file in sorted(EXPERIMENTS.glob("*.yaml"))} | {
    "one's own": Own,
    "one's own, adapted": lambda n: Adapter(n, nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, n, 1))),
    "one's own, adapted, within another": lambda n: Adapter(n, nn.ModuleDict({"network": Own(n)})["network"]),
    "one's own, compiled": lambda n: Adapter(n, torch.compile(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, n, 1)))),
    "FPN": lambda n: SMP(n, "fpn", "resnet18"),
}


def checkpoint(network, classes=5):
    """What Lightning writes, with class weights in the criterion."""
    criterion = CrossEntropyCPGLoss(class_weights=[1.0] * classes)
    state = SegmentationModule(network, criterion, ClassInfo.numbered(classes)).state_dict()
    return {"pytorch-lightning_version": "2.6.6", "state_dict": state}


@pytest.fixture(scope="module", params=NETWORKS)
def pair(request):
    """A network, and how to build others like it."""
    torch.manual_seed(0)
    return NETWORKS[request.param](5), NETWORKS[request.param]


def test_a_checkpoint_of_any_network_is_loaded_without_warnings(pair, tmp_path):
    network, build = pair
    torch.save(checkpoint(network), tmp_path / "last.ckpt")
    other = build(5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.load_weights(tmp_path / "last.ckpt")
    torch.testing.assert_close(other.state_dict(), network.state_dict(), rtol=0, atol=0)


def test_a_checkpoint_of_any_network_can_be_loaded_for_other_classes(pair):
    network, build = pair
    other = build(3)
    with pytest.raises(ValueError, match=r"of another shape.*new_classifier=True reinitialises the last layers"):
        other.load_weights(checkpoint(network))
    with pytest.warns(UserWarning, match="5 classes instead of 3: .* are reinitialised"):
        other.load_weights(checkpoint(network), new_classifier=True)
    ours, theirs = other.state_dict(), network.state_dict()
    same = [name for name in ours if ours[name].shape == theirs[name].shape]
    torch.testing.assert_close({n: ours[n] for n in same}, {n: theirs[n] for n in same}, rtol=0, atol=0)


def averaged(network):
    return AveragedModel(network).state_dict()


def lightning_average(network):
    written = checkpoint(network)
    zeros = {name: torch.zeros_like(weight) for name, weight in written["state_dict"].items()}
    return {**written, "current_model_state": zeros, "averaging_state": {"n_averaged": torch.tensor(3)}}


def compiled_inside(network):
    return {
        name.replace("network.", "network._orig_mod.", 1): w for name, w in checkpoint(network)["state_dict"].items()
    }


WRITERS = {
    "a state dict": lambda network: network.state_dict(),
    "DDP": lambda network: nn.ModuleDict({"module": network}).state_dict(),
    "torch.compile": lambda network: nn.ModuleDict({"_orig_mod": network}).state_dict(),
    "torch.compile in DDP": lambda network: {f"module._orig_mod.{n}": w for n, w in network.state_dict().items()},
    "torch.compile within a module": compiled_inside,
    "AveragedModel": averaged,
    "Lightning's moving average": lightning_average,
    "a moving average within": lambda network: {"ema": {"module": network.state_dict(), "updates": 7}},
    "a trainer": lambda network: {"model": network.state_dict(), "optimizer": {"state": {}, "param_groups": []}},
    "another module": lambda network: {"state_dict": {f"net.{n}": w for n, w in network.state_dict().items()}},
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("build", [Own, NETWORKS["one's own, adapted"], NETWORKS["one's own, compiled"]])
@pytest.mark.filterwarnings("ignore:the weights hold more")
def test_weights_are_found_in_files_of_wrappers(writer, build, tmp_path):
    network, other = build(5), build(5)
    torch.save(WRITERS[writer](network), tmp_path / "weights.pth")
    other.load_weights(tmp_path / "weights.pth")
    torch.testing.assert_close(other.state_dict(), network.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("place", ["state_dict", "model", "model_state_dict", "net", "params", "ema"])
def test_state_dicts_are_found_under_the_usual_keys(layer, place):
    found = read_weights({"epoch": 3, "config": {"depth": 2}, place: layer.state_dict()})
    torch.testing.assert_close(found, dict(layer.state_dict()))


def test_an_adapted_network_takes_the_weights_of_the_network_itself():
    inner = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1))
    other = NETWORKS["one's own, adapted"](5)
    for prefix in ("", "module.", "network."):
        other.load_weights({prefix + name: weight + 1 for name, weight in inner.state_dict().items()})
        torch.testing.assert_close(other.network[1].weight, inner[1].weight + 1)


def test_other_entries_are_left_out_and_named_once():
    network, other = Own(5), Own(5)
    weights = {f"module.{name}": weight for name, weight in network.state_dict().items()}
    weights |= {"n_averaged": torch.tensor(3), "loss_fn.weight": torch.ones(19), "module.aux.weight": torch.ones(1)}
    weights |= {"val_iou.confmat": torch.ones(5, 5), "note": "plain"}
    with pytest.warns(UserWarning) as caught:
        other.load_weights(weights)
    assert [str(warning.message) for warning in caught] == [
        "expected only weights; left out: note",
        "the weights hold more than this Own has; left out: loss_fn.weight, module.aux.weight, n_averaged and 1 more",
    ]
    torch.testing.assert_close(other.state_dict(), network.state_dict(), rtol=0, atol=0)


def test_of_two_copies_in_one_file_the_networks_own_is_loaded():
    network, other = Own(5), Own(5)
    copy = {f"ema.{name}": torch.zeros_like(weight) for name, weight in network.state_dict().items()}
    with pytest.warns(UserWarning, match="left out: ema.criterion.bias"):
        other.load_weights({**copy, **network.state_dict()})
    torch.testing.assert_close(other.state_dict(), network.state_dict(), rtol=0, atol=0)


def test_missing_weights_are_counted_and_three_are_named():
    with pytest.raises(
        ValueError, match=r"got others: \d{3} missing: [^,;]*, [^,;]*, [^,;]* and \d+ more; 2 unexpected"
    ) as error:
        LRASPP(5).load_weights(nn.Conv2d(3, 4, 1).state_dict())
    assert len(str(error.value)) < 400
    half = dict(list(Own(5).state_dict().items())[:-1])
    with pytest.raises(
        ValueError, match=r"expected the 11 weights of this Own, got others: 1 missing: criterion.bias$"
    ):
        Own(5).load_weights(half)


def test_tensors_without_values_are_not_weights():
    state = {name: weight.to("meta") for name, weight in Own(5).state_dict().items()}
    with pytest.raises(ValueError, match=r"expected weights by name, got a dictionary of criterion\.bias"):
        Own(5).load_weights(state)
