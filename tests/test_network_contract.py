"""What holds for every network, the package's own and those of others."""

import copy
import inspect

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cpg_lightning.networks import (
    LRASPP,
    SMP,
    Adapter,
    DeepLabV3,
    EfficientNetLite0DeepLabV3Plus,
    HRNetOCR,
    HuggingFace,
    SegmentationNetwork,
)

pytestmark = pytest.mark.usefixtures("on_device")

SEGFORMER = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32], "decoder_hidden_size": 16}


def segformer(num_classes):
    return HuggingFace(num_classes, "segformer", SEGFORMER)


def smp(num_classes):
    return SMP(num_classes, "unet", "resnet18")


def deeplabv3plus(num_classes):
    return EfficientNetLite0DeepLabV3Plus(num_classes)


# Builds the network for some classes; its stride; whether it has an auxiliary head.
NETWORKS = {
    "DeepLabV3": (lambda n: DeepLabV3(n, aux_loss=True), 8, True),
    "LRASPP": (LRASPP, 8, False),
    "HRNetOCR": (lambda n: HRNetOCR(n, width=18), 4, True),
    "HRNetOCR, checkpointed": (lambda n: HRNetOCR(n, width=18, checkpoint_activations=True), 4, True),
    "U-Net of smp": (smp, 1, False),
    "DeepLabV3+ of smp": (deeplabv3plus, 4, False),
    "SegFormer": (segformer, 4, False),
    "one's own": (lambda n: Adapter(n, nn.Conv2d(3, n, 5, stride=4, padding=2), size_divisor=4), 4, False),
    "one's own, named model": (lambda n: Named(n), 4, False),
}


SMALL = (33, 33)  # pixels: enough for every layer, where values do not matter


class Named(SegmentationNetwork):
    """A network whose names all begin with what wrappers put before names."""

    def __init__(self, num_classes):
        super().__init__()
        self.model = nn.Conv2d(3, num_classes, 5, stride=4, padding=2)

    def forward(self, images):
        return {"out": self.model(images)}


@pytest.fixture(scope="module", params=NETWORKS)
def built(request, device):
    """A network that all tests copy: drawing its random weights would take most of their time."""
    torch.manual_seed(0)
    build, stride, aux = NETWORKS[request.param]
    return build(7).to(device), stride, aux


@pytest.fixture
def case(built):
    network, stride, aux = built
    return copy.deepcopy(network), stride, aux


@pytest.fixture
def network(case):
    return case[0]


def images(batch=2, size=(65, 97)):
    torch.manual_seed(1)
    return torch.randn(batch, 3, *size)


def test_logits_are_at_the_networks_stride_for_any_size(case):
    network, stride, aux = case
    network.eval()
    divisor, least = getattr(network, "size_divisor", 1), getattr(network, "min_size", 1)
    for size in ((65, 97), (64, 96), (33, 130), (20, 40), (1, 1)):
        with torch.no_grad():
            logits = network(images(1, size))
        assert set(logits) == ({"out", "aux"} if aux else {"out"})
        padded = any(side % divisor or side < least for side in size)
        expected = size if padded else tuple(-(-side // stride) for side in size)
        assert {tuple(tensor.shape) for tensor in logits.values()} == {(1, 7, *expected)}, size


def test_every_parameter_gets_a_gradient(network):
    logits = network.train()(images(size=SMALL))
    sum(tensor.square().sum() for tensor in logits.values()).backward()
    assert not [name for name, parameter in network.named_parameters() if parameter.grad is None]


def test_evaluation_is_deterministic(network):
    network.eval()
    with torch.no_grad():
        torch.testing.assert_close(network(images()), network(images()), rtol=0, atol=0)


def test_channels_last_changes_only_rounding(network):
    network.eval()
    with torch.no_grad():
        expected = network(images())["out"]
        found = network.to(memory_format=torch.channels_last)(images().contiguous(memory_format=torch.channels_last))
    assert (found["out"] - expected).norm() < 1e-4 * expected.norm()


def test_bfloat16_logits_are_close_to_float32(network, device):
    network.eval()
    with torch.no_grad():
        expected = network(images())["out"]
        with torch.autocast(device.type, dtype=torch.bfloat16):
            found = network(images())["out"]
        assert network.bfloat16()(images().bfloat16())["out"].dtype == torch.bfloat16
    assert (found.float() - expected).norm() < 0.1 * expected.norm()


def test_loading_the_weights_gives_an_equal_network(network):
    other = copy.deepcopy(network)
    for tensor in other.state_dict().values():
        tensor.zero_()
    other.load_weights(network.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(other.eval()(images()), network.eval()(images()), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.slow
def test_the_network_compiles(network):
    network.eval()
    with torch.no_grad():
        expected = network(images())
        torch.testing.assert_close(torch.compile(network, backend="eager")(images()), expected)


def test_ddp_finds_no_unused_parameters(network, tmp_path):
    if torch.distributed.is_initialized():  # by a run in another test
        torch.distributed.destroy_process_group()
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/alone", rank=0, world_size=1)
    try:
        distributed = DistributedDataParallel(network.train())
        for _ in range(2):  # the second forward pass is where it would complain
            sum(tensor.sum() for tensor in distributed(images(size=SMALL)).values()).backward()
    finally:
        torch.distributed.destroy_process_group()


def test_the_number_of_classes_is_the_first_argument(network):
    assert isinstance(network, SegmentationNetwork)
    assert next(iter(inspect.signature(type(network)).parameters)) == "num_classes"
    assert all(name in inspect.signature(type(network)).parameters for name in network.without_pretrained())
