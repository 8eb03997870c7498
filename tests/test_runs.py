"""A run is its folder: what it is called, where it goes on, and what it is refused for."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from commands import ARGUMENTS, FIT, JOB, experiment, fit
from conftest import in_new_folder
from tiny import Samples
from torchvision.models import mobilenet_v3_large

from cpg_lightning.cli import main
from cpg_lightning.runs.chosen_checkpoint import chosen_checkpoint, label_of
from cpg_lightning.runs.folder import RunFolder


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, for copies."""
    with in_new_folder(tmp_path_factory) as folder:
        fit("--output=first")
    return folder / "first"


@pytest.fixture
def first(finished, camvid):
    """A finished run in the current folder."""
    return shutil.copytree(finished, Path("first"))


class TestFolder:
    def test_a_run_folder_has_configuration_experiment_and_summary(self, first):
        record, summary = experiment(first), json.loads((first / "summary.json").read_text())
        assert (record["name"], record["seed"]) == ("camvid-tiny-ce+cpg", 0)
        assert record["parts"]["data"]["values"]["images"] == {"train": 6, "val": 3}
        assert (summary["epochs"], summary["steps"]) == (2, 6)
        assert summary["best"].keys() == {"mIoU", "epoch"}
        assert summary["best"]["mIoU"] >= summary["scores"]["val/mIoU"] > 0
        assert (first / "config.yaml").is_file()

    def test_a_finished_run_does_not_change(self, first, capsys):
        before = {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.is_file()}
        fit("--output=first")
        assert {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.is_file()} == before

    def test_options_that_change_no_result_may_differ(self, first):
        fit("--output=first", "--data.eval_batch_size=3", "--model.criterion.strip_logits=7", "--data.root=./camvid")

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ("--model.criterion.cpg_weight=0.5", "criterion.init_args.cpg_weight is 0.5 instead of its default"),
            ("--seed_everything=1", "seed_everything is 1 instead of 0"),
            ("--trainer.max_epochs=3", "recipe.max_epochs is 3 instead of 2"),
            ("--data.batch_size=3", "recipe.images_a_step is 3 instead of 2"),
            ("--trainer.precision=bf16-mixed", "recipe.precision is bf16-mixed instead of its default"),
            ("--model.optimizer.lr=0.2", "recipe.optimizer.init_args.lr is 0.2 instead of 0.1"),
            ("--trainer.limit_val_batches=1", "inference.limit_val_batches is 1 instead of its default"),
        ],
    )
    def test_another_experiment_is_refused_and_the_differing_option_is_named(self, first, option, message):
        with pytest.raises(ValueError, match=f"expected the configuration of the run in first, got another: {message}"):
            fit("--output=first", option)

    def test_a_folder_with_something_else_is_refused(self, camvid):
        Path("full").mkdir()
        Path("full/notes.txt").write_text("mine")
        with pytest.raises(ValueError, match="expected a new or an empty folder, or that of a run, got full"):
            fit("--output=full")
        assert os.listdir("full") == ["notes.txt"]

    def test_an_empty_folder_is_accepted(self, camvid):
        Path("empty").mkdir()
        fit("--output=empty", "--trainer.max_epochs=1")
        assert RunFolder("empty").is_finished

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"key": 1}', "no JSON"])
    def test_a_damaged_record_is_named(self, first, text):
        (first / "experiment.json").write_text(text)
        with pytest.raises(ValueError, match=r"expected .*first/experiment\.json"):
            fit("--output=first")

    def test_a_checkpoint_is_continued_to_another_end_from_any_current_folder(self, camvid, monkeypatch):
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit("--output=first", "--trainer.callbacks+=tiny.Broken", "--trainer.callbacks.epoch=1")
        record, config = experiment("first"), Path("first/config.yaml").read_text()
        last, data = Path("first/checkpoints/last.ckpt").absolute(), Path("camvid").absolute()
        Path("elsewhere").mkdir()
        monkeypatch.chdir("elsewhere")
        longer = [f"--data.root={data}", "--trainer.max_epochs=3"]
        fit(f"--ckpt_path={last}", *longer)
        assert os.listdir() == []
        assert torch.load(last, weights_only=True)["epoch"] == 2
        folder = last.parents[1]
        assert experiment(folder)["id"] == record["id"]
        assert experiment(folder)["key"] != record["key"]
        assert "max_epochs: 3" in (folder / "config.yaml").read_text()
        assert (folder / "config-1.yaml").read_text() == config
        fit(f"--output={folder}", *longer)  # it is the run's configuration now

    def test_a_finished_run_is_continued_to_no_other_end(self, first):
        before = {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.is_file()}
        with pytest.raises(ValueError, match=r"an unfinished training, .* decayed to 0; --model\.weights starts"):
            fit("--ckpt_path=first/checkpoints/last.ckpt", "--trainer.max_epochs=3")
        assert {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.is_file()} == before

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ("--model.optimizer.lr=0.2", "recipe.optimizer.init_args.lr is 0.2 instead of 0.1"),
            ("--data.batch_size=3", "recipe.images_a_step is 3 instead of 2"),
            ("--trainer.limit_train_batches=2", "recipe.limit_train_batches is 2 instead of its default"),
        ],
    )
    def test_options_that_would_not_take_effect_are_refused(self, first, option, message):
        with pytest.raises(ValueError, match=message):
            fit("--ckpt_path=first/checkpoints/last.ckpt", option)

    def test_optimizer_options_are_refused_for_a_checkpoint_outside_of_a_run(self, first):
        Path("first/checkpoints/last.ckpt").rename("moved.ckpt")
        with pytest.raises(ValueError, match=r"got a SGD with other options: initial_lr is 0\.2 instead of 0\.1"):
            fit("--ckpt_path=moved.ckpt", "--output=second", "--model.optimizer.lr=0.2")
        assert not Path("second").exists()

    def test_a_checkpoint_of_another_experiment_is_refused(self, first):
        last = first / "checkpoints" / "last.ckpt"
        with pytest.raises(ValueError, match=r"cpg_weight is 0\.0 instead of its default.*--model\.weights starts it"):
            fit(f"--ckpt_path={last}", "--trainer.max_epochs=3", "--model.criterion.cpg_weight=0")
        with pytest.raises(ValueError, match=r"expected a checkpoint of the run in second, got .*first"):
            fit(f"--ckpt_path={last}", "--output=second")

    def test_the_same_id_again_does_not_overwrite_a_run(self, camvid):
        named = ["--trainer.max_epochs=1", "--trainer.logger.name=mine", "--trainer.logger.id=abc"]
        main(["fit", *ARGUMENTS, *named])
        with pytest.raises(ValueError, match="expected a folder without another run, got runs/mine-abc"):
            main(["fit", *ARGUMENTS, *named])
        evaluation = main(["validate", "--run=runs/mine-abc"]).trainer.logger.experiment
        assert evaluation.id != "abc"
        assert evaluation.config["training"] == "abc"

    def test_a_fast_dev_run_leaves_nothing_behind(self, camvid, capsys):
        fit("--trainer.fast_dev_run=true")
        assert os.listdir() == ["camvid"]
        assert "picture:" not in capsys.readouterr().out


def test_an_interrupted_run_continues_by_its_folder_to_the_same_weights(camvid):
    fit("--output=whole", "--trainer.max_epochs=4")
    broken = ["--output=broken", "--trainer.max_epochs=4"]
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(*broken, "--trainer.callbacks+=tiny.Broken", "--trainer.callbacks.epoch=2")
    assert not RunFolder("broken").is_finished
    fit(*broken)
    assert RunFolder("broken").is_finished
    for name, value in weights("whole/checkpoints/last.ckpt").items():
        torch.testing.assert_close(weights("broken/checkpoints/last.ckpt")[name], value, msg=name)


def test_a_moved_run_keeps_its_best_checkpoint(camvid):
    once = [*FIT, "--trainer.max_epochs=3", "--trainer.callbacks+=tiny.Broken", "--trainer.callbacks.epoch=1"]
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        main(["fit", *once, "--output=here"])
    Path("here").rename("there")
    cli = main(["fit", *FIT, "--trainer.max_epochs=3", "--output=there"])
    best = cli.trainer.checkpoint_callback
    rows = [line.split(",") for line in Path("there/metrics.csv").read_text().splitlines()]
    scores = [float(row[rows[0].index("val/mIoU")]) for row in rows[1:] if row[rows[0].index("val/mIoU")]]
    assert len(scores) == 3
    assert best.best_model_score == pytest.approx(max(scores))
    assert [str(path.absolute()) for path in Path("there/checkpoints").glob("epoch*")] == [best.best_model_path]


def test_a_run_whose_callbacks_have_no_checkpoint_is_continued_from_lightnings_own(camvid):
    options = ["--output=run", "--trainer.logger=CSVLogger", "--trainer.logger.save_dir=."]
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        main(["fit", *ARGUMENTS, *options, "--trainer.callbacks=[{class_path: tiny.Broken, init_args: {epoch: 1}}]"])
    cli = main(["fit", *ARGUMENTS, *options, "--trainer.callbacks=[tiny.Samples]"])
    (samples,) = (each for each in cli.trainer.callbacks if isinstance(each, Samples))
    assert len(samples.batches) == 3  # of the second epoch
    main(["validate", "--run=run", "--trainer.logger=false"])


def test_a_checkpoint_callback_without_options_writes_into_the_folder_of_the_run(camvid):
    cli = main([*FIT, "--trainer.callbacks+=tiny.Kept"], run=False)
    folders = {Path(each.dirpath) for each in cli.trainer.checkpoint_callbacks}
    assert folders == {Path(cli.trainer.default_root_dir, "checkpoints").absolute()}


def test_a_data_module_needs_no_options(camvid):
    options = [each for each in FIT if not each.startswith("--data")]
    main(["fit", *options, "--data=tiny.Fixed", "--trainer.max_epochs=1", "--output=run"])
    main(["test", "--run=run"])


def test_the_best_checkpoint_is_found_among_those_of_other_scores(first):
    (best,) = (first / "checkpoints").glob("epoch*.ckpt")
    other = Path(shutil.copy(best, first / "checkpoints" / "step=6.ckpt"))
    for newest in (other, first / "checkpoints" / "last.ckpt"):
        os.utime(newest)
        assert chosen_checkpoint(RunFolder(first)) == best
    assert [label_of(RunFolder(first), path) for path in (best, other)] == ["best", "step=6"]


def test_a_checkpoint_in_a_folder_that_its_name_makes_belongs_to_the_run(first):
    (best,) = (first / "checkpoints").glob("epoch*.ckpt")
    path = first / "checkpoints" / "epoch=1-val" / "mIoU=0.4.ckpt"
    path.parent.mkdir()
    best.rename(path)
    assert chosen_checkpoint(RunFolder(first)) == path
    assert RunFolder.of_checkpoint(path).path == first.absolute()


def test_a_training_has_a_seed(camvid):
    with pytest.raises(ValueError, match=r"expected seed_everything to be a number, .* got false"):
        fit("--seed_everything=false")


def test_fit_does_not_ignore_the_option_run(first):
    with pytest.raises(ValueError, match=r"expected --run on the command line of validate, .*, got it with fit"):
        fit("--run=first")


def test_an_end_before_the_checkpoint_is_refused(first):
    (first / "summary.json").unlink()
    options = ["--ckpt_path=first/checkpoints/last.ckpt", "--trainer.max_epochs=1"]
    before = experiment(first)
    with pytest.raises(ValueError, match="expected max_epochs to be 2 or more, as in the checkpoint, got 1"):
        fit(*options)
    assert experiment(first) == before


@pytest.mark.parametrize("options", [["--output=first"], ["--ckpt_path=first/checkpoints/last.ckpt"]])
def test_a_run_with_nothing_left_to_train_repeats_its_last_validation(first, options, monkeypatch):
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    other = torch.load(first / "checkpoints" / "last.ckpt", weights_only=True)
    other["state_dict"]["network.out.bias"][0] = 1000  # of a job that was requeued before
    torch.save(other, first / "hpc_ckpt_1.ckpt")
    os.utime(first / "hpc_ckpt_1.ckpt", (0, 0))
    before, metrics = RunFolder(first).summary(), (first / "metrics.csv").read_text()
    if options == ["--output=first"]:  # killed before it could report
        (first / "summary.json").unlink()
        shutil.rmtree(first / "tables")
    fit(*options)
    after = RunFolder(first).summary()
    assert after["scores"] == pytest.approx(before["scores"])
    assert (after["epochs"], after["steps"], after["best"]) == (2, 6, before["best"])
    assert after["costs"].keys() == before["costs"].keys()
    assert (first / "tables" / "val-counts.npz").is_file()
    assert (first / "metrics.csv").read_text() == metrics


class TestInitialWeights:
    """A run that continues has the initial weights of its network in its checkpoint."""

    BROKEN = (
        "--output=run",
        "--trainer.max_epochs=4",
        "--trainer.callbacks+=tiny.Broken",
        "--trainer.callbacks.epoch=2",
    )
    AGAIN = ("--output=run", "--trainer.max_epochs=4")

    @pytest.fixture
    def start(self, first):
        """A file of weights."""
        return (first / "checkpoints" / "last.ckpt").rename("start.ckpt")

    def broken(self, *options):
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit(*self.BROKEN, *options)

    def test_pretrained_weights_are_not_downloaded_again(self, camvid, monkeypatch):
        monkeypatch.setattr(
            "torchvision.models._api.load_state_dict_from_url", lambda *_, **__: mobilenet_v3_large().state_dict()
        )
        network = ["--model.network=LRASPP", "--model.network.weights_backbone=IMAGENET1K_V2"]
        self.broken(*network)
        before = experiment("run")
        monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", None)
        fit(*self.AGAIN, *network)
        assert RunFolder("run").is_finished
        assert experiment("run") == before
        assert before["parts"]["network"]["values"]["init_args"]["weights_backbone"] == "IMAGENET1K_V2"
        with pytest.raises(ValueError, match=r"weights_backbone is its default instead of IMAGENET1K_V2"):
            fit(*self.AGAIN, network[0])

    @pytest.mark.parametrize("is_there", [True, False])
    def test_the_file_of_weights_may_be_deleted(self, start, is_there):
        self.broken(f"--model.weights={start}")
        before = experiment("run")
        if not is_there:
            start.unlink()
        fit(*self.AGAIN, f"--model.weights={start}")
        assert RunFolder("run").is_finished
        fit(*self.AGAIN, f"--model.weights={start}")
        assert experiment("run") == before

    def test_a_file_with_other_weights_is_refused(self, start):
        self.broken(f"--model.weights={start}")
        shutil.copy("run/checkpoints/last.ckpt", start)
        with pytest.raises(ValueError, match=r"got another: network\.weights is \w+ instead of \w+"):
            fit(*self.AGAIN, f"--model.weights={start}")

    def test_a_folder_that_describes_the_network_is_compared_by_content_while_it_exists(self, camvid, monkeypatch):
        Path("described").mkdir()
        Path("described/aux").write_text("true")
        network = "--model.network=tiny.Described"
        self.broken(network, "--model.network.folder=described")
        before, config = experiment("run"), yaml.safe_load(Path("run/config.yaml").read_text())
        Path("described").rename("moved")
        (Path("moved") / "another file").write_text("")
        with pytest.raises(ValueError, match=r"got another: network\.init_args\.folder is \w+ instead of \w+"):
            fit(*self.AGAIN, network, f"--model.network.folder={Path('moved').absolute()}")
        assert config["model"]["network"]["init_args"]["folder"] == str(Path("described").absolute())
        Path("elsewhere").mkdir()
        monkeypatch.chdir("elsewhere")
        callbacks = "--trainer.callbacks=ModelCheckpoint"
        main(["fit", "--config=../run/config.yaml", "--output=../run", callbacks])
        assert RunFolder("../run").is_finished
        assert experiment("../run") == before
        main(["validate", "--run=../run"])


def test_paths_of_checkpoints_and_weights_are_expanded(first, monkeypatch):
    monkeypatch.setenv("HOME", str(Path().absolute()))
    fit("--model.weights=~/first/checkpoints/last.ckpt", "--output=second", "--trainer.max_epochs=1")
    main(["validate", *FIT, "--ckpt_path=~/first/checkpoints/last.ckpt"])
    assert len(list(Path("first/evaluations").iterdir())) == 1


def test_a_run_that_max_time_stopped_is_continued(camvid):
    timed = ["--output=timed", "--trainer.max_epochs=3"]
    fit(*timed, "--trainer.max_time=00:00:00:00")
    assert not RunFolder("timed").is_finished
    fit(*timed, "--trainer.max_time=00:01:00:00")
    assert RunFolder("timed").summary()["epochs"] == 3


class TestRunOption:
    @pytest.fixture(autouse=True)
    def trained(self, first):
        return first.rename("trained")

    @pytest.mark.parametrize("command", ["validate", "test"])
    def test_an_evaluation_lies_in_the_folder_of_the_run(self, command):
        main([command, "--run", "trained"])
        (folder,) = Path("trained/evaluations").iterdir()
        assert folder.name.startswith({"validate": "val", "test": "test"}[command] + "-best-")
        assert (folder / "tables").is_dir()
        assert not Path("runs").exists()

    def test_a_run_without_a_last_checkpoint_is_evaluated_by_its_best(self):
        Path("trained/checkpoints/last.ckpt").unlink()
        main(["validate", "--run", "trained"])
        (folder,) = Path("trained/evaluations").iterdir()
        assert folder.name.startswith("val-best-")

    def test_other_inference_and_other_data_have_another_folder(self):
        main(["validate", "--run", "trained"])
        main(["validate", "--run=trained", "--model.inference=Inference", "--model.inference.flip=true"])
        main(["validate", "--run", "trained", "--ckpt_path", "last"])
        main(["validate", "--run", "trained", "--data.image_size=[24,32]"])
        Path("camvid").rename("moved")  # the same data
        main(["validate", "--run", "trained", "--data.root=moved"])
        assert len(list(Path("trained/evaluations").iterdir())) == 4

    @pytest.mark.parametrize(
        ("command", "options"),
        [
            ("validate", ["--trainer.callbacks=EvaluationReport"]),
            ("predict", ["--trainer.callbacks=PredictionWriter", "--overwrite=true"]),
        ],
    )
    def test_only_missing_callbacks_of_the_user_give_a_warning(self, command, options, recwarn):
        def missed():
            said = [str(each.message) for each in recwarn if "callbacks used to create" in str(each.message)]
            recwarn.clear()
            return said

        main([command, "--run", "trained"])
        assert missed() == []
        main([command, "--run", "trained", *options])
        (said,) = missed()
        assert "BestCheckpoint" in said
        assert "Costs" not in said
        assert "MetricsFile" not in said

    def test_predictions_lie_in_the_folder_of_the_run(self):
        main(["predict", "--run", "trained"])
        assert {path.name for path in Path("trained/predictions/labels").iterdir()} == {"test_000.png", "test_001.png"}

    def test_a_run_with_a_relative_root_is_evaluated_from_any_folder(self, tmp_path, monkeypatch):
        assert "--data.root=camvid" in FIT
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        main(["validate", "--run", "../trained"])
        assert len(list((tmp_path / "trained" / "evaluations").iterdir())) == 1

    def test_a_run_is_continued_by_its_configuration_from_any_folder(self, tmp_path, monkeypatch):
        key = experiment("trained")["key"]
        Path("trained/summary.json").unlink()
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        main(["fit", "--config", "../trained/config.yaml", "--output", "../trained"])
        assert experiment("../trained")["key"] == key
        assert Path("../trained/summary.json").is_file()

    def test_the_evaluation_of_a_run_that_cannot_be_written_to_lies_beside(self, monkeypatch):
        access, own = os.access, Path("trained").absolute()
        monkeypatch.setattr("os.access", lambda path, mode: access(path, mode) and (mode, path) != (os.W_OK, own))
        main(["validate", "--run=trained"])
        assert not Path("trained/evaluations").exists()
        assert len(list(Path("runs").glob("validate-*/tables"))) == 1

    def test_another_folder_is_refused(self):
        with pytest.raises(FileNotFoundError, match=r"expected the folder of a run, with its config\.yaml, got camvid"):
            main(["validate", "--run", "camvid"])
