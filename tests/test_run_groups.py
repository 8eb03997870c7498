"""Groups, names and connections of runs in Weights & Biases."""

import re
import socket
import threading
from pathlib import Path

import pytest
from commands import ARGUMENTS, experiment, fails

from cpg_lightning.cli import main
from cpg_lightning.runs import wandb_settings


class TestGroups:
    def test_runs_of_one_experiment_have_one_key_and_one_group(self, camvid):
        groups = set()
        for number, options in enumerate(
            (["--seed_everything=1"], ["--seed_everything=2"], ["--model.aux_weight=0.3"])
        ):
            cli = main(["fit", *ARGUMENTS, "--trainer.max_epochs=1", f"--output=run{number}", *options])
            groups.add(cli.trainer.logger.experiment.group)
        assert groups == {f"camvid-tiny-ce+cpg-{experiment(f'run{number}')['key']}" for number in (0, 2)}
        assert experiment("run0")["key"] == experiment("run1")["key"]

    def test_an_evaluation_is_in_the_group_of_its_training_and_names_it(self, camvid):
        main(["fit", *ARGUMENTS, "--trainer.max_epochs=1", "--output=run"])
        (training,) = Path("run/wandb").glob("offline-run-*")
        for command in ("validate", "test"):
            logged = main([command, "--run=run"]).trainer.logger.experiment
            assert logged.job_type == command
            assert logged.group == f"camvid-tiny-ce+cpg-{experiment('run')['key']}"
            assert logged.config["training"] == experiment("run")["id"] != logged.id
        assert training.name.endswith(experiment("run")["id"])

    def test_predictions_are_not_logged_as_a_run(self, camvid):
        main(["fit", *ARGUMENTS, "--trainer.max_epochs=1", "--output=run"])
        before = sorted(Path().rglob("offline-run-*"))
        main(["predict", "--run=run"])
        assert sorted(Path().rglob("offline-run-*")) == before

    def test_a_key_without_a_connection_is_one_line(self, camvid, monkeypatch, capsys):
        monkeypatch.setattr(wandb_settings, "has_api_key", lambda: True)
        monkeypatch.setattr(wandb_settings, "answers", lambda server: False)
        main(["fit", *ARGUMENTS, "--trainer.max_epochs=1", "--output=run"])
        assert re.search(
            r"^W&B: no connection to https://\S+, logging offline to .*/run/wandb",
            capsys.readouterr().out,
            re.MULTILINE,
        )

    @pytest.mark.parametrize("option", ["--trainer.logger.offline=true", "--trainer.logger.mode=disabled"])
    def test_a_run_that_logs_offline_needs_no_key(self, camvid, monkeypatch, option):
        monkeypatch.setattr(wandb_settings, "has_api_key", pytest.fail)
        monkeypatch.setattr(wandb_settings, "answers", pytest.fail)
        main(["fit", *ARGUMENTS, "--trainer.max_epochs=1", "--output=run", option])

    def test_an_invalid_key_is_one_error(self, camvid, monkeypatch, capsys):
        monkeypatch.setenv("WANDB_API_KEY", "short")
        shown = fails(monkeypatch, capsys, "fit", *ARGUMENTS)
        assert shown.startswith("cpg: expected a valid API key of Weights & Biases, or none, got another: ")
        assert "WANDB_API_KEY" in shown
        assert len(shown.splitlines()) == 2  # and how to see where
        assert not Path("runs").exists()


class TestConnection:
    @pytest.fixture
    def server(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield server

    def test_a_server_that_refuses_a_request_is_a_connection(self, server):
        def refuse():
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        assert wandb_settings.answers(f"http://127.0.0.1:{server.getsockname()[1]}")
        thread.join()

    def test_a_silent_server_is_no_connection(self, server, monkeypatch):
        monkeypatch.setattr(wandb_settings, "SECONDS", 0.1)
        assert not wandb_settings.answers(f"http://127.0.0.1:{server.getsockname()[1]}")

    def test_a_server_that_does_not_exist_is_no_connection(self, server):
        port = server.getsockname()[1]
        server.close()
        assert not wandb_settings.answers(f"http://127.0.0.1:{port}")
