"""Every file under experiments/ composes with every other, and the README's first command runs."""

import shlex
from itertools import product

import pytest
from commands import CAMVID, EXPERIMENTS

from cpg_lightning.cli import main
from cpg_lightning.data import SegmentationDataModule

NOT_DATASETS = {"base", "quickstart"}
DATASETS = sorted(path.stem for path in EXPERIMENTS.glob("*.yaml") if path.stem not in NOT_DATASETS)
NETWORKS = sorted(path.stem for path in (EXPERIMENTS / "networks").glob("*.yaml"))
CRITERIA = sorted(path.stem for path in (EXPERIMENTS / "criteria").glob("*.yaml"))


FOR_ANY_DATASET = [name for name in CRITERIA if name != "ce_weighted"]  # ce_weighted has CamVid's class weights

# Each dataset and network once; the other combinations are slow. All criteria are fitted below.
ONCE = {(DATASETS[index % len(DATASETS)], network) for index, network in enumerate(NETWORKS)}
COMBINATIONS = [
    pytest.param(
        dataset,
        network,
        FOR_ANY_DATASET[index % len(FOR_ANY_DATASET)],
        marks=() if (dataset, network) in ONCE else pytest.mark.slow,
    )
    for index, (dataset, network) in enumerate(product(DATASETS, NETWORKS))
]


@pytest.mark.parametrize(("dataset", "network", "criterion"), COMBINATIONS)
def test_every_dataset_goes_with_every_network_and_criterion(dataset, network, criterion):
    cli = main(
        [
            *("--config", str(EXPERIMENTS / "base.yaml"), "--config", str(EXPERIMENTS / f"{dataset}.yaml")),
            *("--model.network", str(EXPERIMENTS / "networks" / f"{network}.yaml")),
            *("--model.criterion", str(EXPERIMENTS / "criteria" / f"{criterion}.yaml")),
        ],
        run=False,
    )
    assert isinstance(cli.datamodule, SegmentationDataModule)
    assert cli.model.classes is cli.datamodule.classes
    assert cli.model.image_size == cli.datamodule.image_size


# The terms of each criterion that are logged, in their order.
TERMS = {
    "ce": ["ce"],
    "ce_boundary": ["ce", "boundary"],
    "ce_cpg": ["ce", "cpg"],
    "ce_dice": ["ce", "dice"],
    "ce_jaccard": ["ce", "jaccard"],
    "ce_lovasz": ["ce", "lovasz"],
    "ce_lovasz_abl": ["ce", "lovasz", "abl"],
    "ce_lovasz_cpg": ["ce", "cpg", "lovasz"],
    "ce_ohem": ["ce"],
    "ce_weighted": ["ce"],
    "ohem_cpg": ["ce", "cpg"],
    "rmi": ["bce", "rmi"],
    "rmi_cpg": ["bce", "rmi", "cpg"],
}


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_is_fitted(camvid, criterion):
    cli = main(
        [
            "fit",
            *CAMVID,
            f"--data.root={camvid}",
            "--model.network=tiny.Tiny",
            "--model.network.aux_loss=true",
            f"--model.criterion={EXPERIMENTS}/criteria/{criterion}.yaml",
            *("--trainer.max_steps=2", "--trainer.limit_val_batches=0", "--trainer.accelerator=cpu"),
            *("--trainer.logger=false", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
        ]
    )
    assert cli.trainer.global_step == 2
    logged = cli.trainer.logged_metrics
    assert [name for name in logged if name.startswith("train/")] == [
        f"train/{name}" for name in ("loss", *TERMS[criterion], "aux")
    ]
    assert all(value.isfinite() for value in logged.values())
    assert all(parameter.grad.any() for parameter in cli.model.network.parameters())


@pytest.mark.parametrize("name", sorted(path.stem for path in (EXPERIMENTS / "inference").glob("*.yaml")))
def test_every_way_of_inference_is_accepted(name):
    parts = ["--data", "ShapesDataModule", "--model.network", "LRASPP", "--model.criterion", "CrossEntropyCPGLoss"]
    cli = main([*parts, "--model.inference", str(EXPERIMENTS / "inference" / f"{name}.yaml")], run=False)
    assert cli.model.inference.flip


def recipes():
    """Name, dataset and flags of each row of the table of recipes."""
    section = (EXPERIMENTS / "README.md").read_text().split("### Recipes")[1].split("\n## ")[0]
    rows = [line.split("|")[1:4] for line in section.splitlines() if "| `--" in line]
    return [
        (name.strip(), dataset, flags.strip(" `"))
        for name, datasets, flags in rows
        for dataset in datasets.strip().split(", ")
    ]


@pytest.mark.parametrize(("name", "dataset", "flags"), recipes())
def test_every_recipe_of_the_table_is_accepted(name, dataset, flags):
    files = ["--config", str(EXPERIMENTS / "base.yaml"), "--config", str(EXPERIMENTS / f"{dataset}.yaml")]
    criterion = ["--model.criterion", str(EXPERIMENTS / "criteria" / "ce_cpg.yaml")]
    devices = ["--trainer.devices", "1"]  # as there are
    network = {
        "HRNet-OCR": ["HRNetOCR", "--model.network.width=18"],
        "torchvision": ["DeepLabV3", "--model.network.aux_loss=true"],
    }
    built = ["--model.network", *network.get(name.partition(",")[0], ["LRASPP"])]
    cli = main([*files, *built, *criterion, *shlex.split(flags), *devices], run=False)
    assert cli.datamodule.classes == cli.model.classes


def test_there_is_a_table_of_recipes():
    assert len(recipes()) >= 9


def test_there_are_datasets_networks_and_criteria():
    assert {"ade20k", "camvid", "cityscapes", "coco_stuff", "shapes"} <= set(DATASETS)
    assert {"deeplabv3_resnet50", "lraspp_mobilenet_v3_large"} <= set(NETWORKS)
    assert set(TERMS) == set(CRITERIA)


def test_the_table_of_losses_has_every_criterion():
    section = (EXPERIMENTS / "README.md").read_text().split("\n## Losses")[1].split("\n### ")[0]
    assert {name for name in CRITERIA if f"(criteria/{name}.yaml)" in section} == set(CRITERIA)


def test_the_quickstart_is_the_composition_of_the_files(capsys):
    """A ``config:`` inside a file is less than a second ``--config``: all of base.yaml must have arrived."""
    cli = main(["--config", str(EXPERIMENTS / "quickstart.yaml")], run=False)
    assert cli.trainer.checkpoint_callback.monitor == "val/mIoU"
    assert {"EvaluationReport", "PredictionWriter"} <= {type(each).__name__ for each in cli.trainer.callbacks}
    assert type(cli.trainer.logger).__name__ == "WandbLogger"


def test_the_quickstart_trains(capsys):
    short = ["--data.train_images=48", "--data.val_images=4", "--data.eval_batch_size=1", "--data.num_workers=0"]
    quiet = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    cli = main(["fit", "--config", str(EXPERIMENTS / "quickstart.yaml"), *short, *quiet])
    shown = capsys.readouterr().out
    assert cli.trainer.global_step == 3
    for expected in ("no API key, logging offline", "polygon", "best checkpoint:", "picture:"):
        assert expected in shown
