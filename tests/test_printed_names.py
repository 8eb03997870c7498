"""Names with [brackets], which rich would take for markup, and :words:, for pictures, are printed as they are."""

import re
from pathlib import Path

import numpy as np
import pytest
from commands import BASE, PARTS
from PIL import Image

from cpg_lightning.cli import main

CLASSES = ["sky", "car[/bold]", "[left] :car:"]
FOLDER = "data [dim] :car:"
NAME = "cam [left] :car:"


@pytest.fixture
def folder(monkeypatch):
    """Two images of each split in a folder, all with names that rich could read."""
    monkeypatch.setenv("COLUMNS", "400")
    root = Path(FOLDER)
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for index in range(2):
            label = rng.integers(0, 3, (4, 6)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
            name = f"{split} {NAME} {index}.png"
            Image.fromarray(label).save(root / "labels" / split / name)
            Image.fromarray(np.stack(3 * [80 * label], axis=-1)).save(root / "images" / split / name)
    lines = [f"{value},{name},#{value}0{value}0{value}0" for value, name in enumerate(CLASSES)]
    (root / "classes.csv").write_text("\n".join(["value,name,color", *lines]) + "\n")
    return root


DATA = ["--data=FolderDataModule", f"--data.root={FOLDER}", "--data.augmentation.crop_size=[24,32]"]
LOADING = ["--data.num_workers=0", "--data.batch_size=2"]


def printed(capsys):
    return re.sub(r"\s+", " ", capsys.readouterr().out)


def test_check_data_prints_classes_and_files_as_they_are_named(folder, capsys):
    broken = folder / "images" / "val" / f"val {NAME} 1.png"
    broken.write_bytes(b"no image")
    (folder / "labels" / "train" / f"train {NAME} 0.png").unlink()
    unknown = folder / "labels" / "val" / f"val {NAME} 0.png"
    Image.fromarray(np.full((32, 48), 7, dtype=np.uint8)).save(unknown)
    with pytest.raises(SystemExit) as end:
        main(["check-data", *DATA, "--num_workers=0", f"--crops={FOLDER}/crops.png"])
    assert end.value.code == 1
    out = printed(capsys)
    for name in (*CLASSES, str(broken), str(unknown), f"train {NAME} 0", f"training crops: {FOLDER}/crops.png"):
        assert name in out
    for markup in ("[red]", "[green]", "[yellow]"):
        assert markup not in out


def test_fit_prints_classes_and_paths_as_they_are_named(folder, capsys):
    run = f"--trainer.default_root_dir={FOLDER}/runs"
    main(["fit", *BASE, *PARTS, *DATA, *LOADING, run, "--trainer.max_epochs=1", "--trainer.logger=false"])
    out = printed(capsys)
    for name in (*CLASSES, f"picture: {FOLDER}/runs", f"best checkpoint: {Path(FOLDER).absolute()}/runs"):
        assert name in out
    assert out.count(CLASSES[1]) == 1


def test_validate_prints_classes_as_they_are_named(folder, capsys):
    run = f"--trainer.default_root_dir={FOLDER}/runs"
    main(["validate", *BASE, *PARTS, *DATA, *LOADING, run, "--trainer.logger=false"])
    out = printed(capsys)
    for name in CLASSES:
        assert name in out
