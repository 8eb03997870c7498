"""HRNet-OCR against the values of the official network."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from torch import nn

from cpg_lightning.networks import HRNetOCR, hrnet_ocr
from cpg_lightning.networks.hrnet_ocr import OFFICIAL_NAMES


@pytest.fixture(scope="module")
def golden(real_data):
    """The official names with deterministic weights, its input, and its output."""
    folder = real_data / "golden" / "hrnet_ocr"
    spec = importlib.util.spec_from_file_location("recipe", folder / "weights.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    keys = json.loads((folder / "keys.json").read_text())["keys"]
    return recipe, recipe.state(keys), np.load(folder / "outputs.npz")


@pytest.mark.parametrize("checkpoint_activations", [False, True])
def test_logits_equal_those_of_the_official_network(golden, checkpoint_activations, device):
    recipe, weights, outputs = golden
    network = HRNetOCR(19, checkpoint_activations=checkpoint_activations).eval()
    network.load_weights(weights)
    with torch.no_grad():
        found = network.to(device)(recipe.make_input().to(device))
    for name, logits in (("main", found["out"]), ("aux", found["aux"])):
        torch.testing.assert_close(logits.cpu(), torch.from_numpy(outputs[name]), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("width", "num_classes", "parameters"),
    [(48, 19, 70372678), (48, 150, 70534332), (48, 171, 70560246), (32, 19, 32953894), (18, 19, 12080818)],
)
def test_the_number_of_parameters_is_the_official_one(width, num_classes, parameters):
    with torch.device("meta"):
        network = HRNetOCR(num_classes, width)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_another_width_is_refused():
    with pytest.raises(ValueError, match="expected a width of 18, 32 or 48 channels, got 40"):
        HRNetOCR(19, width=40)


@pytest.mark.usefixtures("on_device")
def test_repeated_recomputation_never_changes_statistics_of_any_batch_norm():
    network = HRNetOCR(3, width=18, checkpoint_activations=True).train()
    layer = nn.SyncBatchNorm.convert_sync_batchnorm(network.trunk.layer1)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in layer.modules())
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    _, again = hrnet_ocr._contexts(layer)
    for _ in range(2):
        with again:
            assert {module.momentum for module in layer.modules() if hasattr(module, "momentum")} == {0.0}
            layer[0].bn1.num_batches_tracked += 1
    assert {module.momentum for module in layer.modules() if hasattr(module, "momentum")} == {0.1}
    torch.testing.assert_close(dict(layer.named_buffers()), before)


@pytest.mark.usefixtures("on_device")
def test_a_graph_of_recomputed_activations_can_be_kept():
    network = HRNetOCR(3, width=18, checkpoint_activations=True).double().train()
    loss = network(torch.randn(2, 3, 33, 33, dtype=torch.float64))["out"].mean()  # a GPU adds in any order
    first = torch.autograd.grad(loss, network.trunk.conv1.weight, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, network.trunk.conv1.weight), first)


@pytest.mark.usefixtures("on_device")
def test_recomputing_activations_changes_neither_gradients_nor_statistics():
    torch.manual_seed(0)
    networks = [HRNetOCR(5, width=18, checkpoint_activations=flag).double().train() for flag in (False, True)]
    networks[1].load_state_dict(networks[0].state_dict())
    images = torch.randn(1, 3, 33, 49, dtype=torch.float64)  # a GPU adds in any order
    for network in networks:
        torch.manual_seed(0)  # for dropout
        sum(logits.square().mean() for logits in network(images).values()).backward()
    kept, recomputed = networks
    torch.testing.assert_close(dict(recomputed.named_buffers()), dict(kept.named_buffers()))
    for (name, expected), found in zip(kept.named_parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-6, msg=name)


class TestOfficialFiles:
    @pytest.fixture(scope="class")
    def network(self):
        return HRNetOCR(4, width=18)

    @pytest.fixture
    def official(self, network):
        """The network's weights under their official names."""
        weights = {}
        for name, weight in network.state_dict().items():
            for theirs, ours in OFFICIAL_NAMES.items():
                if name.startswith(ours):
                    name = theirs + name.removeprefix(ours)
            weights[name.removeprefix("trunk.")] = weight + 1 if weight.is_floating_point() else weight
        return weights

    @pytest.mark.parametrize("prefix", ["", "model.", "module.model."])
    def test_prefixes_and_the_criterion_are_left_out(self, network, official, prefix, tmp_path):
        weights = {prefix + name: weight for name, weight in official.items()}
        weights["loss.criterion.weight"] = torch.ones(19)
        torch.save({"epoch": 3, "state_dict": weights}, tmp_path / "official.pth")
        other = HRNetOCR(4, width=18)
        other.load_weights(tmp_path / "official.pth")
        torch.testing.assert_close(other.cls_head.weight, official["cls_head.weight"], rtol=0, atol=0)
        torch.testing.assert_close(other.trunk.conv1.weight, official["conv1.weight"], rtol=0, atol=0)

    def test_the_absolute_values_of_inplace_abn_scales_are_used(self, official):
        weights = {name: -w for name, w in official.items() if not name.endswith("num_batches_tracked")}
        other = HRNetOCR(4, width=18)
        other.load_weights(weights)
        torch.testing.assert_close(other.trunk.bn1.weight, weights["bn1.weight"].abs() + 1e-5)
        torch.testing.assert_close(other.trunk.bn1.bias, weights["bn1.bias"])
        torch.testing.assert_close(other.cls_head.weight, weights["cls_head.weight"])

    def test_imagenet_files_are_loaded_into_the_trunk_only(self, official):
        theirs = ("aux_head", "cls_head", "conv3x3_ocr", "ocr_distri_head")
        weights = {name: weight for name, weight in official.items() if not name.startswith(theirs)}
        weights |= {"classifier.weight": torch.ones(1000, 2048), "incre_modules.0.0.conv1.weight": torch.ones(1)}
        other = HRNetOCR(4, width=18)
        before = other.cls_head.weight.clone()
        other.load_weights(weights)
        torch.testing.assert_close(other.trunk.conv1.weight, official["conv1.weight"], rtol=0, atol=0)
        torch.testing.assert_close(other.cls_head.weight, before, rtol=0, atol=0)

    def test_another_number_of_classes_reinitialises_the_classifiers_on_request(self, official):
        other = HRNetOCR(9, width=18)
        with pytest.raises(
            ValueError, match=r"4 of another shape: aux_head.3.bias \(4,\) instead of \(9,\).*new_classifier"
        ):
            other.load_weights(official)
        with pytest.warns(
            UserWarning, match=r"4 classes instead of 9: aux_head.3.bias.*cls_head.weight are reinitialised"
        ):
            other.load_weights(official, new_classifier=True)
        torch.testing.assert_close(other.trunk.conv1.weight, official["conv1.weight"], rtol=0, atol=0)

    def test_one_error_names_all_problems(self, official):
        weights = {name: w for name, w in official.items() if name != "bn1.bias"} | {"more": torch.ones(1)}
        weights["conv1.weight"] = torch.ones(64, 4, 3, 3)
        with pytest.raises(ValueError, match=r"1 missing: trunk.bn1.bias; 1 of another shape: .*; 1 unexpected: more"):
            HRNetOCR(4, width=18).load_weights(weights)


def test_the_error_of_a_failed_download_has_a_remedy(monkeypatch):
    def refuse(*args, **options):
        raise OSError("no route to host")

    monkeypatch.setattr("timm.create_model", refuse)
    with pytest.raises(FileNotFoundError, match=r"hrnet_w18 could not be downloaded .*load_weights"):
        HRNetOCR(3, width=18, pretrained=True)
