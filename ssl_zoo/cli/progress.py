"""The progress bars of a run and of a comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ssl_zoo.cli.console import err
from ssl_zoo.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from ssl_zoo.comparison.cells import Cell
    from ssl_zoo.comparison.sweep import Sweep
    from ssl_zoo.runs.run import Run
    from ssl_zoo.training import RunSummary


class SweepDisplay:
    """Shows how far a comparison has got, cell by cell, and how long it will still take."""

    def __init__(self) -> None:
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=err,
        )

    def began(self, sweep: Sweep) -> None:
        """Say what is to be done, and show the bar."""
        total, todo = len(sweep.cells), len(sweep.todo())
        kept = f", {total - todo} of them done" if todo < total else ""
        _note(f"comparison: {sweep.out}, {total} cells{kept}")
        self.bar.start()
        self.task = self.bar.add_task("", total=total, state="")
        self.moved(sweep)

    def moved(self, sweep: Sweep) -> None:
        """Move the bar."""
        names = [escape(name) for name in sweep.progress]
        done = len(sweep.cells) - len(sweep.todo())
        left = sweep.seconds_left(max(1, len(names)))
        self.bar.update(
            self.task,
            completed=done + sum(sweep.progress.values()),
            description=f"{done + len(names)} of {len(sweep.cells)}: {', '.join(names)}",
            state="" if left is None else f"about {_duration(left)} left",
        )

    def ended(self, sweep: Sweep, cell: Cell) -> None:
        """Say what came out of a cell."""
        if (reason := cell.failure()) is not None:
            _note(f"{cell.name}: failed: {reason}")
        else:
            results = cell.results()
            scores: dict[str, float] = next(iter(results.get("scores", {}).values()), {})
            shown = [f"{name} {scores[name]:.1f}" for name in ("knn", "linear") if name in scores]
            shown += [f"left out: {results['left_out']}"] if "left_out" in results else []
            _note(f"{cell.name}: {' '.join(shown)} ({_duration(results['cell']['seconds'])})")
        self.moved(sweep)

    def stop(self) -> None:
        """Leave the terminal as it was, whatever happened."""
        if self.bar.live.is_started:
            self.bar.stop()


def _duration(seconds: float) -> str:
    """A time as one says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


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

    @hookimpl
    def ssl_zoo_run_started(self, run: Run, step: int, summary: RunSummary) -> None:
        """Print a summary and the run directory, and show the bar."""
        _note(
            f"{summary.task} on {summary.data}: {summary.samples:,} samples, {summary.backbone} "
            f"({summary.parameters / 1e6:.1f} M parameters), on {summary.device}, {summary.budget}, "
            f"learning rate {summary.learning_rate}"
        )
        _note(f"run: {run.path}")
        if step:
            _note(f"going on from step {step:,}")
        self.bar.start()
        self.task = self.bar.add_task(escape(summary.task), total=1.0, state="")
        self.bar.update(self.task, completed=summary.progress)

    @hookimpl
    def ssl_zoo_step_logged(self, metrics: Mapping[str, float]) -> None:
        """Move the bar, or print the accuracy of an evaluation during training."""
        state = f"epoch {metrics['epoch']:.1f}"
        if "knn" not in metrics:
            speed = metrics["images"] / max(metrics["seconds"], 1e-9)
            state += f"  loss {metrics.get('loss', math.nan):.3f}  {speed:,.0f} images/s"
            self.bar.update(self.task, completed=metrics["progress"], state=state)
        else:
            _note(f"{state}  kNN {metrics['knn']:.1f} %")
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
