"""The observer that draws a run in TensorBoard: ``ssl-zoo train --observe tensorboard``.

It writes into the folder ``tensorboard`` of the run; ``tensorboard --logdir runs`` shows all runs.
At each step that is logged it draws every number of the line, by the line's own names; how far the run
has got (epoch, images, seconds, progress) stands under ``position/``. At the end come the scores,
``score/knn`` and so on, and a table of them; at the start the configuration, as text.

Each line is in the file before the run goes on, so whatever ends a run, what it logged is drawn. A run
that goes on from a checkpoint takes back what it drew from there on, and draws it again: no step is
drawn twice. One that was not observed until then is drawn from its first line.
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

_POSITION = ("epoch", "images", "seconds", "progress")
_writers: dict[Path, SummaryWriter] = {}
"""By their directories, the runs that have begun here and not ended."""


@hookimpl
def ssl_zoo_run_started(run: Run, step: int) -> None:
    """Open the run's events, and bring them to where the run stands.

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
    since = step if any(folder.glob("events.out.tfevents.*")) else 0
    # From here on, what stands in earlier files does not count.
    _writers[run.path] = writer = SummaryWriter(str(folder), purge_step=since)
    if since == 0:
        writer.add_text("config", indent(run.config_file.read_text(), "    "), 0)
    for line in run.metrics():
        if line["step"] >= since:
            _draw(writer, line)
    writer.flush()


@hookimpl
def ssl_zoo_step_logged(run: Run, metrics: Mapping[str, float]) -> None:
    """Draw a line."""
    if writer := _writers.get(run.path):
        _draw(writer, metrics)
        writer.flush()  # nobody says when a run is killed


@hookimpl
def ssl_zoo_run_ended(run: Run, results: Mapping[str, Any]) -> None:
    """Draw the scores, and close the events."""
    if writer := _writers.pop(run.path, None):
        for name, value in named_scores(results).items():
            writer.add_scalar(name, value, results["steps"])
        writer.add_text("scores", _table(results["scores"]), results["steps"])
        writer.close()


@hookimpl
def ssl_zoo_run_stopped(run: Run) -> None:
    """Close the events; the run may go on later."""
    if writer := _writers.pop(run.path, None):
        writer.close()


def _draw(writer: SummaryWriter, line: Mapping[str, float]) -> None:
    for name, value in line.items():
        if name != "step":
            writer.add_scalar(
                f"position/{name}" if name in _POSITION else name, value, int(line["step"])
            )


def _table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """The scores in Markdown, a row for each row of them."""
    metrics = list(dict.fromkeys(metric for row in scores.values() for metric in row))
    rows = [["", *metrics], ["---"] * (1 + len(metrics))]
    rows += [[name, *(f"{r[m]:.4g}" if m in r else "" for m in metrics)] for name, r in scores.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
