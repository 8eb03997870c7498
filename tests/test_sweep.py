"""W&B sweep files become the commands that W&B's agent runs."""

import os

import pytest
import yaml
from commands import EXPERIMENTS
from tiny import Tiny

from cpg_lightning.cli import main
from cpg_lightning.data import CamVidDataModule
from cpg_lightning.losses import CrossEntropyCPGLoss
from cpg_lightning.module import SegmentationModule
from cpg_lightning.studies.sweep import DEFAULT_COMMAND, read_study, read_sweep

PARAMETERS = {
    "config": {"values": ["parts/lraspp.yaml", "parts/effnet.yaml"]},
    "model.criterion": {"values": [{"class_path": "CrossEntropyCPGLoss", "init_args": {"kernel_size": 5}}]},
    "model.criterion.void_borders": {"values": [True, False]},
    "model.warmup_steps": {"value": 100},
    "model.optimizer.lr": {"values": [0.001, 1e-5]},
}
COMMANDS = [
    None,
    ["${env}", "cpg", "fit", "--config=experiments/base.yaml", "${args}"],
    ["${interpreter}", "${program}", "${args_no_equals}", "x y"],
    ["${program}", "${args_no_hyphens}"],
    ["${program}", "${args_no_boolean_flags}"],
    ["${program}", "${args_json}"],
    ["${env}", "${program}", "--data.root=${envvar:CAMVID}/${envvar:NOT_SET}", "${args}", 3],
]


@pytest.fixture
def sweep(tmp_path):
    """Writes a sweep file."""

    def write(parameters=PARAMETERS, name="sweep.yaml", study=None, **keys):
        content = {"program": "cpg", "method": "grid", "parameters": parameters, **keys}
        if study is not None:
            content["name"] = study
        path = tmp_path / name
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


def by_the_agent(monkeypatch, folder, file, values):
    """The command that W&B's own agent starts for the values of a cell."""
    from wandb import wandb_agent

    started = []

    class Process:
        def __init__(self, command, **others):
            started.append(command)

    sweep = yaml.safe_load(file.read_text())
    arguments = {name: {"value": value} for name, value in values.items()}
    with monkeypatch.context() as patched:
        patched.setattr(wandb_agent, "AgentProcess", Process)
        patched.setenv("WANDB_DIR", str(folder))
        patched.setattr(os, "environ", os.environ.copy())  # the agent changes it
        agent = wandb_agent.Agent(api=None, queue=None)
        agent._sweep_command = sweep.get("command") or []
        agent._command_run({"type": "run", "run_id": "a1", "program": sweep["program"], "args": arguments})
    return started[0]


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_the_command_is_the_one_of_the_agent(sweep, command, monkeypatch, tmp_path):
    monkeypatch.setenv("CAMVID", "data/camvid")
    file = sweep(command=command)
    cells = read_sweep(file)
    first = {name: entry["values"][0] if "values" in entry else entry["value"] for name, entry in PARAMETERS.items()}
    last = {name: entry["values"][-1] if "values" in entry else entry["value"] for name, entry in PARAMETERS.items()}
    assert list(cells[0].command) == by_the_agent(monkeypatch, tmp_path, file, first)
    assert list(cells[-1].command) == by_the_agent(monkeypatch, tmp_path, file, last)


def test_the_default_command_is_the_one_of_the_agent():
    from wandb.wandb_agent import Agent

    assert DEFAULT_COMMAND == Agent.DEFAULT_SWEEP_COMMAND


def test_cells_are_the_product_in_the_order_of_the_file(sweep):
    parameters = {
        "config": {"values": ["a/lraspp.yaml", "b/effnet.yaml"]},
        "model.warmup_steps": {"value": 100},
        "x": {"values": [False]},
        "seed_everything": {"values": [0, 1]},
    }
    cells = read_sweep(sweep(parameters))
    names = ["lraspp-100-false-0", "lraspp-100-false-1", "effnet-100-false-0", "effnet-100-false-1"]
    assert [cell.name for cell in cells] == names
    assert cells[1].command[-4:] == (
        "--config=a/lraspp.yaml",
        "--model.warmup_steps=100",
        "--x=False",
        "--seed_everything=1",
    )


def test_the_study_has_the_name_in_the_file_or_else_of_the_file(sweep):
    assert {cell.study for cell in read_sweep(sweep(name="1_first.yaml"))} == {"1_first"}
    assert {cell.study for cell in read_sweep(sweep(study="camvid"))} == {"camvid"}
    assert {cell.study for cell in read_sweep(sweep(study="../../x"))} == {"x"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "bayes"}, "expected method: grid, got bayes"),
        ({"early_terminate": {"type": "hyperband"}}, "got early_terminate"),
        ({"command": ["${env}", "cpg", "${agrs}"]}, r"got \$\{agrs\}"),
        ({"command": "cpg fit"}, "expected command to be a list"),
        ({"parameters": {}}, "expected a sweep file with parameters"),
        ({"parameters": {"lr": 3}}, "expected parameter lr to have values or value, got 3"),
        ({"parameters": {"lr": {"min": 0, "max": 1}}}, "got min, max"),
        ({"parameters": {"lr": {"value": 1, "values": [2]}}}, "got value, values"),
        ({"parameters": {"lr": {"values": []}}}, "a list of values"),
        ({"parameters": {"x": {"parameters": {"y": {"value": 1}}}}}, "got the nested x: .*; write its parts with dots"),
        ({"parameters": {"x": {"values": [1, None]}}}, "got null for parameter x"),
        ({"parameters": {"x": {"value": {"class_path": "A", "init_args": {"y": None}}}}}, "got null for parameter x"),
        ({"parameters": {"x": {"value": "y" * 300}}}, "at most 200 bytes"),
        ({"parameters": {"x": {"values": [1, "1 "]}}, "study": "a"}, "a/1 for two different cells"),
    ],
)
def test_invalid_grids_are_refused(sweep, changes, message):
    keys = {key: value for key, value in changes.items() if key != "parameters"}
    with pytest.raises(ValueError, match=message):
        read_study([sweep(changes.get("parameters", PARAMETERS), **keys)])


def test_a_parameter_that_is_given_twice_is_refused(tmp_path):
    file = tmp_path / "twice.yaml"
    file.write_text("method: grid\nprogram: cpg\nparameters:\n  x: {value: 1}\n  x: {value: 2}\n")
    with pytest.raises(ValueError, match="got 'x' more than once"):
        read_sweep(file)


@pytest.mark.parametrize(("content", "message"), [("a: [", "in YAML"), (None, "can be read"), ("[]", "parameters")])
def test_other_files_than_sweeps_are_refused(tmp_path, content, message):
    file = tmp_path / "none.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_sweep(file)


def test_two_files_that_give_one_folder_to_different_cells_are_refused(sweep):
    first = sweep({"criterion": {"values": ["a/ce.yaml"]}}, "first.yaml", study="camvid")
    second = sweep({"criterion": {"values": ["b/ce.yaml"]}}, "second.yaml", study="camvid")
    with pytest.raises(ValueError, match=r"camvid/ce for two different cells of .*first.yaml and .*second.yaml"):
        read_study([first, second])


def test_a_cell_in_two_files_is_listed_once(sweep):
    first = sweep({"seed_everything": {"values": [0, 1]}}, "first.yaml", study="camvid")
    second = sweep({"seed_everything": {"values": [1, 2]}}, "second.yaml", study="camvid")
    assert [cell.name for cell in read_study([first, second])] == ["0", "1", "2"]


class TestSearch:
    """``experiments/sweeps/cpg.yaml``, whose values a W&B server draws."""

    FILE = EXPERIMENTS / "sweeps" / "cpg.yaml"

    @pytest.mark.parametrize("end", ["first", "last"])
    def test_the_commands_of_its_agent_are_accepted(self, monkeypatch, tmp_path, end):
        monkeypatch.chdir(EXPERIMENTS.parent)
        parameters = yaml.safe_load(self.FILE.read_text())["parameters"]
        bound, number = ("min", 0) if end == "first" else ("max", -1)
        values = {
            name: entry["values"][number] if "values" in entry else entry[bound] for name, entry in parameters.items()
        }
        command = by_the_agent(monkeypatch, tmp_path, self.FILE, values)
        assert command[:3] == ["/usr/bin/env", "cpg", "fit"]
        cli = main(command[3:], run=False)
        criterion, optimizer = cli.model.criterion, cli.model.optimizer(cli.model.parameters())
        assert {
            "model.criterion.cpg_weight": criterion.cpg_weight,
            "model.criterion.kernel_size": criterion.kernel_size,
            "model.criterion.void_borders": criterion.void_borders,
            "model.optimizer.lr": optimizer.param_groups[0]["lr"],
        } == values

    def test_what_it_maximises_is_a_score_of_every_validation(self):
        metric = yaml.safe_load(self.FILE.read_text())["metric"]
        module = SegmentationModule(Tiny(11), CrossEntropyCPGLoss(), CamVidDataModule.classes)
        assert metric == {"name": "val/mIoU", "goal": "maximize"}
        assert metric["name"] in module.validation_scores()
        assert metric["name"] not in module.metrics.boundary_means

    def test_cpg_study_says_that_wandb_runs_it(self):
        with pytest.raises(
            ValueError, match=r"expected method: grid, got bayes.*; W&B runs other searches: wandb sweep"
        ):
            read_sweep(self.FILE)
