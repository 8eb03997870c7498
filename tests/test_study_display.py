"""What ``cpg study`` shows while its cells run."""

import io
import time

import pytest
from rich.console import Console

from cpg_lightning.studies import display as module
from cpg_lightning.studies.cell_folder import CellFolder, Progress, Status
from cpg_lightning.studies.display import StudyDisplay, show_cells
from cpg_lightning.studies.runner import Job, Running

HEADER = "epoch,step,train/loss,val/mIoU"


@pytest.fixture
def cell(tmp_path):
    """Writes the folder of a cell that runs."""

    def write(rows, limits="max_epochs: 10\n  max_steps: -1", name="lraspp-ce[1]"):
        (tmp_path / "config.yaml").write_text(f"trainer:\n  {limits}\n")
        (tmp_path / "metrics.csv").write_text("\n".join([HEADER, *rows, ""]))
        folder = CellFolder(tmp_path, ["cpg", "fit"])
        job = Job(name, folder, folder.command)
        return Running(job, {}, None, None, 0, time.time() - 100, Progress())  # for 100 seconds

    return write


def shown(terminal, running, total=3, waiting=1):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120, emoji=False, highlight=False)
    with StudyDisplay(console, total) as display:
        display.started(running.job, 4711)
        display.refresh([running], waiting, [])
    return console.file.getvalue()


def test_each_cell_has_one_line_with_progress_and_remaining_time(cell):
    line = shown(True, cell(["0,99,0.5,", "0,99,,0.31", "1,199,,0.42"]))
    assert "epoch 2/10" in line
    assert "mIoU 0.4200" in line
    assert "7 min left" in line  # 20 % in 100 seconds: 400 seconds
    assert "3 cells: 1 running, 1 waiting" in line


def test_a_name_with_brackets_is_shown_as_it_is(cell):
    assert "lraspp-ce[1]" in shown(True, cell([]))
    assert "start lraspp-ce[1]: process 4711" in shown(False, cell([]))


def test_before_the_first_epoch_a_cell_shows_its_running_time(cell):
    assert "started 2 min ago" in shown(True, cell([]))


def test_a_log_file_gets_few_lines(cell, monkeypatch):
    running = cell(["0,99,,0.31"])
    assert shown(False, running).count("\n") == 1
    monkeypatch.setattr(module, "NEWS_EVERY", 0.0)
    last = shown(False, running).splitlines()[-1]
    assert last.endswith("lraspp-ce[1]: epoch 1/10, mIoU 0.3100, 15 min left")


@pytest.mark.parametrize(
    ("rows", "limits", "expected"),
    [
        (["0,49,,"], "max_epochs: 10\n  max_steps: -1", Progress(0.0, "epoch 0/10")),
        (["1,199,,0.5"], "max_epochs: -1\n  max_steps: 400", Progress(0.5, "step 200/400", 0.5)),
        (["1,199,,0.5"], "max_epochs: -1\n  max_steps: -1", Progress(None, "epoch 2", 0.5)),
        (["1,199,,0.5", "2,2"], "max_epochs: 4\n  max_steps: -1", Progress(0.5, "epoch 2/4", 0.5)),  # a torn row
        (["x,y,z,?"], "max_epochs: 4\n  max_steps: -1", Progress()),
        ([], "max_epochs: 4\n  max_steps: -1", Progress()),
    ],
)
def test_progress_is_read_from_the_metrics(cell, rows, limits, expected):
    progress = cell(rows, limits).job.folder.progress()
    assert (progress.share, progress.text, progress.score) == (expected.share, expected.text, expected.score)


def test_only_the_end_of_long_metrics_is_read(cell):
    rows = [f"{epoch},{epoch * 100},0.123456789," for epoch in range(20_000)]
    progress = cell([*rows, "20000,2000000,,0.7"], "max_epochs: 40002\n  max_steps: -1").job.folder.progress()
    assert (progress.share, progress.score) == (0.5, 0.7)


def test_the_remaining_time_of_a_resumed_cell_starts_at_the_resumption(cell):
    running = cell(["8,899,,0.5"])  # from 80 % to 90 % in 100 seconds
    running.begin = Progress(0.8)
    assert running.seconds_left(running.job.folder.progress()) == pytest.approx(100, abs=2)
    running.begin = Progress(0.9)
    assert running.seconds_left(running.job.folder.progress()) is None


def test_the_table_shows_different_states():
    console = Console(file=io.StringIO(), width=120)
    progress = Progress(0.1, "epoch 3/30", 0.5)
    show_cells(
        console,
        [
            (1, "a", Status("running", progress, note="host, process 7")),
            (2, "b", Status("finished", progress, ("command", "x.yaml"))),
        ],
    )
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert lines[1] == ["1", "a", "running", "epoch", "3/30", "0.5000", "host,", "process", "7"]
    assert lines[2][-4:] == ["changed", "since:", "command,", "x.yaml"]
