"""The command that measures, and its parts on small problems."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import launches
import losses
import metrics
import networks
import other_losses
import pytest
import torch
import training
import training_steps
from conftest import write_camvid
from measure import Options, apart, interleaved, ratio, regions
from peak_of_ones import peak_of_ones

from cpg_lightning.data import Augmentation, CamVidDataModule

BENCHMARKS = Path(__file__).parents[1] / "experiments" / "benchmarks"
CPU = torch.device("cpu")
ONCE = Options(CPU, 1)


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    runpy.run_path(str(BENCHMARKS), run_name="__main__")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["loss"], "expected parts out of losses, other_losses, .* got loss"),
        (["losses", "--device", "tpu"], "expected the device to be cpu or cuda, got tpu"),
        (["data"], "expected data for data; give --root or --cityscapes or --coco_stuff or --ade20k"),
        (["losses", "training"], "expected data for training; give --root"),
        (["losses", "--repetitions", "0"], "expected repetitions to be 1 or more, got 0"),
    ],
)
def test_bad_arguments_are_refused_before_the_first_measurement(monkeypatch, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, *arguments)
    assert stop.value.code == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_the_machine_does_not_have_is_refused(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, "losses", "--device", "cuda")
    message = "expected a device of this machine, got cuda, but torch .* finds no GPU"
    assert re.search(message, capsys.readouterr().err)


def test_the_report_names_the_command_the_machine_and_what_was_left_out(monkeypatch, tmp_path, capsys):
    for module in (launches, losses, metrics, networks, other_losses, training_steps):
        monkeypatch.setattr(module, "table", lambda options, name=module.__name__: [f"the table of {name}"])
    run(monkeypatch, "--output", str(tmp_path / "report.md"))
    report = (tmp_path / "report.md").read_text()
    assert report == capsys.readouterr().out
    assert report.startswith("`python experiments/benchmarks --output ")
    assert f"torch {torch.__version__}" in report
    assert "no figure is from a GPU" in report
    assert "## Losses\n\nthe table of losses\n" in report
    assert (
        "## Data\n\nNot measured: no data was given (--root or --cityscapes or --coco_stuff or --ade20k).\n" in report
    )


def test_the_losses_and_their_measurement_need_torch_alone():
    program = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {{"lightning", "wandb", "albumentations", "torchvision", "torchmetrics", "timm", "cv2",
                                   "PIL", "yaml", "scipy", "safetensors", "matplotlib", "jsonargparse"}}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
sys.path.insert(0, {str(BENCHMARKS)!r})
import losses, torch, cpg_lightning
cpg_lightning.CPGLoss, cpg_lightning.CrossEntropyCPGLoss
print(*losses.times((1, 3, 32, 32), 4, torch.float32, torch.device("cpu"), 1, "criterion"), sep=",")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip().split(",") == list(losses.LOSSES)


def test_compared_losses_differ_only_in_cpg():
    logits, target = losses.problem((2, 5, 64, 64), 4, torch.float32, CPU)
    expected = losses.reference(logits, target)
    torch.testing.assert_close(losses.LOSSES["CE by the same pass"](logits, target), expected)
    torch.testing.assert_close(losses.LOSSES["CE + CPG"](logits, target), losses.definition(logits, target))


def test_each_of_the_other_losses_is_measured():
    seconds = losses.times((1, 3, 32, 32), 4, torch.float32, CPU, 1, "others")
    assert list(seconds) == list(losses.OTHERS)
    assert all(losses.loss_peak((1, 3, 32, 32), 4, torch.float32, CPU, "others", name) >= 0 for name in seconds)


def test_a_training_step_computes_the_same_cross_entropy_with_both_implementations():
    logits, target = losses.problem((2, 5, 64, 64), 4, torch.float32, CPU)
    plain, fused = (training_steps.CRITERIA[name] for name in (losses.REFERENCE, "CE by the same pass"))
    torch.testing.assert_close(fused(logits, target), plain(logits, target))
    torch.testing.assert_close(fused.auxiliary(logits, target), plain.auxiliary(logits, target))


def test_a_training_step_is_timed_with_each_criterion():
    seconds = training_steps.times("LRASPP", (2, 3, 32, 32), "float32", CPU, 1)
    assert list(seconds) == list(training_steps.CRITERIA)
    assert all(value > 0 for values in seconds.values() for value in values)


@pytest.mark.slow
def test_the_memory_of_a_loss_is_more_than_its_gradient():
    size = (2, 19, 256, 256)
    found = apart(CPU, losses.loss_peak, size, 1, torch.float32, CPU, "criterion", losses.REFERENCE)
    assert 2 * 4 * 19 * 256 * 256 < found < 30 * 4 * 19 * 256 * 256


def test_a_row_of_the_launches_counts_both_losses(monkeypatch):
    monkeypatch.setattr(launches, "SHAPES", [((2, 3, 8, 8), (32, 32))])
    monkeypatch.setattr(launches, "IMAGE", (64, 64))
    lines = launches.lines()
    row = next(line for line in lines if line.startswith("| 2x3x8x8 -> 32x32 | F.interpolate"))
    assert row.split("|")[3:5] == [" 7 ", " 0 "]
    for name in losses.OTHERS:
        assert any(line.startswith(f"| 2x3x8x8 -> 32x32 | {name} |") for line in lines)
    assert any("fused/boundary.py:" in line for line in lines)
    assert any(line.startswith("| boundary F1") for line in lines)


def test_a_row_of_the_metrics_is_by_the_forward_pass(monkeypatch):
    monkeypatch.setattr(metrics, "SIZE", (64, 64))
    lines = list(metrics.table(ONCE))
    assert lines[0] == "Drawn labels of 19 classes."
    assert [line.split(" |")[0] for line in lines[4:]] == [
        "| LRASPP's forward pass",
        "| mIoU",
        "| boundary IoU",
        "| boundary F1, five distances",
        "| trimap IoU, five widths",
        "| all",
    ]


@pytest.mark.parametrize("precision", networks.PRECISIONS)
def test_a_network_is_timed_in_both_memory_formats(precision):
    seconds = networks.times("LRASPP", (2, 3, 32, 32), precision, CPU, 1)
    assert set(seconds) == {"train contiguous", "infer contiguous", "train channels_last", "infer channels_last"}
    assert all(value > 0 for values in seconds.values() for value in values)


@pytest.mark.slow
def test_every_network_can_be_built():
    for build in networks.NETWORKS.values():
        assert build(3).eval()(torch.zeros(1, 3, 64, 64))["out"].shape[1] == 3


def test_a_timed_epoch_has_the_first_images_of_the_folder(tmp_path, camvid):
    training.link_images(str(camvid), tmp_path, 2)
    data = CamVidDataModule(tmp_path, Augmentation((36, 48)))
    assert [image.name for image, _ in data.files("train")] == ["train_000.png", "train_001.png"]
    image, label = data.files("train")[0]
    assert image.samefile(camvid / "train" / "train_000.png")
    assert label.samefile(camvid / "trainannot" / "train_000.png")


@pytest.mark.slow
def test_training_is_timed_beside_the_plain_loop(monkeypatch, tmp_path, capsys):
    root = write_camvid(tmp_path / "camvid", train=8)
    run(monkeypatch, "training", "--root", str(root), "--repetitions", "1")
    lines = capsys.readouterr().out.splitlines()
    names = ["| cpg fit, CE + CPG", "| cpg fit, CE", "| plain loop, CE"]
    assert [line.split(" |")[0] for line in lines[-3:]] == names


@pytest.mark.slow
def test_pipelines_are_timed(monkeypatch, real_data, capsys):
    run(monkeypatch, "data", "--root", str(real_data / "camvid"), "--repetitions", "1")
    assert any(line.startswith("| 60 images, read alone") for line in capsys.readouterr().out.splitlines())


def test_calls_take_turns_and_the_first_rounds_do_not_count():
    called = []
    seconds = interleaved({name: lambda name=name: called.append(name) for name in "ab"}, 2, CPU, warm_up=1)
    assert called == list("ababab")
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_a_ratio_is_of_medians():
    assert ratio([2.0, 2.0, 9.0], [4.0, 1.0, 5.0]).startswith("0.50 (")


def test_peak_memory_is_the_most_that_a_call_holds():
    found = apart(CPU, peak_of_ones, 64)
    assert 60 < found / 2**20 < 80


def test_drawn_labels_have_the_boundary_of_real_ones():
    labels = regions(2, 19, 512, 1024)
    assert set(labels.unique().tolist()) <= {*range(19), 255}
    edges = (labels[:, :, 1:] != labels[:, :, :-1]).float().mean()
    assert 0.01 < edges < 0.03
