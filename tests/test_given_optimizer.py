"""An optimizer of another class has a learning rate of its own."""

from pathlib import Path

import pytest
from commands import BASE, CAMVID, EXPERIMENTS, fails

from cpg_lightning.cli import main
from cpg_lightning.given_optimizer import check_inherited_lr

ADAMW = "model: {optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.002, weight_decay: 0.01}}}\n"
REFUSED = (
    "expected a learning rate for SGD, got none: it would inherit 0.002 from AdamW, but its own default is 0.001; "
    "set --model.optimizer.lr"
)
FILES = {
    "adamw.yaml": ADAMW,
    "sgd.yaml": "model: {optimizer: SGD}\n",
    "including.yaml": "config: adamw.yaml\ntrainer: {max_epochs: 3}\n",
    "parts/of_file.yaml": "model: {optimizer: option.yaml}\n",
    "parts/option.yaml": "class_path: SGD\ninit_args: {momentum: 0.9}\n",
    "whole_option.yaml": "class_path: SGD\ninit_args: {lr: 0.3}\n",
}


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("parts").mkdir()
    for name, text in FILES.items():
        Path(name).write_text(text)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config=adamw.yaml", "--model.optimizer=SGD"],
        ["--config", "adamw.yaml", "--model.optimizer", "torch.optim.SGD"],
        ["--config=adamw.yaml", "--model.optimizer=SGD", "--model.optimizer.momentum=0.9"],
        ["--config=adamw.yaml", "--model.optimizer={class_path: SGD, init_args: {momentum: 0.9}}"],
        ["--config=adamw.yaml", "--model.optimizer=parts/option.yaml"],
        ["--config=adamw.yaml", "--config=sgd.yaml"],
        ["--config=adamw.yaml", "--config=parts/of_file.yaml"],
        ["--config=including.yaml", "--model.optimizer=SGD"],
        ["-c", "adamw.yaml", "--model.optimizer=SGD"],
    ],
    ids=" ".join,
)
def test_the_rate_of_an_earlier_class_is_not_kept(arguments):
    with pytest.raises(ValueError, match=f"^{REFUSED}$"):
        check_inherited_lr(["fit", *arguments])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--model.optimizer=SGD"],
        ["--config=adamw.yaml"],
        ["--config=adamw.yaml", "--model.optimizer.lr=0.1"],
        ["--config=adamw.yaml", "--model.optimizer=AdamW"],
        ["--config=adamw.yaml", "--model.optimizer=SGD", "--model.optimizer.lr=0.1"],
        ["--config=adamw.yaml", "--model.optimizer=SGD", "--model.optimizer.init_args.lr", "0.002"],
        ["--config=adamw.yaml", "--model.optimizer={class_path: SGD, init_args: {lr: 0.002}}"],
        ["--config=adamw.yaml", "--model.optimizer=whole_option.yaml"],
        ["--config=sgd.yaml", "--config=adamw.yaml"],
        ["--config=adamw.yaml", "--model.optimizer=null"],
        ["--config=adamw.yaml", "--model.optimizer=SGD", "--model.optimizer.lr=.nan"],
    ],
    ids=" ".join,
)
def test_a_class_with_its_own_rate_is_accepted(arguments):
    check_inherited_lr(["fit", *arguments])


def test_the_command_refuses_an_inherited_rate_before_objects_are_built(monkeypatch, capsys):
    dataset = ["--config", str(EXPERIMENTS / "camvid.yaml"), "--data.root=nowhere"]
    parts = ["--model.network=LRASPP", f"--model.criterion={EXPERIMENTS}/criteria/ce.yaml"]
    shown = fails(monkeypatch, capsys, "fit", *BASE, *dataset, *parts, "--model.optimizer=SGD")
    assert shown.startswith(f"cpg: {REFUSED}")


def test_a_rate_and_a_class_are_what_the_optimizer_is_built_from(camvid):
    parts = ["--model.network=LRASPP", f"--model.criterion={EXPERIMENTS}/criteria/ce.yaml"]
    given = ["--config=adamw.yaml", "--model.optimizer=SGD", "--model.optimizer.lr=0.5"]
    model = main([*BASE, *CAMVID, f"--data.root={camvid}", *parts, *given], run=False).model
    (group,) = model.optimizer(model.parameters()).param_groups
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.01)
