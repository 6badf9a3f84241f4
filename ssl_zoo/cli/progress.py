"""The progress bars of a run and of a comparison."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from shlex import quote
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ssl_zoo.cli.console import err, print_scores, say
from ssl_zoo.plugins.hookspecs import hookimpl
from ssl_zoo.plugins.registry import registry

if TYPE_CHECKING:
    from ssl_zoo.comparison.cells import Cell
    from ssl_zoo.comparison.sweep import Sweep
    from ssl_zoo.runs.run import Run
    from ssl_zoo.training import Trainer


class SweepDisplay:
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

    @contextmanager
    def observing(self) -> Iterator[None]:
        """Temporarily show the comparisons of this process; restore the terminal on exit."""
        try:
            with registry.observing(self):
                yield
        finally:
            if self.bar.live.is_started:
                self.bar.stop()

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


def _duration(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _note(text: str) -> None:
    err.print(text, markup=False, soft_wrap=True)


class TrainingReporter:
    """Shows a progress bar while a run goes on, and at its end the scores and what to do next."""

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

    def started(self, run: Run, trainer: Trainer) -> None:
        """Say what is trained on what, for how long and into which folder, and show the bar."""
        config, data, budget = trainer.config, trainer.data, trainer.budget
        encoder = sum(p.numel() for p in trainer.task.encoder.parameters()) / 1e6
        if budget.steps is not None:
            length = f"{budget.steps:,} steps of {budget.step_images:,} images"
        else:
            length = f"{config.train.minutes:g} minutes in steps of {budget.step_images:,} images"
        _note(
            f"{config.task.name} on {data.name}: {len(data.train):,} samples, {config.backbone.name} "
            f"({encoder:.1f} M parameters), on {trainer.device}, {length}"
        )
        _note(f"run: {run.path}")
        if trainer.step:
            _note(f"going on from step {trainer.step:,}")
        self.bar.start()
        self.task = self.bar.add_task(escape(config.task.name), total=1.0, state="")
        self.bar.update(self.task, completed=trainer.progress)

    def step(self, progress: float, metrics: dict[str, float]) -> None:
        """Move the bar."""
        state = f"epoch {metrics['epoch']:.1f}"
        if "knn" not in metrics:
            speed = metrics["images"] / max(metrics["seconds"], 1e-9)
            state += f"  loss {metrics.get('loss', math.nan):.3f}  {speed:,.0f} images/s"
            self.bar.update(self.task, completed=progress, state=state)
        else:
            _note(f"{state}  kNN {metrics['knn']:.1f} %")
        if progress >= 1:
            self.stop()

    def stop(self) -> None:
        """Leave the terminal as it was, whatever happened."""
        if self.bar.live.is_started:
            self.bar.stop()

    def ended(self, run: Run, results: dict[str, Any]) -> None:
        """Show the scores beside the baselines', and where the run lies."""
        self.stop()
        source = run.config().data.source
        print_scores(results["scores"], f"evaluated on the test split of {source}")
        if not any("knn" in row for row in results["scores"].values()):
            say(f"{source} has no labels, so there is no accuracy to show")
        if skipped := results["skipped"]:
            name, reason = next(iter(skipped.items()))
            say(f"skipped {len(skipped)} of its files that cannot be read, such as {name}: {reason}")
        say(f"run: {run.path}")
        if any("knn" in row for row in results["scores"].values()):
            say(f"  ssl-zoo eval {quote(str(run.path))}")
        say(f"  model = ssl_zoo.load_backbone({str(run.path)!r})")
