"""What the terminal shows: a progress bar, and tables of results."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from shlex import quote
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table

from ssl_zoo.text import escape_control_chars

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic.fields import FieldInfo

    from ssl_zoo.comparison.cells import Cell
    from ssl_zoo.comparison.sweep import Sweep
    from ssl_zoo.comparison.table import Table as ComparisonTable
    from ssl_zoo.plugins.info import PluginInfo, TaskInfo
    from ssl_zoo.runs.run import Run
    from ssl_zoo.task import Task
    from ssl_zoo.testing import CheckResult
    from ssl_zoo.tools.bench import Throughput
    from ssl_zoo.tools.embed import Embedded
    from ssl_zoo.training import Trainer

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


class _Tamed:
    """What is printed, which makes a terminal do nothing, whatever others wrote into it."""

    def __init__(self, shown: ConsoleRenderable) -> None:
        self.shown = shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for text, style, control in console.render(self.shown, options):
            yield Segment(text if control else escape_control_chars(text), style, control)


class _Taming(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Tamed(shown) for shown in renderables]


for _console in (out, err):
    _console.push_render_hook(_Taming())


def print_json(value: object) -> None:
    """Print a value as JSON on standard output, for programs."""
    print(json.dumps(value, indent=2))


def print_scores(scores: Mapping[str, Mapping[str, float]], title: str) -> None:
    """A column for each of what was evaluated, a row for each metric, and what is alarming."""
    from ssl_zoo.evaluation import known_metrics, warnings

    given = {name for row in scores.values() for name in row}
    metrics = {name: metric for name, metric in known_metrics().items() if name in given}
    table = Table("")
    for name in scores:
        table.add_column(escape(name), justify="right")
    for name, metric in metrics.items():
        cells = (f"{row[name]:.{metric.digits}f}" if name in row else "" for row in scores.values())
        table.add_row(escape(metric.title), *cells)
    say(title)
    out.print(table)
    for name, row in scores.items():
        for text in warnings(row):
            say(f"warning: {name}: {text}")


def say(text: str) -> None:
    """Print a line on standard output as it stands, however long."""
    out.print(text, markup=False, soft_wrap=True)


def print_tasks(entries: Iterable[TaskInfo], json: bool) -> None:
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
    recipe = {section: dict(values) for section, values in cls.recipe.items()}
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
        say("its recipe, which --set SECTION.KEY=VALUE overrides")
        for section, values in recipe.items():
            for key, value in values.items():
                say(f"  {section}.{key} {_shown(value)}")


def print_throughput(measured: Throughput, json: bool) -> None:
    """Show how near training comes to its ceiling, where its time goes, and its memory."""
    if json:
        print_json(asdict(measured))
        return
    say(
        f"{measured.task} on {measured.data}: {measured.backbone}, batches of {measured.batch_size:,}, "
        f"{measured.views_per_image:g} views an image; {measured.device}"
    )
    table = Table("", "views/s", "images/s")
    for name, views in (("training", measured.views_per_s), ("ceiling", measured.ceiling_views_per_s)):
        images = views / measured.views_per_image if measured.views_per_image else 0.0
        _add_row(table, name, f"{views:,.0f}", f"{images:,.0f}")
    out.print(table)
    low, high = min(measured.ratios), max(measured.ratios)
    say(f"ratio {measured.ratio:.3f} ({low:.3f} to {high:.3f} in {len(measured.ratios)} pairs)")
    shares = {**measured.shares, "rest": 1 - sum(measured.shares.values())}
    say("time: " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items()))
    if measured.peak_memory_bytes is not None:
        say(f"peak memory: {measured.peak_memory_bytes / 2**20:,.0f} MiB")
    if measured.trace is not None:
        say(f"wrote {measured.trace}")


def print_new_task(name: str, folder: Path) -> None:
    """Say what was written, and what to do next."""
    say(f"wrote {folder}")
    say(f"  pip install -e {quote(str(folder))}")
    say(f"  ssl-zoo check {name}")
    say(f"  ssl-zoo train --task {name}")


def print_plugins(entries: Iterable[PluginInfo], json: bool) -> None:
    """List plugins, and what is wrong with them."""
    if json:
        print_json([asdict(entry) for entry in entries])
        return
    table = Table("plugin", "distribution", "contributes", "error")
    for entry in entries:
        origin = f"{entry.distribution} {entry.version}"
        _add_row(table, entry.name, origin, entry.contributes, entry.error or "")
    out.print(table)


def print_checks(outcomes: Iterable[CheckResult], json: bool) -> bool:
    """Print the result of each check as it comes; return whether none is bad."""
    made: list[CheckResult] = []
    for outcome in outcomes:
        made.append(outcome)
        if not json:
            colour = {"passed": "green", "skipped": "dim", "expected": "yellow"}.get(
                outcome.status, "red"
            )
            note = outcome.note or outcome.check.title
            text = f"[{colour}]{outcome.status:10}[/] {outcome.check.name}: {escape(note)}"
            out.print(text, soft_wrap=True)
    counts = Counter(outcome.status for outcome in made)
    if json:
        keys = [{"check": o.check.name, "state": o.status, "note": o.note} for o in made]
        print_json(keys)
    else:
        say(", ".join(f"{number} {state}" for state, number in counts.items()))
    return not any(outcome.bad for outcome in made)


def _add_row(table: Table, *cells: str) -> None:
    table.add_row(*map(escape, cells))


def _shown(value: object) -> str:
    """A value as it is written in YAML, which ``--set`` reads."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_shown(item)}' for key, item in value.items())}}}"
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


def print_table(comparison: ComparisonTable, folder: Path | None, json: bool) -> None:
    """Print the table of a comparison, what must be said of its rows, and where it lies."""
    from ssl_zoo.comparison.render import as_dict, foot, name_of

    if json:
        print_json(as_dict(comparison))
        return
    fits = _fitting(comparison)
    table = Table("")
    for column in comparison.columns[:fits]:
        table.add_column(escape(column.title), justify="right", no_wrap=True)
    for above, row in zip([None, *comparison.rows], comparison.rows, strict=False):
        if row.baseline and above is not None and not above.baseline:
            table.add_section()
        entries = [(row.entries[c.name], c) for c in comparison.columns[:fits]]
        styled = ((escape(e.shown(c)), "bold" if e.best else "none") for e, c in entries)
        table.add_row(escape(name_of(row)), *(f"[{style}]{text}[/]" for text, style in styled))
    say(comparison.title)
    out.print(table)
    if left_out := comparison.columns[fits:]:
        names = ", ".join(column.name for column in left_out)
        say(f"The terminal has no room for {names}; --columns chooses, the files have all.")
    for text in foot(comparison):
        say(text)
    if folder is not None:
        say(f"table: {folder}/table.md, .csv, .tex, .json, .html")


def _fitting(comparison: ComparisonTable) -> int:
    """How many columns of a table the terminal has room for; at least one."""
    from ssl_zoo.comparison.render import name_of

    room = out.width - max((len(name_of(row)) for row in comparison.rows), default=0) - 4
    for number, column in enumerate(comparison.columns):
        cells = [len(row.entries[column.name].shown(column)) for row in comparison.rows]
        room -= max([len(column.title), *cells]) + 3
        if room < 0:
            return max(1, number)
    return len(comparison.columns)


def print_embedded(written: Embedded) -> None:
    """Say what features were written, and what was left out."""
    parts = ", ".join(f"{count:,} {name}" for name, count in written.samples.items())
    say(f"wrote {written.file}: {written.width} features of {parts} samples")
    if written.skipped:
        name, reason = next(iter(written.skipped.items()))
        say(f"left out {len(written.skipped)} that cannot be read, such as {name}: {reason}")


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
