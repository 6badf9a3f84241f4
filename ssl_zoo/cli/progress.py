"""The progress bars of a run and of a comparison."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ssl_zoo.cli.console import err
from ssl_zoo.plugins.hookspecs import hookimpl
from ssl_zoo.text import quantity

if TYPE_CHECKING:
    from ssl_zoo.comparison.cells import Cell
    from ssl_zoo.comparison.sweep import Sweep
    from ssl_zoo.runs.run import Run
    from ssl_zoo.training import RunSummary

_POSITION = ("step", "epoch", "samples", "seconds", "progress")
"""The names in a logged line that tell where in the run it is."""


class ComparisonProgress:
    """A progress bar of a comparison, with the estimated time left and a line for each ended cell."""

    def __init__(self) -> None:
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=err,
        )
        self._names: list[str] = []
        self._updated = 0.0

    @hookimpl
    def ssl_zoo_comparison_started(self, sweep: Sweep) -> None:
        """Print the number of cells, and show the bar."""
        total, todo = len(sweep.cells), len(sweep.todo())
        done = f", {total - todo} of them done" if todo < total else ""
        _note(f"comparison: {sweep.out}, {total} cells{done}")
        self.bar.start()
        self.task = self.bar.add_task("", total=total, state="")
        self._update(sweep)

    @hookimpl
    def ssl_zoo_cell_progressed(self, sweep: Sweep) -> None:
        """Move the bar, at most once a second for the same cells."""
        if list(sweep.progress) != self._names or time.monotonic() - self._updated >= 1:
            self._update(sweep)

    @hookimpl
    def ssl_zoo_cell_ended(self, sweep: Sweep, cell: Cell) -> None:
        """Print the result of the cell, and move the bar."""
        if (reason := cell.failure()) is not None:
            _note(f"{cell.name}: failed: {reason}")
        else:
            results = cell.results()
            scores: dict[str, float] = next(iter(results.get("scores", {}).values()), {})
            parts = [f"{name} {scores[name]:.1f}" for name in ("knn", "linear") if name in scores]
            parts += [f"left out: {results['left_out']}"] if "left_out" in results else []
            _note(f"{cell.name}: {' '.join(parts)} ({_duration(results['cell']['seconds'])})")
        self._update(sweep)

    def _update(self, sweep: Sweep) -> None:
        self._names, self._updated = list(sweep.progress), time.monotonic()
        done = len(sweep.cells) - len(sweep.todo())
        left = sweep.seconds_left(max(1, len(self._names)))
        names = ", ".join(map(escape, self._names))
        self.bar.update(
            self.task,
            completed=done + sum(sweep.progress.values()),
            description=f"{done + len(self._names)} of {len(sweep.cells)}: {names}",
            state="" if left is None else f"about {_duration(left)} left",
        )

    def close(self) -> None:
        """Restore the terminal."""
        if self.bar.live.is_started:
            self.bar.stop()


def _duration(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _evaluated(line: Mapping[str, float]) -> list[str]:
    """Return the figures of an evaluation during training in words."""
    parts = [f"kNN {line['knn']:.1f} %"] if "knn" in line else []
    others = [name for name in line if name not in (*_POSITION, "knn")]
    return parts + [f"{name} {line[name]:.4g}" for name in others]


def _note(text: str) -> None:
    err.print(text, markup=False, soft_wrap=True)


class TrainingProgress:
    """A progress bar on standard error; an observer of the runs of this process."""

    def __init__(self) -> None:
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %"),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=err,
        )
        self.noun = "samples"

    @hookimpl
    def ssl_zoo_run_started(self, run: Run, step: int, summary: RunSummary) -> None:
        """Print a summary and the run directory, and show the bar."""
        _note(
            f"{summary.task} on {summary.data}: {quantity(summary.samples, summary.noun)}, "
            f"{summary.backbone} ({summary.parameters / 1e6:.1f} M parameters), on {summary.device}, "
            f"{summary.budget}, learning rate {summary.learning_rate}"
        )
        _note(f"run: {run.path}")
        if step:
            _note(f"resuming from step {step:,}")
        self.noun = summary.noun
        self.bar.start()
        self.task = self.bar.add_task(escape(summary.task), total=1.0, state="")
        self.bar.update(self.task, completed=summary.progress)

    @hookimpl
    def ssl_zoo_step_logged(self, metrics: Mapping[str, float]) -> None:
        """Move the bar, or print the accuracy of an evaluation during training."""
        state = f"epoch {metrics['epoch']:.1f}"
        if "lr" in metrics:
            speed = metrics["samples"] / max(metrics["seconds"], 1e-9)
            state += f"  loss {metrics.get('loss', math.nan):.3f}  {speed:,.0f} {self.noun}/s"
            self.bar.update(self.task, completed=metrics["progress"], state=state)
        else:
            _note("  ".join([state, *_evaluated(metrics)]))
        if metrics["progress"] >= 1:
            self.close()

    @hookimpl
    def ssl_zoo_run_ended(self) -> None:
        """Close the bar, also that of a resumed run that was finished already."""
        self.close()

    @hookimpl
    def ssl_zoo_run_stopped(self) -> None:
        """Close the bar before the error is printed."""
        self.close()

    def close(self) -> None:
        """Restore the terminal."""
        if self.bar.live.is_started:
            self.bar.stop()
