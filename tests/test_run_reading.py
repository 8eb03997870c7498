"""Run folders are data: what is damaged, empty, half-finished or foreign is one clear message, and the rest is reported."""

import json
import os
import zipfile

import numpy as np
import pytest
from runs import counts_of, labels, write_counts, write_identity, write_metrics, write_run, write_summary

from cpg_lightning.studies.analysis import analyse
from cpg_lightning.studies.reading import read_counts, read_metrics, read_run, read_runs
from cpg_lightning.studies.report import report


def edited(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_runs_are_found_at_any_depth_and_once(tmp_path):
    for name in ("a", "b/c", "b/d/e"):
        write_run(tmp_path / name)
    (tmp_path / "b" / "notes").mkdir()
    runs, problems = read_runs([tmp_path, tmp_path / "b", tmp_path / "a"])
    assert [str(run.folder.relative_to(tmp_path)) for run in runs] == ["a", "b/c", "b/d/e"]
    assert problems == []


def test_subfolders_of_a_run_are_not_runs(tmp_path):
    write_run(tmp_path / "run")
    write_run(tmp_path / "run" / "wandb" / "copy")
    assert len(read_runs([tmp_path])[0]) == 1


def test_links_to_folders_are_not_followed(tmp_path):
    write_run(tmp_path / "runs" / "a")
    (tmp_path / "runs" / "again").symlink_to(tmp_path / "runs", target_is_directory=True)
    assert len(read_runs([tmp_path / "runs"])[0]) == 1


@pytest.mark.parametrize(
    ("make", "what"), [(lambda path: None, "missing"), (lambda path: path.touch(), "not a folder")]
)
def test_a_path_that_is_not_a_folder_is_refused(tmp_path, make, what):
    make(tmp_path / "runs")
    with pytest.raises(FileNotFoundError, match=f"expected a folder of runs, got .*runs, which is {what}"):
        report([str(tmp_path / "runs")])


def test_folders_without_any_run_are_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "metrics.csv").write_text("a table of another program")
    with pytest.raises(
        ValueError, match=r"expected folders of runs, got none that can be read:\n.*: no runs; a run is"
    ):
        report([str(tmp_path)])


def test_an_empty_folder_beside_runs_is_named(tmp_path):
    write_run(tmp_path / "runs" / "a")
    (tmp_path / "empty").mkdir()
    notes = analyse([tmp_path / "runs", tmp_path / "empty"], draws=10).notes
    assert notes == [f"{tmp_path / 'empty'}: no runs; a run is a folder of cpg fit, which contains experiment.json"]


def test_a_study_without_finished_runs_shows_its_progress(tmp_path, capsys):
    write_identity(tmp_path / "a", 0)
    write_metrics(tmp_path / "a", {0: {"val/mIoU": 0.1}, 1: {"val/mIoU": 0.2}})
    write_identity(tmp_path / "b", 1)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "cell.json").write_text("{}")
    assert report([str(tmp_path), "--output", str(tmp_path / "report")]) == 1
    printed = "".join(capsys.readouterr().out.split())
    for name, state in (
        ("a", "not finished, 2 validations so far; it is not used"),
        ("b", "not finished, 0 validations so far; it is not used"),
        ("c", "not started: there is no experiment.json yet"),
    ):
        assert f"{tmp_path / name}:{state}".replace(" ", "") in printed
    assert not (tmp_path / "report").exists()


DAMAGES = {
    "no JSON": (lambda run: (run / "experiment.json").write_text('{"version": 1'), "experiment.json is damaged: "),
    "no text": (lambda run: (run / "experiment.json").write_bytes(b"\xff\xfe\x00"), "experiment.json is damaged: "),
    "a list": (lambda run: (run / "experiment.json").write_text("[]"), "expected an object, got list"),
    "nested": (lambda run: (run / "experiment.json").write_text("[" * 100_000), "experiment.json is damaged: "),
    "a later version": (lambda run: edited(run / "experiment.json", version=2), "expected version 1, got 2"),
    "no seed": (lambda run: edited(run / "experiment.json", seed="0"), "expected the seed to be an integer, got '0'"),
    "no key": (lambda run: edited(run / "experiment.json", key=None), "expected a text for key, got None"),
    "no parts": (lambda run: edited(run / "experiment.json", parts=[]), "expected parts and versions"),
    "a part is missing": (
        lambda run: edited(run / "experiment.json", parts={"data": {"name": "camvid", "digest": "0"}}),
        "expected a text for network.name, got None",
    ),
    "no scores": (lambda run: edited(run / "summary.json", scores=None), "expected scores by their log key"),
    "an empty summary": (lambda run: (run / "summary.json").write_text(""), "summary.json is damaged: "),
    "a summary that is a folder": (
        lambda run: ((run / "summary.json").unlink(), (run / "summary.json").mkdir()),
        "expected a file .*summary.json, which is a folder",
    ),
    "binary metrics": (lambda run: (run / "metrics.csv").write_bytes(b"\xff\xfe\n"), "metrics.csv is damaged: "),
    "other metrics": (
        lambda run: (run / "metrics.csv").write_text("step,value\n1,2\n"),
        "expected columns epoch, step, ..., got step, value",
    ),
    "a metric that is no number": (
        lambda run: (run / "metrics.csv").write_text("epoch,step,val/mIoU\n0,10,good\n"),
        "could not convert string to float: 'good'",
    ),
    "a line that is too short": (
        lambda run: (run / "metrics.csv").write_text("epoch,step,val/mIoU\n0,10\n1,20,0.5\n"),
        "expected 3 cells in line 2, got 2",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_named_and_the_others_are_read(tmp_path, damage):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", seed=1)
    damaged, message = DAMAGES[damage]
    damaged(tmp_path / "b")
    runs, problems = read_runs([tmp_path])
    assert [run.folder.name for run in runs] == ["a"]
    assert len(problems) == 1
    with pytest.raises((ValueError, OSError), match=message):
        read_run(tmp_path / "b")
    assert problems[0].startswith(f"{tmp_path / 'b'}: ")


@pytest.mark.parametrize("lost", [1, 2, 8])
def test_an_incomplete_last_line_is_left_out(tmp_path, lost):
    write_metrics(tmp_path, {0: {"val/mIoU": 0.25}, 1: {"val/mIoU": 0.5125}})
    path = tmp_path / "metrics.csv"
    path.write_text(path.read_text()[:-lost])
    assert read_metrics(path) == {"val/mIoU": {0: 0.25}}


@pytest.mark.parametrize("text", ["", "epo", "epoch,step,val/mIoU\n", "epoch,step,val/mIoU\n0,10,"])
def test_a_run_that_has_just_started_has_no_scores_yet(tmp_path, text):
    write_identity(tmp_path)
    (tmp_path / "metrics.csv").write_text(text)
    run = read_run(tmp_path)
    assert (run.history, run.scores) == ({}, None)


def test_scores_that_are_not_numbers_are_left_out(tmp_path):
    write_identity(tmp_path)
    write_summary(tmp_path, {"val/mIoU": 0.5, "val/boundary_IoU": float("nan"), "val/trimap": None, "val/x": True})
    assert read_run(tmp_path).scores == {"val/mIoU": 0.5}


def broken_archive(path):
    content = path.read_bytes()
    path.write_bytes(content[:200] + bytes(200) + content[400:])


def with_arrays(**arrays):
    def write(path):
        kept = {name: values for name, values in np.load(path).items() if name not in arrays}
        np.savez(path, **kept, **{name: values for name, values in arrays.items() if values is not None})

    return write


def too_large(path):
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("region.npy", "w", force_zip64=True) as file,
    ):
        for _ in range(2**31 // 2**24 + 1):
            file.write(bytes(2**24))


def endless_header(path):
    with zipfile.ZipFile(path, "a") as archive:
        header = str({"descr": "<i8", "fortran_order": False, "shape": (2**60, 5, 3)}).ljust(117) + "\n"
        archive.writestr("boundary.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())


COUNT_DAMAGES = {
    "no archive": (lambda path: path.write_text("names"), "File is not a zip file"),
    "empty": (lambda path: path.write_bytes(b""), "File is not a zip file"),
    "broken": (broken_archive, "val-counts.npz is damaged: "),
    "no names": (with_arrays(names=None), "no array"),
    "pickled": (with_arrays(names=np.array([{"a": 1}] * 60, dtype=object)), "Object arrays cannot be loaded"),
    "fewer images": (with_arrays(region=np.ones((30, 5, 3), np.int64)), "expected integers .images, classes, 3."),
    "floats": (with_arrays(region=np.ones((60, 5, 3))), "expected integers"),
    "negative": (with_arrays(region=-np.ones((60, 5, 3), np.int64)), "expected counts of 0 or more"),
    "impossible": (with_arrays(region=np.ones((60, 5, 3), np.int64) * (2, 1, 1)), "intersections of at most"),
    "another rule": (
        with_arrays(absent=np.array("never")),
        "expected absent to be skip, skip_always or zero, got 'never'",
    ),
    "no memory for it": (endless_header, "val-counts.npz is damaged: "),
}


@pytest.mark.parametrize("damage", COUNT_DAMAGES)
def test_damaged_counts_are_named_and_the_runs_scores_are_used(tmp_path, damage):
    write_run(tmp_path)
    path = tmp_path / "tables" / "val-counts.npz"
    if damage == "no memory for it":
        write_counts(path.parent, counts_of(labels(), 0.5, 0))  # without boundary
    damaged, message = COUNT_DAMAGES[damage]
    damaged(path)
    with pytest.raises(ValueError, match=message):
        read_counts(path)
    (run,) = analyse([tmp_path]).finished
    assert "val/mIoU" in run.scores
    assert "val/mIoU^I" not in run.scores
    assert len(run.notes) == 1
    assert "the run has no scores by image" in run.notes[0]


@pytest.mark.slow
def test_counts_that_would_fill_the_memory_are_refused(tmp_path):
    too_large(tmp_path / "val-counts.npz")
    assert (tmp_path / "val-counts.npz").stat().st_size < 10 * 2**20
    with pytest.raises(ValueError, match="expected at most"):
        read_counts(tmp_path / "val-counts.npz")


def test_a_run_without_counts_is_compared_by_seed(tmp_path):
    write_run(tmp_path)
    (tmp_path / "tables" / "val-counts.npz").unlink()
    (run,) = analyse([tmp_path]).finished
    assert run.notes == [f"{tmp_path}: no tables/val-counts.npz, so no scores by image"]


def test_a_device_in_the_place_of_a_file_is_not_read(tmp_path):
    write_run(tmp_path / "run")
    (tmp_path / "run" / "metrics.csv").unlink()
    os.symlink("/dev/zero", tmp_path / "run" / "metrics.csv")
    with pytest.raises(FileNotFoundError, match="expected a file"):
        read_run(tmp_path / "run")
