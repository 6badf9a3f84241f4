"""The observer of MLflow sends exactly what a run logs; MLflow's client is replaced by one in memory."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from ssl_zoo.errors import UserError
from ssl_zoo.runs.run import Run
from ssl_zoo_observers import mlflow
from ssl_zoo_observers.scores import named_scores
from tests.conftest import small_config

RESULTS = {
    "task": "simclr",
    "steps": 3,
    "device": "cpu",
    "scores": {"simclr": {"knn": 91.25}, "pixels": {"knn": 97.0}},
}


class Metric(NamedTuple):
    """MLflow's entity."""

    key: str
    value: float
    timestamp: int
    step: int


class Param(NamedTuple):
    """MLflow's entity."""

    key: str
    value: str


class Client:
    """MLflow's client, with a server in memory, in as far as the observer calls it."""

    experiments: dict[str, str]
    runs: dict[str, Any]

    def get_experiment_by_name(self, name: str) -> Any:
        number = self.experiments.get(name)
        return None if number is None else SimpleNamespace(experiment_id=number)

    def create_experiment(self, name: str) -> str:
        self.experiments[name] = str(len(self.experiments))
        return self.experiments[name]

    def create_run(self, experiment: str, tags: dict[str, str], run_name: str) -> Any:
        info = SimpleNamespace(run_id=f"run {len(self.runs)}", run_name=run_name, status="RUNNING")
        run = SimpleNamespace(info=info, tags=tags, params={}, metrics=defaultdict(list))
        self.runs[info.run_id] = run
        return run

    def search_runs(self, experiments: list[str], condition: str, max_results: int) -> list[Any]:
        name, value = condition.removeprefix("tags.`").removesuffix("'").split("` = '")
        return [run for run in self.runs.values() if run.tags.get(name) == value][:max_results]

    def get_metric_history(self, run: str, key: str) -> list[Metric]:
        found: list[Metric] = self.runs[run].metrics[key]
        return found

    def log_batch(self, run: str, metrics: Any = (), params: Any = ()) -> None:
        assert len(params) <= 100
        for metric in metrics:
            self.runs[run].metrics[metric.key].append(metric)
        self.runs[run].params |= dict(params)

    def set_terminated(self, run: str, status: str) -> None:
        self.runs[run].info.status = status


@pytest.fixture(name="server")
def server_in_memory(monkeypatch: pytest.MonkeyPatch) -> type[Client]:
    client = type("Server", (Client,), {"experiments": {}, "runs": {}})
    entities = SimpleNamespace(Metric=Metric, Param=Param)
    exceptions = SimpleNamespace(MlflowException=type("MlflowException", (Exception,), {}))
    module = SimpleNamespace(MlflowClient=client, entities=entities, exceptions=exceptions)
    for name, part in (("", module), (".entities", entities), (".exceptions", exceptions)):
        monkeypatch.setitem(sys.modules, f"mlflow{name}", part)
    return client


def line(step: int) -> dict[str, float]:
    return {"step": step, "epoch": step / 2, "loss": 1 / step}


def test_what_is_sent_is_what_was_logged_and_a_resumed_run_sends_what_is_missing(
    tmp_path: Path, server: type[Client]
) -> None:
    run = Run.create(tmp_path / "of-mine", small_config("simclr"))
    mlflow.ssl_zoo_run_started(run)
    for step in (1, 2):
        mlflow.ssl_zoo_step_logged(run, line(step))
    mlflow.ssl_zoo_step_logged(run, {"step": 2, "knn": 50.0})
    mlflow.ssl_zoo_run_stopped(run)
    (sent,) = server.runs.values()
    assert (sent.info.run_name, sent.info.status) == ("of-mine", "FAILED")
    assert sent.params["train.batch_size"] == "128"
    assert not any(name.startswith("provenance") for name in sent.params)

    run.metrics_file.write_text('{"step": 1, "epoch": 0.5, "loss": 1}\n')  # cut back to its checkpoint
    mlflow.ssl_zoo_run_started(run)
    assert sent.info.status == "RUNNING"
    for step in (2, 3):
        mlflow.ssl_zoo_step_logged(run, line(step))
    mlflow.ssl_zoo_run_ended(run, RESULTS)
    assert list(server.runs.values()) == [sent]
    values = {key: [(m.step, m.value) for m in metrics] for key, metrics in sent.metrics.items()}
    assert values["loss"] == [(1, 1), (2, 1 / 2), (3, 1 / 3)]
    assert values["knn"] == [(2, 50.0)]
    scores = {**named_scores(RESULTS), "steps": 3}
    assert values.keys() == {"epoch", "loss", "knn", *scores}
    assert all(values[name] == [(3, value)] for name, value in scores.items())
    assert sent.info.status == "FINISHED"


def test_runs_of_one_experiment_are_apart(tmp_path: Path, server: type[Client]) -> None:
    for name in ("one", "two"):
        mlflow.ssl_zoo_run_started(Run.create(tmp_path / name, small_config("simclr")))
    assert list(server.experiments) == ["ssl-zoo"]
    assert [run.info.run_name for run in server.runs.values()] == ["one", "two"]
    for name in ("one", "two"):
        mlflow.ssl_zoo_run_stopped(Run(tmp_path / name))


def test_a_run_that_cannot_be_sent_is_refused_in_a_line(
    tmp_path: Path, server: type[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(tmp_path / "run", small_config("simclr"))

    def fail(*_: Any) -> None:
        raise sys.modules["mlflow"].exceptions.MlflowException("no answer\nfrom it")

    monkeypatch.setattr(server, "get_experiment_by_name", fail)
    with pytest.raises(UserError, match=r"^--observe mlflow: no answer; see MLFLOW_TRACKING_URI$"):
        mlflow.ssl_zoo_run_started(run)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UserError, match=r"needs the extra: pip install 'ssl-zoo\[mlflow\]'"):
        mlflow.ssl_zoo_run_started(run)
