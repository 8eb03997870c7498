"""What names and tells experiments apart."""

import re

import pytest
import yaml
from commands import ARGUMENTS, EXPERIMENTS

from cpg_lightning.cli import main
from cpg_lightning.losses import SegmentationCriterion
from cpg_lightning.runs.identity import experiment_of
from cpg_lightning.runs.naming import network_name, readable_name

NAMES = {
    "ce": "ce",
    "ce_boundary": "ce+0.01kervadecboundary",
    "ce_cpg": "ce+cpg",
    "ce_dice": "ce+dice",
    "ce_jaccard": "0.25ce+0.75jaccard",
    "ce_lovasz": "ce+lovaszsoftmax",
    "ce_lovasz_abl": "ce+lovaszsoftmax+activeboundary",
    "ce_lovasz_cpg": "ce+cpg+lovaszsoftmax",
    "ce_ohem": "ce-ohem0.9",
    "ce_weighted": "ce-weighted",
    "ohem_cpg": "ce+cpg-ohem0.9",
    "rmi": "rmi",
    "rmi_cpg": "rmi+cpg",
}


ADAPTED = [
    "--model.network=Adapter",
    "--model.network.network=torch.nn.Conv2d",
    "--model.network.network.in_channels=3",
    "--model.network.network.out_channels=11",
    "--model.network.network.kernel_size=1",
]


def summed(loss):
    """A criterion that is a sum of one loss."""
    return [f"--model.criterion={{class_path: WeightedSum, init_args: {{weights: [1], losses: [{loss}]}}}}"]


@pytest.mark.parametrize(("criterion", "name"), NAMES.items())
def test_a_run_is_named_by_what_its_criterion_sums(camvid, criterion, name):
    cli = main([*ARGUMENTS, f"--model.criterion={EXPERIMENTS}/criteria/{criterion}.yaml"], run=False)
    assert readable_name(yaml.safe_load(cli.parser.dump(cli.config))) == f"camvid-tiny-{name}"


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--model.criterion.cpg_weight=0.5", "--model.criterion.kernel_size=5"], "camvid-tiny-ce+cpg0.5-k5"),
        (["--model.criterion.void_borders=false"], "camvid-tiny-ce+cpg-no_void_borders"),
        (["--model.network=LRASPP", "--model.network.batch_norm_momentum=0.1"], "camvid-lraspp-ce+cpg"),
        (ADAPTED, "camvid-adapter-conv2d-ce+cpg"),
    ],
)
def test_a_name_says_what_differs_from_the_defaults(camvid, options, name):
    cli = main([*ARGUMENTS, *options], run=False)
    assert readable_name(yaml.safe_load(cli.parser.dump(cli.config))) == name


class Own(SegmentationCriterion):
    """A criterion with arguments of the names, but not of the types, that the package's own criteria have."""

    def __init__(self, losses: list[str], weights: dict[str, float], cpg_weight: float | None = None) -> None:
        super().__init__()

    def forward(self, logits, target, align_corners=False):
        return logits.sum()


def test_a_name_is_made_of_any_network_and_criterion():
    encoder = {"class_path": "mine.Encoder", "init_args": {"depths": 100 * [3]}}
    arguments = {"losses": ["dice", "ce"], "weights": {"dice": 1.0, "ce": 2.0}, "cpg_weight": None}
    model = {
        "network": {"class_path": "mine.Net", "init_args": {"encoder": encoder, "architecture": 5}},
        "criterion": {"class_path": f"{__name__}.Own", "init_args": arguments},
    }
    name = readable_name({"data": {"class_path": "CamVidDataModule"}, "model": model})
    assert re.fullmatch(r"camvid-net-encoder-own-\w{4}-\w{4}", name)


def experiment(*options):
    """The experiment of a command line."""
    cli = main([*ARGUMENTS, *options], run=False)
    cli.datamodule.setup("fit")
    return experiment_of(yaml.safe_load(cli.parser.dump(cli.config)), cli.model, cli.datamodule)


def test_an_option_at_its_default_does_not_change_the_key(camvid):
    """The recipe of a run that was made before there were these options."""
    options = {"optimizer", "images_a_step", "augmentation", "callbacks", "max_epochs"}
    assert experiment().parts["recipe"]["values"].keys() == options
    assert experiment("--model.lr_schedule=poly").key == experiment().key


@pytest.mark.parametrize(
    "options",
    [
        ["--model.lr_schedule=cosine"],
        ["--model.lr_factors={network.out: 10}"],
        ["--model.decay_norms_and_biases=false"],
        ["--model.freeze=[network.out.bias]"],
    ],
)
def test_an_option_of_the_recipe_changes_the_key(camvid, options):
    assert experiment(*options).key != experiment().key


@pytest.mark.parametrize(
    ("options", "others"),
    [
        (["--trainer.gradient_clip_val=1"], ["--trainer.gradient_clip_val=1.0"]),
        (["--trainer.precision=bf16"], ["--trainer.precision=bf16-mixed"]),
        (["--trainer.limit_train_batches=1.0", "--trainer.limit_val_batches=1.0"], []),
        (["--trainer.gradient_clip_algorithm=norm", "--trainer.gradient_clip_val=0"], []),
        (["--model.inference=Inference"], []),
        (["--model.network=LRASPP"], ["--model.network=cpg_lightning.networks.torchvision.LRASPP"]),
        (summed("{class_path: CrossEntropyCPGLoss, init_args: {strip_logits: 7}}"), summed("CrossEntropyCPGLoss")),
    ],
)
def test_one_experiment_written_in_two_ways_has_one_key(camvid, options, others):
    assert experiment(*options).key == experiment(*others).key


def test_the_default_optimizer_may_be_written_out(camvid):
    cli = main([each for each in ARGUMENTS if "optimizer" not in each], run=False)
    cli.datamodule.setup("fit")
    config = yaml.safe_load(cli.parser.dump(cli.config))
    assert "optimizer" not in config["model"]
    written = {**config, "model": {**config["model"], "optimizer": {"class_path": "torch.optim.AdamW"}}}
    keys = {experiment_of(each, cli.model, cli.datamodule).key for each in (config, written)}
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"model_type": "beit", "folder": None}, "huggingface-beit"),
        ({"model_type": "segformer", "folder": "weights/upernet-tiny"}, "huggingface-upernet-tiny"),
    ],
)
def test_a_network_of_a_folder_is_named_by_the_folder(options, name):
    network = {"class_path": "cpg_lightning.networks.HuggingFace", "init_args": options}
    assert network_name({"model": {"network": network}}) == name


@pytest.mark.parametrize("options", [["--trainer.limit_val_batches=1"], ["--trainer.limit_train_batches=1"]])
def test_a_limit_of_one_batch_is_not_the_whole_epoch(camvid, options):
    assert experiment(*options).key != experiment().key


def test_options_of_a_class_that_accepts_any_option_change_the_key(camvid):
    network = ["--model.network=tiny.Flexible", "--model.network.dict_kwargs.aux_loss=true"]
    assert experiment(*network).parts["network"]["values"]["init_args"] == {"aux_loss": True}
    assert experiment(*network).key != experiment(network[0]).key


def test_the_key_does_not_change_with_the_parts_of_a_step(camvid):
    def key(*options):
        cli = main([*ARGUMENTS, *options], run=False)
        cli.datamodule.trainer = cli.trainer
        cli.datamodule.setup("fit")
        return experiment_of(yaml.safe_load(cli.parser.dump(cli.config)), cli.model, cli.datamodule).key

    accumulated = "--trainer.accumulate_grad_batches=2"
    assert key() == key(accumulated) == key("--trainer.devices=2", "--trainer.strategy=ddp")
    limited = key("--trainer.limit_train_batches=2")
    assert limited != key()
    assert limited == key(accumulated, "--trainer.limit_train_batches=4")
    assert limited != key(accumulated, "--trainer.limit_train_batches=2")


def test_the_criterion_itself_refuses_another_number_of_weights(camvid):
    with pytest.raises(ValueError, match="expected a weight for each of 2 losses, got 1"):
        main([*ARGUMENTS, *summed("DiceLoss, CrossEntropyCPGLoss")], run=False)
