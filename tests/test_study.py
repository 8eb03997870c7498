"""``cpg study`` runs the cells of a study, and may be stopped and started at any moment."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cpg_lightning.studies import resources
from cpg_lightning.studies.study import study

STAND_IN = Path(__file__).parent / "stand_in.py"


@pytest.fixture(autouse=True)
def interruptible():
    """Processes that tests start react to SIGINT, also where the tests run in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Writes a sweep file of the stand-in for ``cpg fit``, in the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(parameters, name="sweep.yaml", options=()):
        command = ["${env}", "${interpreter}", str(STAND_IN), *options, "${args}"]
        content = {"name": "small", "method": "grid", "command": command}
        content["parameters"] = {key: {"values": values} for key, values in parameters.items()}
        (tmp_path / name).write_text(yaml.safe_dump(content, sort_keys=False))
        return name

    return write


def run(file):
    """The folder of a cell of the study."""
    return Path("runs/small") / file


def starts(cell):
    """What the stand-in wrote at each of its starts."""
    file = run(cell) / "starts.txt"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def listed(capsys, *arguments):
    """State of each cell by its name, as the table shows it, and the whole table."""
    capsys.readouterr()
    assert study([*arguments, "--list"]) == 0
    table = capsys.readouterr().out
    lines = [line.split(maxsplit=2)[1:] for line in table.splitlines()[1:]]
    return {name: " ".join(rest.split()) for name, rest in lines}, table


def in_background(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "cpg_lightning", "study", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition, seconds=20):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def test_all_cells_are_run_once(sweep, capsys):
    file = sweep({"key": ["a", "b"], "seed": [0, 1]})
    assert listed(capsys, file)[0] == dict.fromkeys(["a-0", "a-1", "b-0", "b-1"], "missing")
    assert study([file]) == 0
    assert "4 of 4 cells are finished" in capsys.readouterr().out
    assert study([file]) == 0
    assert [len(starts(cell)) for cell in ("a-0", "a-1", "b-0", "b-1")] == [1, 1, 1, 1]
    assert listed(capsys, file)[0]["b-1"] == "finished 3 epochs 0.6000"


def test_a_failed_cell_does_not_stop_the_others(sweep, capsys):
    file = sweep({"fail": ["no", "yes"], "seed": [0, 1]})
    assert study([file, "--cell", "3"]) == 1
    assert study([file]) == 1
    shown = capsys.readouterr().out
    assert "2 of 4 cells are finished" in shown
    states, _ = listed(capsys, file)
    assert states["no-1"].startswith("finished")
    assert states["yes-0"] == "failed exit status 1; cpg: expected data[/bold], got none"
    assert len(starts("yes-0")) == 2  # started again, since what was wrong may be mended


def test_a_run_that_has_its_job_requeued_ends_the_study_and_has_not_failed(sweep, capsys):
    file = sweep({"seed": [0, 1]})
    assert study([file, "--", "--requeued=yes"]) == 128 + signal.SIGUSR1
    assert [len(starts(cell)) for cell in "01"] == [1, 0]
    assert "failed" not in listed(capsys, file)[1]
    assert study([file]) == 0


def test_a_run_that_ends_without_a_summary_has_failed(sweep, capsys):
    file = sweep({"x": ["1"]})
    Path(file).write_text(Path(file).read_text().replace(str(STAND_IN), "-c").replace("${args}", "pass"))
    assert study([file]) == 1
    assert "ended before the end of the training: no summary.json" in capsys.readouterr().out


def test_a_single_cell_is_run_by_its_number(sweep):
    file = sweep({"seed": [0, 1, 2]})
    assert study([file, "--cell", "2"]) == 0
    assert [len(starts(cell)) for cell in "012"] == [0, 1, 0]
    with pytest.raises(ValueError, match="expected --cell to be from 1 to 3, the number of cells, got 4"):
        study([file, "--cell", "4"])


def test_options_after_two_dashes_go_to_every_run(sweep):
    file = sweep({"seed": [0, 1]})
    assert study([file, "--", "--epochs=2"]) == 0
    assert [json.loads((run(cell) / "summary.json").read_text())["epochs"] for cell in "01"] == [2, 2]


def test_output_is_the_folder_of_the_cells(sweep, tmp_path):
    file = sweep({"seed": [0]})
    assert study([file, "--output", "elsewhere"]) == 0
    assert (tmp_path / "elsewhere/0/summary.json").exists()
    other = sweep({"seed": [0]}, "other.yaml")
    Path(other).write_text(Path(other).read_text().replace("name: small", "name: large"))
    with pytest.raises(ValueError, match=r"elsewhere/0 for cells of sweep\.yaml and other\.yaml"):
        study([file, other, "--output", "elsewhere"])


def test_each_run_writes_its_output_into_its_folder(sweep):
    file = sweep({"seed": [0]})
    assert study([file]) == 0
    head, said = (run("0") / "log.txt").read_text().splitlines()
    assert head.endswith(f"{STAND_IN} --seed=0 --output=runs/small/0")
    assert said == "training"


def test_a_changed_command_is_shown_and_results_are_never_mixed(sweep, capsys):
    assert study([sweep({"seed": [0]}, options=["--key=a"])]) == 0
    file = sweep({"seed": [0]}, options=["--key=b"])
    assert listed(capsys, file)[0]["0"] == "finished 3 epochs 0.6000 changed since: command"
    assert study([file]) == 1
    shown = capsys.readouterr().out
    assert (
        "its configuration has changed since it was finished; exit status 1; cpg: expected the experiment of" in shown
    )
    assert listed(capsys, file)[0]["0"] == "finished 3 epochs 0.6000 changed since: command"
    assert len(starts("0")) == 1


def test_fit_accepts_a_change_that_does_not_affect_results(sweep, capsys):
    assert study([sweep({"seed": [0]})]) == 0
    file = sweep({"seed": [0]}, options=["--workers=4"])
    assert "changed since" in listed(capsys, file)[0]["0"]
    assert study([file]) == 0
    assert listed(capsys, file)[0]["0"] == "finished 3 epochs 0.6000"
    assert len(starts("0")) == 1


def test_a_change_in_a_file_that_the_command_names_is_shown(sweep, capsys):
    Path("parts").mkdir()
    Path("parts/network.yaml").write_text("model: {network: inner.yaml}\n")
    Path("parts/inner.yaml").write_text("class_path: LRASPP\n")
    file = sweep({"config": ["parts/network.yaml"]})
    assert study([file]) == 0
    assert listed(capsys, file)[0]["network"] == "finished 3 epochs 0.6000"
    Path("parts/inner.yaml").write_text("class_path: DeepLabV3\n")
    assert listed(capsys, file)[0]["network"].endswith("changed since: parts/inner.yaml")


def test_a_run_that_never_started_uses_the_current_configuration(sweep, capsys):
    run("0").mkdir(parents=True)
    (run("0") / "cell.json").write_text('{"version": 1, "command": ["old"], "files": {}}')
    file = sweep({"seed": [0]})
    assert "interrupted" in listed(capsys, file)[0]["0"]
    assert study([file]) == 0
    assert json.loads((run("0") / "cell.json").read_text())["command"][-1] == "--seed=0"


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_stopped_study_stops_its_runs_and_can_be_continued(sweep, capsys, number, status):
    file = sweep({"seed": [0, 1, 2]}, options=["--seconds=0.2"])
    process = in_background(file, "--jobs", "2")
    wait_for(lambda: all((run(cell) / "checkpoints/last.ckpt").exists() for cell in "01"))
    process.send_signal(number)
    shown, _ = process.communicate(timeout=20)
    assert process.returncode == status
    assert f"stopped; continue with: cpg study {file} --jobs 2" in shown
    assert all(not alive(starts(cell)[0]["process"]) for cell in "01")
    states, _ = listed(capsys, file)
    assert states["0"].startswith("interrupted epoch")
    assert states["2"] == "missing"
    assert study([file, "--jobs", "3"]) == 0
    assert [len(starts(cell)) for cell in "012"] == [2, 2, 1]
    assert len((run("0") / "metrics.csv").read_text().splitlines()) == 1 + 2 * 3  # no epoch twice


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_stopped_run_ends_its_workers_itself(sweep):
    file = sweep({"worker": ["yes"]}, options=["--seconds=30"])
    process = in_background(file)
    wait_for(lambda: starts("yes"))
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 130
    assert (run("yes") / "worker.txt").read_text() == "ended by its run"


def test_a_second_signal_does_not_wait(sweep):
    file = sweep({"deaf": ["yes"]}, options=["--seconds=30"])
    process = in_background(file)
    wait_for(lambda: starts("yes"))
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None  # it waits for the run
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130
    assert not alive(starts("yes")[0]["process"])


def test_the_run_of_a_killed_study_is_waited_for_and_not_run_twice(sweep, capsys):
    file = sweep({"seed": [0, 1]}, options=["--seconds=0.5"])
    process = in_background(file)
    wait_for(lambda: starts("0"))
    process.kill()
    process.communicate()
    (owner,) = (start["process"] for start in starts("0"))
    states, _ = listed(capsys, file)
    assert states["0"].startswith("running")
    assert f"process {owner}" in states["0"]
    assert study([file]) == 0
    assert "0 runs elsewhere" in capsys.readouterr().out
    assert [len(starts(cell)) for cell in "01"] == [1, 1]


def test_a_killed_run_continues_at_the_next_start(sweep, capsys):
    file = sweep({"seed": [0]}, options=["--seconds=0.2"])
    process = in_background(file)
    wait_for((run("0") / "checkpoints/last.ckpt").exists)
    os.kill(starts("0")[0]["process"], signal.SIGKILL)
    shown, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "killed by signal 9" in shown
    assert study([file]) == 0
    assert len((run("0") / "metrics.csv").read_text().splitlines()) == 1 + 2 * 3


def test_two_studies_run_no_cell_twice(sweep):
    file = sweep({"seed": [0, 1, 2, 3]}, options=["--seconds=0.1"])
    both = [in_background(file) for _ in range(2)]
    assert [process.wait(timeout=30) for process in both] == [0, 0]
    assert [len(starts(cell)) for cell in "0123"] == [1, 1, 1, 1]


def test_a_file_system_without_locks_is_named(sweep, capsys, monkeypatch):
    def without_locks(file, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without_locks)
    assert study([sweep({"seed": [0]})]) == 0
    assert "no locks on this file system; run one study at a time" in " ".join(capsys.readouterr().out.split())


def test_runs_at_the_same_time_divide_gpus_and_cores(sweep, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(resources, "available_cores", lambda: 8)
    file = sweep({"seed": [0, 1]}, options=["--seconds=0.1"])
    assert study([file, "--jobs", "2"]) == 0
    assert [starts(cell)[0]["CUDA_VISIBLE_DEVICES"] for cell in "01"] == ["3", "GPU-5"]
    assert [starts(cell)[0]["OMP_NUM_THREADS"] for cell in "01"] == ["4", "4"]
    assert [starts(cell)[0]["CPG_CORES"] for cell in "01"] == ["4", "4"]


def test_neither_torch_nor_lightning_is_imported():
    code = (
        "import sys; from cpg_lightning.studies.study import study; import cpg_lightning.command, cpg_lightning.cores;"
        "print({'torch', 'lightning', 'numpy', 'jsonargparse'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "set()\n"


def test_a_missing_file_is_named_before_the_first_cell_starts(sweep):
    file = sweep({"config": ["parts/none.yaml"]})
    with pytest.raises(ValueError, match=r"expected the file parts/none.yaml, found none \(cell none of sweep.yaml\)"):
        study([file])
    assert not Path("runs").exists()


def test_a_mistake_is_one_message(sweep):
    process = in_background("none.yaml")
    shown, _ = process.communicate()
    assert process.returncode == 1
    assert shown.startswith("cpg: expected a sweep file that can be read, got none.yaml (No such file or directory)\n")
