"""The networks against torchvision's own, and the errors about weights."""

from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
from torchvision.models.segmentation import deeplabv3_resnet50, lraspp_mobilenet_v3_large

from cpg_lightning.networks import LRASPP, DeepLabV3

pytestmark = pytest.mark.usefixtures("on_device")

TORCHVISION = {
    "DeepLabV3": (DeepLabV3(7), lambda: deeplabv3_resnet50(num_classes=7, weights_backbone=None)),
    "DeepLabV3 with auxiliary head": (
        DeepLabV3(7, aux_loss=True),
        lambda: deeplabv3_resnet50(num_classes=7, weights_backbone=None, aux_loss=True),
    ),
    "LRASPP": (LRASPP(7), lambda: lraspp_mobilenet_v3_large(num_classes=7, weights_backbone=None)),
}


@pytest.fixture(params=TORCHVISION)
def network_and_reference(request, device):
    network, reference = TORCHVISION[request.param]
    reference = reference()
    reference.load_state_dict(network.state_dict())
    return network.eval().to(device), reference.eval().to(device)


@pytest.mark.parametrize("size", [(64, 96), (67, 93)])
def test_upsampled_logits_equal_torchvisions_output(network_and_reference, size):
    network, reference = network_and_reference
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        logits, expected = network(images), reference(images)
    assert logits.keys() == expected.keys()
    for name in expected:
        assert logits[name].shape[-2:] == tuple(-(-side // 8) for side in size)
        large = F.interpolate(logits[name], size, mode="bilinear", align_corners=network.align_corners)
        torch.testing.assert_close(large, expected[name])


def test_the_auxiliary_head_exists_only_on_request():
    assert not any(name.startswith("aux") for name in DeepLabV3(3).state_dict())


def test_batch_norm_momentum_of_the_backbone_is_an_option():
    def momenta(network):
        return {m.momentum for m in network.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)}

    assert momenta(LRASPP(3)) == {0.01}
    assert momenta(LRASPP(3, batch_norm_momentum=0.1)) == {0.1}


@pytest.fixture
def hub(monkeypatch):
    """Stands in for the network: the whole network's weights of 21 classes are all 0.5."""

    def load_state_dict_from_url(url, *args, **kwargs):
        build = deeplabv3_resnet50 if "deeplab" in url else lraspp_mobilenet_v3_large
        options = {"aux_loss": True} if "deeplab" in url else {}
        state = build(num_classes=21, weights_backbone=None, **options).state_dict()
        return {name: torch.full_like(value, 0.5) for name, value in state.items()}

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", load_state_dict_from_url)


@pytest.mark.parametrize("aux_loss", [False, True])
def test_deeplabv3_takes_the_weights_of_the_whole_network(hub, aux_loss):
    network = DeepLabV3(21, aux_loss, weights="COCO_WITH_VOC_LABELS_V1")
    assert all((parameter == 0.5).all() for parameter in network.parameters())
    assert any(name.startswith("aux") for name in network.state_dict()) == aux_loss


@pytest.mark.parametrize("build", [DeepLabV3, LRASPP])
def test_another_number_of_classes_reinitialises_only_the_last_layers(hub, build):
    network = build(5, weights="COCO_WITH_VOC_LABELS_V1")
    assert network(torch.randn(2, 3, 64, 64))["out"].shape[1] == 5
    renewed = {name for name, parameter in network.named_parameters() if not (parameter == 0.5).all()}
    assert {name.rsplit(".", 1)[0] for name in renewed} in (
        {"classifier.4"},
        {"classifier.low_classifier", "classifier.high_classifier"},
    )


@pytest.mark.parametrize("build", [DeepLabV3, LRASPP])
@pytest.mark.parametrize("argument", ["weights", "weights_backbone"])
def test_an_unknown_name_of_weights_lists_the_known_ones(build, argument):
    known = "COCO_WITH_VOC_LABELS_V1" if argument == "weights" else "IMAGENET1K_V1, IMAGENET1K_V2"
    with pytest.raises(ValueError, match=f"expected one of {known}.* got 'IMAGENET'"):
        build(3, **{argument: "IMAGENET"})


def test_weights_of_the_network_and_of_its_backbone_exclude_each_other():
    with pytest.raises(ValueError, match="got both"):
        LRASPP(21, weights="COCO_WITH_VOC_LABELS_V1", weights_backbone="IMAGENET1K_V2")


@pytest.mark.parametrize("build", [DeepLabV3, LRASPP])
def test_the_error_of_a_failed_download_names_the_place_of_the_file(build, monkeypatch):
    def refuse(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(FileNotFoundError, match=r"IMAGENET1K_V2 could not be downloaded .*no route.*hub/checkpoints"):
        build(3, weights_backbone="IMAGENET1K_V2")
