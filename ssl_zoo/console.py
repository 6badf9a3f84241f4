"""What the terminal shows: a progress bar, and tables of results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from shlex import quote
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from ssl_zoo.plugins import PluginEntry, TaskEntry
    from ssl_zoo.run import Run
    from ssl_zoo.task import Task
    from ssl_zoo.training import Trainer

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def print_json(value: object) -> None:
    """Print a value as JSON on standard output, for programs."""
    print(json.dumps(value, indent=2))


def print_scores(scores: Mapping[str, Mapping[str, float]], title: str) -> None:
    """A row for each of what was evaluated, a column for each protocol, in percent."""
    protocols = list(dict.fromkeys(p for row in scores.values() for p in row))
    table = Table("features")
    for protocol in protocols:
        table.add_column(escape(f"{protocol} %"), justify="right")
    for name, row in scores.items():
        table.add_row(escape(name), *(f"{row[p]:.1f}" if p in row else "" for p in protocols))
    say(title)
    out.print(table)


def say(text: str) -> None:
    """Print a line on standard output as it stands, however long."""
    out.print(text, markup=False, soft_wrap=True)


def print_tasks(entries: Iterable[TaskEntry], json: bool) -> None:
    """List the tasks."""
    entries = list(entries)
    if json:
        keys = ("name", "summary", "paper", "distribution", "version")
        print_json([{key: getattr(entry, key) for key in keys} for entry in entries])
    elif not entries:
        say("There are no tasks: no installed distribution brings any.")
    else:
        table = Table("task", "what it does", "from")
        for entry in entries:
            _add_row(table, entry.name, entry.summary, f"{entry.distribution} {entry.version}")
        out.print(table)
        say("ssl-zoo tasks NAME shows a task's options")


def print_task(name: str, cls: type[Task], json: bool) -> None:
    """Show a task's options with their defaults and ranges, its paper and its recipe."""
    recipe = dict(cls.recipe)
    if json:
        options = cls.Options.model_json_schema()
        print_json({"name": name, "paper": cls.paper, "recipe": recipe, "options": options})
        return
    say(f"{name}: {(cls.__doc__ or '').strip().partition(chr(10))[0]}")
    if cls.paper:
        say(cls.paper)
    if cls.Options.model_fields:
        table = Table("option", "default", "what it is", "range")
        for option, field in cls.Options.model_fields.items():
            default = "required" if field.is_required() else _shown(field.default)
            _add_row(table, option, default, field.description or "", _range(field))
        say("its options, --set task.OPTION=VALUE")
        out.print(table)
    if recipe:
        say("its recipe, which --set train.KEY=VALUE overrides")
        for key, value in recipe.items():
            say(f"  {key} {_shown(value)}")


def print_plugins(entries: Iterable[PluginEntry], json: bool) -> None:
    """List plugins, and what is wrong with them."""
    if json:
        print_json([asdict(entry) for entry in entries])
        return
    table = Table("plugin", "distribution", "contributes", "fault")
    for entry in entries:
        origin = f"{entry.distribution} {entry.version}"
        _add_row(table, entry.name, origin, entry.contributes, entry.fault or "")
    out.print(table)


def _add_row(table: Table, *cells: str) -> None:
    table.add_row(*map(escape, cells))


def _shown(value: object) -> str:
    """A value as it is written in YAML, which ``--set`` reads."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_shown, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _range(field: FieldInfo) -> str:
    """The values that an option may have, as far as they are declared."""
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    limits = [
        f"{sign} {limit}"
        for part in field.metadata
        for key, sign in signs.items()
        if (limit := getattr(part, key, None)) is not None
    ]
    if get_origin(field.annotation) is Literal:
        limits.append(" or ".join(map(_shown, get_args(field.annotation))))
    return ", ".join(limits)


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
        self._say(
            f"{config.task.name} on {data.name}: {len(data.train):,} samples, {config.backbone.name} "
            f"({encoder:.1f} M parameters), {trainer.device.device} {trainer.device.precision}, {length}"
        )
        self._say(f"run: {run.path}")
        if trainer.step:
            self._say(f"going on from step {trainer.step:,}")
        self.bar.start()
        self.task = self.bar.add_task(escape(config.task.name), total=1.0, state="")
        self.bar.update(self.task, completed=trainer.progress)

    def step(self, progress: float, metrics: dict[str, float]) -> None:
        """Move the bar."""
        state = f"epoch {metrics['epoch']:.1f}"
        if "loss" in metrics:
            speed = metrics["images"] / max(metrics["seconds"], 1e-9)
            state += f"  loss {metrics['loss']:.3f}  {speed:,.0f} images/s"
            self.bar.update(self.task, completed=progress, state=state)
        else:
            self._say(f"{state}  kNN {metrics['knn']:.1f} %")
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
            print_scores(results["scores"], f"kNN accuracy on the test split of {source}")
        else:
            say(f"{source} has no labels, so there is no accuracy to show")
        if skipped := results["skipped"]:
            name, reason = next(iter(skipped.items()))
            say(f"skipped {len(skipped)} of its files that cannot be read, such as {name}: {reason}")
        say(f"run: {run.path}")
        if results["scores"]:
            say(f"  ssl-zoo eval {quote(str(run.path))}")
        say(f"  model = ssl_zoo.load_backbone({str(run.path)!r})")

    @staticmethod
    def _say(text: str) -> None:
        err.print(text, markup=False, soft_wrap=True)
