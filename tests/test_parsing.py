"""What the command says of mistakes: the mistake alone, what may have been meant, and nothing is called before."""

import typing
from pathlib import Path

import pytest
import wandb
from commands import ARGUMENTS, BASE, PARTS, fails
from PIL import Image

from cpg_lightning.cli import main

QUIET = [*ARGUMENTS, "--trainer.logger=false", "--trainer.max_epochs=1"]


class TestCallables:
    @pytest.mark.parametrize("function", ["os.system", "subprocess.call", "builtins.print", "shutil.rmtree"])
    @pytest.mark.parametrize(
        "section",
        ["model: {{optimizer: {0}}}", "model: {{network: {{class_path: Adapter, init_args: {{network: {0}}}}}}}"],
    )
    def test_a_function_in_place_of_a_class_is_not_called(self, camvid, monkeypatch, capsys, function, section):
        argument = "path" if function == "shutil.rmtree" else "command"
        given = f"{{class_path: {function}, init_args: {{{argument}: touch ran}}}}"
        Path("config.yaml").write_text(section.format(given))
        shown = fails(monkeypatch, capsys, "fit", *QUIET, "--config", "config.yaml")
        assert function in shown
        assert sorted(path.name for path in Path().iterdir()) == ["camvid", "config.yaml"]

    def test_a_class_that_is_not_an_optimizer_is_refused(self, camvid, monkeypatch, capsys):
        for class_path in ("subprocess.Popen", "torch.nn.Conv2d", "torch.optim.lr_scheduler.StepLR"):
            shown = fails(monkeypatch, capsys, "fit", *QUIET, f"--model.optimizer={{class_path: {class_path}}}")
            assert class_path in shown

    def test_a_function_with_an_annotated_return_type_is_accepted(self, camvid):
        network = ["--model.network=Adapter", "--model.network.network=tiny.pointwise"]
        cli = main([*QUIET, *network, "--model.network.network.classes=11"], run=False)
        assert cli.model.network.network.out_channels == 11


class TestMessages:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--model.network=LRAASPP"], "got LRAASPP; did you mean LRASPP?"),
            (["--data=CamVidDatamodule"], "got CamVidDatamodule; did you mean CamVidDataModule?"),
            (["--model.criterion=CrosEntropyCPGLoss"], "did you mean CrossEntropyCPGLoss?"),
            (["--model.optimizer=AdmW"], "did you mean AdamW?"),
            (["--trainer.callbacks+=EarlyStoping"], "did you mean EarlyStopping?"),
            (["--trainer.logger=WandLogger"], "did you mean WandbLogger?"),
            (["--model.inference=Inferense"], "did you mean Inference?"),
            (["--model.criterion.cpg_wieght=1"], "'cpg_wieght' is not accepted; did you mean cpg_weight?"),
            (["--data.batch_sise=1"], "did you mean batch_size?"),
            (["--trainer.max_epoks=1"], "did you mean trainer.max_epochs?"),
        ],
    )
    def test_a_mistyped_name_is_followed_by_a_similar_name(self, camvid, monkeypatch, capsys, options, message):
        assert message in fails(monkeypatch, capsys, "fit", *QUIET, *options)

    def test_an_unknown_command_is_answered_with_all_commands(self, monkeypatch, capsys):
        shown = fails(monkeypatch, capsys, "reprot")
        assert "one of the commands fit, validate, test, predict, check-data, init, study, report; got reprot" in shown
        assert "did you mean report?" in shown

    def test_a_name_without_a_similar_one_has_no_suggestion(self, camvid, monkeypatch, capsys):
        shown = fails(monkeypatch, capsys, "fit", *QUIET, "--model.network=Zyx")
        assert "got Zyx" in shown
        assert "did you mean" not in shown

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                ["--data.augmentation.scale=[2,1]"],
                "expected scale to be two positive numbers, the smaller one first, got (2.0, 1.0)",
            ),
            (["--data.batch_size=0"], "expected batch_size to be 1 or more, a whole number, got 0"),
            (
                ["--data.augmentation.crop_size=[0,3]"],
                "expected crop_size to be a height and a width of 1 or more pixels, got (0, 3)",
            ),
            (["--model.aux_weight=-1"], "expected aux_weight to be 0 or more and finite, got -1.0"),
            (
                ["--model.criterion.kernel_size=4"],
                "expected kernel_size to be an odd number of pixels from 3 to 15, got 4",
            ),
            (["--model.inference=Inference", "--model.inference.scales=[0]"], "expected scales to be positive"),
            (
                ["--trainer.callbacks+=EvaluationReport", "--trainer.callbacks.num_images=0"],
                "expected num_images to be 1",
            ),
            (
                ["--model.network=HRNetOCR", "--model.network.width=5"],
                "expected a width of 18, 32 or 48 channels, got 5",
            ),
            (["--data.root=nowhere"], "expected the folder nowhere/train, got"),
        ],
    )
    def test_only_the_error_of_a_constructor_is_printed(self, camvid, monkeypatch, capsys, options, message):
        shown = fails(monkeypatch, capsys, "fit", *QUIET, *options)
        assert shown.startswith(f"cpg: {message}")
        for noise in ("Union", "Namespace", "does not validate", "Subtypes", "Traceback"):
            assert noise not in shown

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (
                "data: {init_args: {augmentation: {scale: [2, 1]}}}",
                "expected scale to be two positive numbers, the smaller one first",
            ),
            ("model: {inference: {class_path: Inference, init_args: {scales: [0]}}}", "expected scales to be positive"),
            (
                "trainer: {callbacks+: [{class_path: EvaluationReport, init_args: {num_images: 0}}]}",
                "expected num_images",
            ),
        ],
    )
    def test_only_the_error_of_a_constructor_is_printed_for_a_file(self, camvid, monkeypatch, capsys, text, message):
        Path("config.yaml").write_text(text)
        shown = fails(monkeypatch, capsys, "fit", *QUIET, "--config=config.yaml")
        assert shown.startswith(f"cpg: {message}")
        assert "Namespace" not in shown

    def test_an_invalid_class_file_is_one_error(self, monkeypatch, capsys):
        Path("own").mkdir()
        Path("own/classes.csv").write_text("value;name;color\n0;a;#000000\n")
        folder = ["--data=FolderDataModule", "--data.root=own", "--data.augmentation.crop_size=[8,8]"]
        shown = fails(monkeypatch, capsys, "fit", *BASE, *PARTS, *folder)
        assert shown.startswith("cpg: expected the first line to be value,name,color, got value;name;color")
        assert "Namespace" not in shown


class TestFiles:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("data:\n  batch_size: 2\n  batch_size: 4\n", "expected each key once, got 'batch_size' more than once"),
            ("model: {aux_weight: 1}\nmodel: {}\n", "expected each key once, got 'model' more than once"),
            (
                "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
                + "".join(
                    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
                    for old, new in zip("abcde", "bcdef", strict=True)
                ),
                "aliases that expand to more",
            ),
            ("a: &a [*a]\n", "aliases that expand to more"),
        ],
        ids=["option", "section", "bomb", "loop"],
    )
    def test_keys_given_twice_and_endless_aliases_are_refused(self, camvid, monkeypatch, capsys, text, message):
        Path("config.yaml").write_text(text)
        assert message in fails(monkeypatch, capsys, "fit", *QUIET, "--config=config.yaml")

    def test_an_alias_is_accepted(self, camvid):
        Path("config.yaml").write_text(
            "data:\n  init_args:\n    augmentation: {crop_size: &size [16, 24]}\n    image_size: *size\n"
        )
        cli = main([*QUIET, "--config=config.yaml"], run=False)
        assert cli.datamodule.crop_size == cli.datamodule.image_size == (16, 24)


class TestTrainer:
    @pytest.mark.parametrize(("given", "expected"), [("1", 1), ("1.0", 1.0), ("0.5", 0.5)])
    def test_one_batch_is_not_all_batches_whatever_was_parsed_before(self, camvid, given, expected):
        for clear in getattr(typing, "_cleanups", ()):
            clear()
        named_before = typing.Union[float, int, None]  # noqa: UP007
        assert typing.get_args(typing.Optional[named_before])[0] is float  # noqa: UP045
        found = main([*QUIET, f"--trainer.limit_val_batches={given}"], run=False).config.trainer.limit_val_batches
        assert (found, type(found)) == (expected, type(expected))

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ("accumulate_grad_batches=0", "expected trainer.accumulate_grad_batches to be 1 or more, got 0"),
            ("val_check_interval=0", "expected trainer.val_check_interval to be a number of batches or a share"),
            ("val_check_interval=.nan", "expected trainer.val_check_interval to be"),
            ("gradient_clip_val=-1", "expected trainer.gradient_clip_val to be 0 or more, got -1"),
            ("gradient_clip_val=.inf", "expected trainer.gradient_clip_val to be 0 or more, got inf"),
            ("check_val_every_n_epoch=0", "expected trainer.check_val_every_n_epoch to be 1 or more, got 0"),
            ("max_epochs=-2", "expected trainer.max_epochs to be -1 or more, got -2"),
            ("devices=x", "`devices` selected with `CPUAccelerator` should be an int > 0"),
            ("devices=0", "devices="),
            ("precision=7", "7"),
            ("limit_train_batches=-1", "limit_train_batches"),
        ],
    )
    def test_options_out_of_range_end_in_one_message(self, camvid, monkeypatch, capsys, option, message):
        shown = fails(monkeypatch, capsys, "fit", *QUIET, f"--trainer.{option}")
        assert message in shown
        assert "Traceback" not in shown
        assert not Path("runs").exists()

    def test_a_second_checkpoint_of_the_same_score_is_one_error(self, camvid, monkeypatch, capsys):
        second = ["--trainer.callbacks+=BestCheckpoint", "--trainer.callbacks.monitor=val/mIoU"]
        shown = fails(monkeypatch, capsys, "fit", *QUIET, *second, "--trainer.callbacks.mode=max")
        assert shown.startswith(
            "cpg: expected callbacks of one class to monitor different scores, got two with the same"
        )

    def test_a_second_checkpoint_of_another_score_works(self, camvid):
        second = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor=val/boundary_IoU"]
        other = ["--trainer.callbacks.mode=max", "--model.boundary_metrics_every=1"]
        cli = main(["fit", *QUIET, *second, *other])
        (best,) = (each for each in cli.trainer.checkpoint_callbacks if each.monitor == "val/boundary_IoU")
        assert best.best_model_score == cli.trainer.callback_metrics["val/boundary_IoU"]

    @pytest.mark.parametrize("callback", ["LearningRateFinder", "BatchSizeFinder"])
    def test_callbacks_that_do_not_fit_are_refused_by_name(self, camvid, monkeypatch, capsys, callback):
        shown = fails(monkeypatch, capsys, "fit", *QUIET, f"--trainer.callbacks+={callback}")
        assert shown.startswith(f"cpg: expected no {callback}")

    def test_a_callback_on_a_score_of_some_validations_is_refused_before_anything_is_written(
        self, camvid, monkeypatch, capsys
    ):
        stopping = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/boundary_IoU"]
        assert "set --model.boundary_metrics_every 1" in fails(monkeypatch, capsys, "fit", *QUIET, *stopping)
        assert not Path("runs").exists()

    @pytest.mark.parametrize(
        "options",
        [
            ["--trainer.callbacks+=Timer", "--trainer.callbacks.duration=00:00:05:00"],
            ["--trainer.callbacks+=EMAWeightAveraging"],
            pytest.param(
                ["--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.01"],
                marks=pytest.mark.slow,
            ),
            pytest.param(["--trainer.profiler=SimpleProfiler"], marks=pytest.mark.slow),
            ["--trainer.precision=bf16-mixed", "--trainer.gradient_clip_val=1", "--trainer.accumulate_grad_batches=2"],
            ["--trainer.fast_dev_run=true"],
            pytest.param(["--trainer.overfit_batches=2"], marks=pytest.mark.slow),
            pytest.param(
                ["--trainer.limit_train_batches=0.5", "--trainer.limit_val_batches=1"], marks=pytest.mark.slow
            ),
        ],
        ids=lambda options: options[0].rpartition(".")[2],
    )
    def test_lightnings_own_callbacks_and_options_work(self, camvid, options):
        cli = main(["fit", *QUIET, "--trainer.max_epochs=2", *options])
        assert cli.trainer.global_step > 0
        assert cli.trainer.callback_metrics["val/mIoU"].isfinite()

    def test_a_configuration_with_an_enumeration_is_printed(self, camvid, capsys):
        timer = ["--trainer.callbacks+=Timer", "--trainer.callbacks.duration=00:00:05:00"]
        with pytest.raises(SystemExit) as end:
            main(["fit", *QUIET, *timer, "--print_config"])
        assert end.value.code == 0
        assert "interval: step" in capsys.readouterr().out


class TestWeightsAndBiases:
    def test_a_run_that_the_caller_has_open_stays_open(self, camvid):
        mine = wandb.init(project="mine", mode="offline")
        main(["fit", *ARGUMENTS, "--trainer.max_epochs=1", "--trainer.logger=false"])
        assert wandb.run is mine
        mine.log({"still": 1})

    def test_a_run_of_the_command_is_finished(self, camvid):
        main(["fit", *ARGUMENTS, "--trainer.max_epochs=1"])
        assert wandb.run is None


def test_labels_of_several_sizes_in_a_batch_are_named(camvid, monkeypatch, capsys):
    for folder, mode in (("val", "RGB"), ("valannot", "L")):
        Image.new(mode, (20, 30)).save(camvid / folder / "val_001.png")
    sizes = ["--data.image_size=[24,32]", "--data.eval_batch_size=2"]
    shown = fails(monkeypatch, capsys, "validate", *QUIET, *sizes)
    assert "expected labels of one size in a batch, got [(30, 20), (36, 48)] (height, width)" in shown
