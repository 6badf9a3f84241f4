"""The observer of MLflow sends exactly what a run logs, to a store of MLflow's own in a folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ssl_zoo.errors import UserError
from ssl_zoo.runs.run import Run
from ssl_zoo_observers import mlflow
from ssl_zoo_observers.scores import named_scores
from tests.conftest import small_config

if TYPE_CHECKING:
    from mlflow import MlflowClient

RESULTS = {
    "task": "simclr",
    "steps": 3,
    "device": "cpu",
    "scores": {"simclr": {"knn": 91.25}, "pixels": {"knn": 97.0}},
}


@pytest.fixture(name="client")
def client_of_a_store_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    real = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client: MlflowClient = real.MlflowClient()
    return client


def runs_of(client: MlflowClient) -> list[Any]:
    experiment = client.get_experiment_by_name("ssl-zoo")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"]))


def line(step: int) -> dict[str, float]:
    return {"step": step, "epoch": step / 2, "loss": 1 / step}


def test_what_is_sent_is_what_was_logged_and_a_resumed_run_sends_what_is_missing(
    tmp_path: Path, client: MlflowClient
) -> None:
    run = Run.create(tmp_path / "of-mine", small_config("simclr"))
    mlflow.ssl_zoo_run_started(run)
    for step in (1, 2):
        mlflow.ssl_zoo_step_logged(run, line(step))
    mlflow.ssl_zoo_step_logged(run, {"step": 2, "knn": 50.0})
    mlflow.ssl_zoo_run_stopped(run)
    (sent,) = runs_of(client)
    assert (sent.info.run_name, sent.info.status) == ("of-mine", "FAILED")
    assert sent.data.params["train.batch_size"] == "128"
    assert not any(name.startswith("provenance") for name in sent.data.params)

    run.metrics_file.write_text('{"step": 1, "epoch": 0.5, "loss": 1}\n')  # cut back to its checkpoint
    mlflow.ssl_zoo_run_started(run)
    assert client.get_run(sent.info.run_id).info.status == "RUNNING"
    for step in (2, 3):
        mlflow.ssl_zoo_step_logged(run, line(step))
    mlflow.ssl_zoo_run_ended(run, RESULTS)
    (ended,) = runs_of(client)
    assert (ended.info.run_id, ended.info.status) == (sent.info.run_id, "FINISHED")

    def history(key: str) -> list[tuple[int, float]]:
        return [(m.step, m.value) for m in client.get_metric_history(ended.info.run_id, key)]

    assert history("loss") == [(1, 1), (2, 1 / 2), (3, 1 / 3)]
    assert history("knn") == [(2, 50.0)]
    scores = {**named_scores(RESULTS), "steps": 3}
    assert ended.data.metrics.keys() == {"epoch", "loss", "knn", *scores}
    assert all(history(name) == [(3, value)] for name, value in scores.items())


def test_runs_of_one_experiment_are_apart(tmp_path: Path, client: MlflowClient) -> None:
    for name in ("one", "two"):
        mlflow.ssl_zoo_run_started(Run.create(tmp_path / name, small_config("simclr")))
    assert [run.info.run_name for run in runs_of(client)] == ["one", "two"]
    for name in ("one", "two"):
        mlflow.ssl_zoo_run_stopped(Run(tmp_path / name))


@pytest.mark.usefixtures("client")
def test_a_run_that_cannot_be_sent_is_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(tmp_path / "run", small_config("simclr"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://of-mine")
    with pytest.raises(UserError, match=r"^--observe mlflow: .*nowhere.*; see MLFLOW_TRACKING_URI$"):
        mlflow.ssl_zoo_run_started(run)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UserError, match=r"needs the extra: pip install 'ssl-zoo\[mlflow\]'"):
        mlflow.ssl_zoo_run_started(run)
