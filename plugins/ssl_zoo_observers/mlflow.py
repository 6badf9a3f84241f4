"""The observer that reports a run to MLflow: ``ssl-zoo train --observe mlflow``.

It sends the logged lines as metrics under their own names, the configuration without its provenance
as parameters, and at the end the scores and other numbers of the results. It sends nothing else: no
code, no command line, no files, no name of the user or the host.

MLflow's environment variables apply: ``MLFLOW_TRACKING_URI`` (default: MLflow's own, on this machine)
and ``MLFLOW_EXPERIMENT_NAME`` (default ssl-zoo).

A resumed run continues the same run in MLflow, and sends only the steps that are missing there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_zoo import UserError, hookimpl
from ssl_zoo.text import error_line
from ssl_zoo_observers.scores import named_scores, run_identifier

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from ssl_zoo.runs.run import Run

on_request = True

TAG = "ssl_zoo.run"
"""The tag by which a resumed run finds itself."""
MAX_PARAMETERS = 100
"""The number of parameters that MLflow takes in a call."""
MAX_VALUE = 500
"""The number of characters of a parameter that every version of MLflow takes."""


@dataclass
class Sent:
    """A run in MLflow.

    Attributes:
        client: the client.
        number: the identifier of the run there.
        step: the last step that MLflow has; 0 for none.
    """

    client: MlflowClient
    number: str
    step: int = 0

    def log(self, line: Mapping[str, float], step: int) -> None:
        """Send the values of a line, unless MLflow has its step from before the run was resumed."""
        from mlflow.entities import Metric

        if step > self.step:
            now = int(1000 * time.time())
            metrics = [Metric(name, float(v), now, step) for name, v in line.items() if name != "step"]
            self.client.log_batch(self.number, metrics=metrics)


_runs: dict[Path, Sent] = {}
"""The active runs of this process, by run directory."""


@hookimpl
def ssl_zoo_run_started(run: Run) -> None:
    """Begin or resume the run in MLflow, and send the lines logged so far.

    Raises:
        UserError: MLflow is not installed, or its server cannot be reached.
    """
    try:
        import mlflow
    except ImportError as error:
        raise UserError("--observe mlflow needs the extra: pip install 'ssl-zoo[mlflow]'") from error
    try:
        _runs[run.path] = sent = _begin(run, mlflow.MlflowClient())
        for line in run.metrics():
            sent.log(line, int(line["step"]))
    except mlflow.exceptions.MlflowException as error:
        raise UserError(f"--observe mlflow: {error_line(error)}; see MLFLOW_TRACKING_URI") from error


@hookimpl
def ssl_zoo_step_logged(run: Run, metrics: Mapping[str, float]) -> None:
    """Send a line."""
    if sent := _runs.get(run.path):
        sent.log(metrics, int(metrics["step"]))


@hookimpl
def ssl_zoo_run_ended(run: Run, results: Mapping[str, Any]) -> None:
    """Send the results, and end the run."""
    if sent := _runs.pop(run.path, None):
        numbers = {name: value for name, value in results.items() if isinstance(value, int | float)}
        sent.step = 0  # the scores of the last step are new
        sent.log({**numbers, **named_scores(results)}, max(1, results["steps"]))
        sent.client.set_terminated(sent.number, "FINISHED")


@hookimpl
def ssl_zoo_run_stopped(run: Run) -> None:
    """Mark the run as failed; it may be resumed later."""
    if sent := _runs.pop(run.path, None):
        sent.client.set_terminated(sent.number, "FAILED")


def _begin(run: Run, client: MlflowClient) -> Sent:
    """Return the run in MLflow, a new one unless it has this run already."""
    from mlflow.entities import Param

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "ssl-zoo")
    experiment = client.get_experiment_by_name(name)
    number = client.create_experiment(name) if experiment is None else experiment.experiment_id
    identifier = run_identifier(run)
    known = client.search_runs([number], f"tags.`{TAG}` = '{identifier}'", max_results=1)
    if known:
        found = known[0].info.run_id
        client.set_terminated(found, "RUNNING")
        steps = [metric.step for metric in client.get_metric_history(found, "epoch")]
        return Sent(client, found, max(steps, default=0))
    created = client.create_run(number, tags={TAG: identifier}, run_name=run.path.resolve().name)
    sections = run.config().model_dump(mode="json", exclude={"provenance"})
    values = [Param(path, str(value)[:MAX_VALUE]) for path, value in _flat(sections)]
    for first in range(0, len(values), MAX_PARAMETERS):
        client.log_batch(created.info.run_id, params=values[first : first + MAX_PARAMETERS])
    return Sent(client, created.info.run_id)


def _flat(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each setting by its dotted path."""
    for section, values in settings.items():
        for name, value in values.items():
            yield f"{section}.{name}", value
