"""The paper's grid: three networks on three datasets, with and without CPG, and the table of it."""

import math
import shlex
from urllib.error import URLError

import pytest
import torch
import yaml
from commands import EXPERIMENTS, fails, random_weights
from layouts import write_ade20k, write_cityscapes, write_coco_stuff_10k

from cpg_lightning.cli import main
from cpg_lightning.studies.sweep import read_study, read_sweep

FILES = sorted((EXPERIMENTS / "studies" / "paper").glob("*.yaml"))

WRITE = {"ade20k": write_ade20k, "cityscapes": write_cityscapes, "coco_stuff": write_coco_stuff_10k}
PAIRS = [cell for file in FILES for cell in read_sweep(file) if cell.name.endswith("-ce_cpg-0")]
NETWORKS = ("deeplabv3_resnet50", "hrnet_w48_ocr", "lraspp_mobilenet_v3_large")
QUICK = "paper_coco_stuff/lraspp_mobilenet_v3_large-ce_cpg-0"


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(EXPERIMENTS.parent)


def test_there_are_nine_pairs_of_three_seeds():
    cells = read_study(FILES)
    assert {(cell.study, cell.name) for cell in cells} == {
        (f"paper_{dataset}", f"{network}-{criterion}-{seed}")
        for dataset in WRITE
        for network in NETWORKS
        for criterion in ("ce", "ce_cpg")
        for seed in range(3)
    }


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(cell, marks=() if name == QUICK else pytest.mark.slow, id=name)
        for cell in PAIRS
        for name in [f"{cell.study}/{cell.name}"]
    ],
)
def test_each_pair_takes_a_step(cell, tmp_path):
    root = tmp_path / "data"
    WRITE[cell.study.removeprefix("paper_")](root)
    tiny = [f"--data.root={root}", "--data.augmentation.crop_size=[64,64]", "--data.batch_size=2"]
    quiet = ["--trainer.logger=false", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
    short = [
        "--trainer.devices=1",
        "--trainer.max_steps=1",
        "--trainer.limit_val_batches=0",
        "--data.num_workers=0",
    ]
    cli = main([*cell.command[2:], *random_weights(cell), *tiny, *quiet, *short, f"--output={tmp_path / 'run'}"])
    assert cli.trainer.global_step == 1
    logged = {name: float(value) for name, value in cli.trainer.logged_metrics.items()}
    assert {"train/ce", "train/cpg"} <= set(logged)
    assert ("train/aux" in logged) == ("lraspp" not in cell.name)
    assert all(math.isfinite(value) for value in logged.values())
    optimizer = cli.trainer.optimizers[0]
    assert type(optimizer) is torch.optim.SGD
    rates = [group["initial_lr"] for group in optimizer.param_groups]
    assert [rate / rates[0] for rate in rates] == pytest.approx([1, 10] if "coco" in cell.study else [1])


@pytest.mark.parametrize("network", NETWORKS)
def test_the_only_addition_to_a_network_is_imagenet_weights(network):
    plain, imagenet = (
        yaml.safe_load((EXPERIMENTS / "networks" / folder / f"{network}.yaml").read_text())
        for folder in ("", "imagenet")
    )
    assert imagenet["class_path"] == plain["class_path"]
    added = imagenet["init_args"].items() - plain.get("init_args", {}).items()
    assert {name for name, _ in added} == {"pretrained" if "hrnet" in network else "weights_backbone"}
    assert plain.get("init_args", {}).items() <= imagenet["init_args"].items()


@pytest.mark.parametrize("network", NETWORKS)
def test_without_a_connection_the_error_names_the_option_for_random_weights(network, tmp_path, monkeypatch, capsys):
    def offline(*arguments, **options):
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    monkeypatch.setattr("timm.create_model", offline)
    root = write_ade20k(tmp_path / "data")
    (cell,) = (cell for cell in read_sweep(FILES[0]) if cell.name == f"{network}-ce-0")
    shown = fails(monkeypatch, capsys, *cell.command[2:], f"--data.root={root}", "--trainer.logger=false")
    (option,) = random_weights(cell)
    assert shown.startswith("cpg: the weights ")
    assert option.replace("=", " ") in shown
    assert "could not be downloaded" in shown


def paper_rows():
    """The columns of each row of the tables of the grid."""
    section = (EXPERIMENTS / "README.md").read_text().split("### The paper's grid")[1].split("\n## ")[0]
    return [
        [column.strip() for column in line.strip("|").split("|")] for line in section.splitlines() if "--cell" in line
    ]


def test_the_table_has_a_row_for_each_network_with_and_without_cpg():
    """The command of a row runs its seed 0."""
    numbered = {file.stem: read_sweep(file) for file in FILES}
    names = {"DeepLabV3": "deeplabv3_resnet50", "HRNet-OCR": "hrnet_w48_ocr", "LRASPP": "lraspp_mobilenet_v3_large"}
    rows = paper_rows()
    assert len(rows) == 18
    for network, criterion, command, *_ in rows:
        words = shlex.split(command.strip("`"))
        assert words[:2] == ["cpg", "study"]
        cell = numbered[words[2].rpartition("/")[2].removesuffix(".yaml")][int(words[4]) - 1]
        assert cell.name == f"{names[network]}-{'ce_cpg' if 'CPG' in criterion else 'ce'}-0"
    assert len({row[2] for row in rows}) == 18
