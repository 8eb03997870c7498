"""Every cell of every study is a command that ``cpg fit`` accepts, in whatever order W&B's agent gives the options."""

import pytest
import yaml
from commands import EXPERIMENTS, random_weights

from cpg_lightning.cli import main
from cpg_lightning.studies.sweep import read_study, read_sweep

PARTS = ["data", "model", "seed_everything"]
LIMITS = ["max_epochs", "max_steps", "precision"]
STUDIES = sorted((EXPERIMENTS / "studies").glob("*/*.yaml"))
CAMVID = sorted((EXPERIMENTS / "studies" / "camvid").glob("*.yaml"))
# The first cell of each file; the others are slow.
CELLS = [
    pytest.param(cell, marks=() if number == 0 else pytest.mark.slow, id=f"{file.stem}-{cell.name}")
    for file in STUDIES
    for number, cell in enumerate(read_sweep(file))
]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(EXPERIMENTS.parent)


def options_of(cell, ordered=list):
    """The options of a cell's command, with its parameters in an order, and the options for random weights."""
    words = list(cell.command)
    assert words[:3] == ["/usr/bin/env", "cpg", "fit"]
    first = yaml.safe_load(cell.file.read_text())["command"].index("${args}")  # of the parameters
    return [*words[3:first], *ordered(words[first:]), *random_weights(cell)]


def built(cell):
    """What ``cpg fit`` would train for a cell, from random weights."""
    return main(options_of(cell), run=False)


def parsed(options, capsys):
    """The configuration that ``cpg fit`` has from its options."""
    with pytest.raises(SystemExit) as end:
        main(["fit", *options, "--print_config"])
    assert end.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_is_accepted(cell):
    cli = built(cell)
    assert cell.command[-1] == f"--seed_everything={cli.config.seed_everything}"
    assert cell.name.endswith(f"-{cli.config.seed_everything}")
    assert cli.model.classes == cli.datamodule.classes
    assert (getattr(cli.model.criterion, "cpg_weight", 0) > 0) == ("ce_cpg" in cell.name)


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_the_order_of_the_options_does_not_matter(file, capsys):
    """W&B's server keeps parameters in an order of its own."""
    cell = read_sweep(file)[-1]
    given, turned = (parsed(options_of(cell, ordered), capsys) for ordered in (list, reversed))
    assert [given[part] for part in PARTS] == [turned[part] for part in PARTS]
    assert [given["trainer"].get(limit) for limit in LIMITS] == [turned["trainer"].get(limit) for limit in LIMITS]


def test_the_recipes_of_the_camvid_study():
    cells = {cell.name: cell for cell in read_study(CAMVID)}
    lraspp, effnet = built(cells["lraspp-ce-0"]), built(cells["effnet-ce_cpg-4"])
    assert (lraspp.trainer.max_epochs, lraspp.trainer.precision) == (30, "32-true")
    assert (effnet.trainer.max_epochs, effnet.trainer.precision) == (16, "bf16-mixed")
    assert [built(cells[f"lraspp-ce_cpg_k{k}-0"]).model.criterion.kernel_size for k in (5, 7)] == [5, 7]
    assert built(cells["lraspp-ce_cpg_no_void_borders-0"]).model.criterion.void_borders is False
    assert [built(cells[f"lraspp-ce_cpg_weight{w}-0"]).model.criterion.cpg_weight for w in ("0.5", "2")] == [0.5, 2.0]
    assert built(cells["lraspp-ce_ohem-0"]).model.criterion.ohem_threshold == 0.9


def test_each_pair_of_the_camvid_study_has_five_seeds():
    names = {cell.name for cell in read_study(CAMVID)}
    assert {
        f"{net}-{loss}-{seed}" for net in ("lraspp", "effnet") for loss in ("ce", "ce_cpg") for seed in range(5)
    } < names


def test_cells_of_one_seed_start_from_the_same_weights():
    cells = {cell.name: cell for cell in read_study(CAMVID)}
    first, second, other = (
        built(cells[f"lraspp-{name}"]).model.network.state_dict() for name in ("ce-1", "ce_cpg-1", "ce-2")
    )
    assert all(first[name].equal(second[name]) for name in first)
    assert not all(first[name].equal(other[name]) for name in first)


def test_class_options_and_booleans_of_a_sweep_are_accepted(tmp_path):
    file = tmp_path / "options.yaml"
    parameters = {
        "model.criterion": {"value": {"class_path": "CrossEntropyCPGLoss", "init_args": {"kernel_size": 5}}},
        "model.criterion.void_borders": {"values": [False]},
        "data.augmentation.crop_size": {"values": [[96, 128]]},
        "trainer.precision": {"values": ["bf16-mixed"]},
        "seed_everything": {"values": [7]},
    }
    command = ["${env}", "cpg", "fit", "--config=experiments/base.yaml", "--config=experiments/camvid.yaml"]
    command += ["--model.network=LRASPP", "${args}"]
    file.write_text(yaml.safe_dump({"method": "grid", "parameters": parameters, "command": command}, sort_keys=False))
    (cell,) = read_sweep(file)
    criterion = built(cell).model.criterion
    assert (criterion.kernel_size, criterion.void_borders) == (5, False)
