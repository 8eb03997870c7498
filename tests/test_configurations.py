"""cpg init, and what is in a wheel."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from commands import EXPERIMENTS, fails

from cpg_lightning import __version__
from cpg_lightning.configurations import init

PROJECT = EXPERIMENTS.parent
QUICKSTART = ("--config=experiments/quickstart.yaml", "--trainer.enable_progress_bar=false")
ONE_STEP = (
    "--trainer.max_steps=1",
    "--trainer.limit_val_batches=1",
    "--trainer.accelerator=cpu",
    "--data.num_workers=0",
)


def configurations(folder):
    """Each YAML file of a folder of configurations, but not those of results, with its content."""
    paths = {path.relative_to(folder): path for path in folder.rglob("*.yaml")}
    return {str(name): path.read_text() for name, path in paths.items() if name.parts[0] != "results"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the package as a wheel installs it."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        folder,
        PROJECT,
    ]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site-packages")
    return folder / "site-packages"


def run(installed, folder, *arguments):
    """Run the command of an installed package in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "WANDB_MODE": "offline"}
    command = [sys.executable, "-P", "-m", "cpg_lightning", *arguments]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_checkout_writes_all_its_configurations(tmp_path, capsys):
    assert init([str(tmp_path)]) == 0
    assert configurations(tmp_path / "experiments") == configurations(EXPERIMENTS)
    assert f"cpg fit --config {tmp_path}/experiments/quickstart.yaml" in capsys.readouterr().out


def test_an_existing_file_stays_and_is_named(tmp_path, capsys):
    mine = tmp_path / "experiments" / "base.yaml"
    mine.parent.mkdir()
    mine.write_text("seed_everything: 7\n")
    init([str(tmp_path)])
    assert mine.read_text() == "seed_everything: 7\n"
    assert f"kept, and different from the one that comes with the package: {mine}" in capsys.readouterr().out


def test_existing_files_are_not_written_again(tmp_path, capsys):
    init([str(tmp_path)])
    capsys.readouterr()
    init([str(tmp_path)])
    assert capsys.readouterr().out == f"{tmp_path}/experiments: 0 files written\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit", "--config=experiments/quickstart.yaml"],
        ["fit", "--data=ShapesDataModule", "--model.network=experiments/networks/lraspp_mobilenet_v3_large.yaml"],
        ["study", "experiments/studies/camvid/1_lraspp.yaml"],
    ],
    ids=["a configuration", "a part", "a study"],
)
def test_the_error_for_a_missing_configuration_names_cpg_init(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    message = fails(monkeypatch, capsys, *arguments)
    assert "cpg init writes the configurations that come with the package" in message


def test_the_error_does_not_name_cpg_init_if_the_folder_exists(tmp_path, monkeypatch, capsys):
    (tmp_path / "experiments").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "cpg init" not in fails(monkeypatch, capsys, "fit", "--config=experiments/mistyped.yaml")


def test_a_wheel_has_the_package_and_its_configurations(installed):
    package = {
        str(path.relative_to(PROJECT))
        for path in (PROJECT / "cpg_lightning").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    expected = package | {f"cpg_lightning/experiments/{name}" for name in configurations(EXPERIMENTS)}
    files = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    assert expected <= files
    assert {Path(name).parts[0] for name in files - expected} <= {
        "cpg_lightning",
        f"cpg_lightning-{__version__}.dist-info",
    }


def test_an_installed_wheel_writes_the_configurations(installed, tmp_path):
    run(installed, tmp_path, "init")
    assert configurations(tmp_path / "experiments") == configurations(EXPERIMENTS)


@pytest.mark.slow
def test_an_installed_wheel_trains_in_an_empty_folder(installed, tmp_path):
    run(installed, tmp_path, "init")
    run(installed, tmp_path, "fit", *QUICKSTART, *ONE_STEP, "--output=run")
    assert (tmp_path / "run" / "summary.json").is_file()
