"""What the terminal shows: a progress bar, and tables of results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from ssl_zoo.run import Run
    from ssl_zoo.train import Trainer

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def print_json(value: object) -> None:
    """Print a value as JSON on standard output, for programs."""
    print(json.dumps(value, indent=2))


def scores_table(scores: Mapping[str, Mapping[str, float]], title: str) -> Table:
    """A row for each of what was evaluated, a column for each protocol, in percent."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("features")
    protocols = list(dict.fromkeys(p for row in scores.values() for p in row))
    for protocol in protocols:
        table.add_column(f"{protocol} %", justify="right")
    for name, row in scores.items():
        cells = (f"{row[p]:.1f}" if p in row else "" for p in protocols)
        table.add_row(escape(name), *cells)
    return table


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
        """Say what is trained on what, and show the bar."""
        config, data = trainer.config, trainer.data
        encoder = sum(p.numel() for p in trainer.task.encoder.parameters()) / 1e6
        err.print(
            f"[bold]{escape(config.task.name)}[/] on {escape(data.name)}: "
            f"{len(data.train):,} samples, {escape(config.backbone.name)} "
            f"({encoder:.1f} M parameters), {trainer.device.device} {trainer.device.precision}"
        )
        if trainer.step:
            err.print(f"going on from step {trainer.step:,}")
        self.bar.start()
        self.task = self.bar.add_task(escape(config.task.name), total=1.0, state="")
        self.bar.update(self.task, completed=trainer.progress)

    def step(self, progress: float, metrics: dict[str, float]) -> None:
        """Move the bar."""
        state = f"epoch {metrics['epoch']:.1f}"
        if "loss" in metrics:
            speed = metrics["images"] / max(metrics["seconds"], 1e-9)
            state += f"  loss {metrics['loss']:.3f}  {speed:,.0f} images/s"
        else:
            err.print(f"epoch {metrics['epoch']:.1f}  kNN {metrics.get('knn', float('nan')):.1f} %")
        self.bar.update(self.task, completed=progress, state=state)
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
        if results["scores"]:
            out.print(scores_table(results["scores"], f"kNN accuracy on the test split of {source}"))
        else:
            out.print(f"{source} has no labels, so there is no accuracy to show")
        if results["skipped"]:
            first = next(iter(results["skipped"].items()))
            out.print(f"skipped {len(results['skipped'])} files, such as {first[0]}: {first[1]}")
        out.print(f"run: {run.path}", soft_wrap=True)
        out.print(f"  ssl-zoo eval {run.path}", soft_wrap=True)
        out.print(f'  model = ssl_zoo.load_backbone("{run.path}")', soft_wrap=True)
