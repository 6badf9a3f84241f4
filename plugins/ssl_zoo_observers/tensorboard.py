"""The observer that plots a run in TensorBoard: ``ssl-zoo train --observe tensorboard``.

It writes into the folder ``tensorboard`` of the run; ``tensorboard --logdir runs`` shows all runs. It
plots every value of each logged line under the line's own names, with the epoch, samples, seconds and
progress under ``position/``. At the start it adds the configuration as text; at the end the scores,
such as ``score/knn``, and a table of them.

Each line is written before the run continues, so every logged line is plotted however the run ends. A
resumed run discards the points after its checkpoint and plots them again, so that no step appears
twice. If the run was not observed before, it is plotted from its first line.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

from ssl_zoo import UserError, hookimpl
from ssl_zoo_observers.scores import named_scores

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from ssl_zoo.runs.run import Run

on_request = True

_POSITION = ("epoch", "samples", "seconds", "progress")
_writers: dict[Path, SummaryWriter] = {}
"""The writers of the active runs of this process, by run directory."""


@hookimpl
def ssl_zoo_run_started(run: Run, step: int) -> None:
    """Open the run's event file, and plot the lines that it lacks.

    Raises:
        UserError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "--observe tensorboard needs the extra: pip install 'ssl-zoo[tensorboard]'"
        ) from error
    folder = run.path / "tensorboard"
    first = step if any(folder.glob("events.out.tfevents.*")) else 0
    # TensorBoard ignores the points of earlier files from this step on.
    _writers[run.path] = writer = SummaryWriter(str(folder), purge_step=first)
    if first == 0:
        writer.add_text("config", indent(run.config_file.read_text(), "    "), 0)
    for line in run.metrics():
        if line["step"] >= first:
            _plot(writer, line)
    writer.flush()


@hookimpl
def ssl_zoo_step_logged(run: Run, metrics: Mapping[str, float]) -> None:
    """Plot a line."""
    if writer := _writers.get(run.path):
        _plot(writer, metrics)
        writer.flush()  # the run may be killed at any time


@hookimpl
def ssl_zoo_run_ended(run: Run, results: Mapping[str, Any]) -> None:
    """Plot the scores, and close the event file."""
    if writer := _writers.pop(run.path, None):
        for name, value in named_scores(results).items():
            writer.add_scalar(name, value, results["steps"])
        writer.add_text("scores", _table(results["scores"]), results["steps"])
        writer.close()


@hookimpl
def ssl_zoo_run_stopped(run: Run) -> None:
    """Close the event file; the run may be resumed later."""
    if writer := _writers.pop(run.path, None):
        writer.close()


def _plot(writer: SummaryWriter, line: Mapping[str, float]) -> None:
    for name, value in line.items():
        if name != "step":
            writer.add_scalar(
                f"position/{name}" if name in _POSITION else name, value, int(line["step"])
            )


def _table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Return the scores as a Markdown table."""
    metrics = list(dict.fromkeys(metric for row in scores.values() for metric in row))
    rows = [["", *metrics], ["---"] * (1 + len(metrics))]
    rows += [[name, *(f"{r[m]:.4g}" if m in r else "" for m in metrics)] for name, r in scores.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
