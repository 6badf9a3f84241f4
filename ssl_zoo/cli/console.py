"""Results as text and tables in the terminal, or as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from shlex import quote
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table

from ssl_zoo.cli.notices import with_notices
from ssl_zoo.text import escape_control_chars, quantity, singular

if TYPE_CHECKING:
    from pathlib import Path

    from ssl_zoo.comparison.columns import Column
    from ssl_zoo.comparison.table import Figure, Row
    from ssl_zoo.comparison.table import Table as ComparisonTable
    from ssl_zoo.plugins.info import PluginInfo
    from ssl_zoo.runs.run import Run
    from ssl_zoo.testing import CheckResult
    from ssl_zoo.tools.bench import Throughput
    from ssl_zoo.tools.embed import Embedded
    from ssl_zoo.tools.estimate import Estimate
    from ssl_zoo.tools.predict import Predicted

MAX_SHOWN_CLASSES = 10

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


class _Escaped:
    """A renderable with control characters escaped, as it may contain text from files."""

    def __init__(self, content: ConsoleRenderable) -> None:
        self.content = content

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for text, style, control in console.render(self.content, options):
            yield Segment(text if control else escape_control_chars(text), style, control)


class _EscapeHook(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Escaped(content) for content in renderables]


for _console in (out, err):
    _console.push_render_hook(_EscapeHook())


def print_json(value: object) -> None:
    """Print a value as JSON on standard output, for programs."""
    print(json.dumps(value, indent=2))


def print_results(results: dict[str, Any]) -> None:
    """Print the results of a command as JSON, with notices, warnings, and the data it used."""
    print_json(with_notices(results))


def print_scores(scores: Mapping[str, Mapping[str, float]], title: str) -> None:
    """Print scores, with a column for each subject and a row for each metric, and warnings."""
    from ssl_zoo.evaluation import known_metrics, warnings

    measured = {name for row in scores.values() for name in row}
    metrics = {name: metric for name, metric in known_metrics().items() if name in measured}
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
    """Print a line on standard output without markup or wrapping."""
    out.print(text, markup=False, soft_wrap=True)


def print_configs(files: Mapping[str, Path], json: bool) -> None:
    """Print the names of the configurations that ship, as a table or JSON."""
    from ssl_zoo.config.shipped import config_summary

    summaries = {name: config_summary(file.read_text(encoding="utf-8")) for name, file in files.items()}
    if json:
        print_json([{"name": name, "summary": summary} for name, summary in summaries.items()])
        return
    table = Table("configuration", "what it is")
    for name, summary in summaries.items():
        add_row(table, name, summary)
    out.print(table)
    say(
        "ssl-zoo config NAME prints one; --config NAME uses it, in train, or in compare and advise for "
        "compare/… and advise/…"
    )


def print_throughput(measured: Throughput, json: bool) -> None:
    """Print the throughput of training beside its ceiling, the shares of time, and the memory."""
    if json:
        print_results(asdict(measured))
        return
    say(
        f"{measured.task} on {measured.data}: {measured.backbone}, batches of {measured.batch_size:,}, "
        f"{measured.views_per_sample:g} views per {singular(measured.noun)}; {measured.device}"
    )
    table = Table("", "views/s", f"{measured.noun}/s")
    for name, views in (("training", measured.views_per_s), ("ceiling", measured.ceiling_views_per_s)):
        samples = views / measured.views_per_sample if measured.views_per_sample else 0.0
        add_row(table, name, f"{views:,.0f}", f"{samples:,.0f}")
    out.print(table)
    low, high = min(measured.ratios), max(measured.ratios)
    say(f"ratio {measured.ratio:.3f} ({low:.3f} to {high:.3f} in {len(measured.ratios)} pairs)")
    shares = {**measured.shares, "rest": 1 - sum(measured.shares.values())}
    say("time: " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items()))
    if measured.peak_memory_bytes is not None:
        say(f"peak memory: {measured.peak_memory_bytes / 2**20:,.0f} MiB")
    if measured.trace is not None:
        say(f"wrote {measured.trace}")


def print_new_package(folder: Path, *commands: str) -> None:
    """Print the folder of a new package, and the next commands."""
    say(f"wrote {folder}")
    say(f"  pip install -e {quote(str(folder))}")
    for command in commands:
        say(f"  {command}")


def print_plugins(entries: Iterable[PluginInfo], json: bool) -> None:
    """Print the plugins with their errors, as a table or JSON."""
    if json:
        print_json([asdict(entry) for entry in entries])
        return
    table = Table("plugin", "distribution", "contributes", "error")
    for entry in entries:
        origin = f"{entry.distribution} {entry.version}"
        add_row(table, entry.name, origin, entry.contributes, entry.error or "")
    out.print(table)


def print_checks(outcomes: Iterable[CheckResult], json: bool) -> bool:
    """Print the result of each check when it is known; return whether no check is bad."""
    results: list[CheckResult] = []
    for outcome in outcomes:
        results.append(outcome)
        if not json:
            colour = {"passed": "green", "skipped": "dim", "expected": "yellow"}.get(
                outcome.status, "red"
            )
            note = outcome.note or outcome.check.title
            text = f"[{colour}]{outcome.status:10}[/] {outcome.check.name}: {escape(note)}"
            out.print(text, soft_wrap=True)
    counts = Counter(outcome.status for outcome in results)
    if json:
        values = [{"check": o.check.name, "state": o.status, "note": o.note} for o in results]
        print_results({"checks": values})
    else:
        say(", ".join(f"{number} {state}" for state, number in counts.items()))
    return not any(outcome.bad for outcome in results)


def add_row(table: Table, *cells: str) -> None:
    """Add a row of texts, in which no markup is read."""
    table.add_row(*map(escape, cells))


def print_table(comparison: ComparisonTable, folder: Path | None, json: bool) -> None:
    """Print the table of a comparison, its notes, and the files that hold it."""
    from ssl_zoo.comparison.render import as_dict, foot, grouped_rows

    if json:
        print_results(as_dict(comparison))
        return
    n_columns = _columns_that_fit(comparison)
    columns = comparison.columns[:n_columns]
    table = Table("", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(escape(column.title), justify="right", no_wrap=True)
    baselines = False
    for family, rows in grouped_rows(comparison):
        if family:
            table.add_section()
            table.add_row(f"[bold]{escape(family)}[/]")
        for row in rows:
            if row.baseline and not baselines and not family:
                table.add_section()
            baselines = row.baseline
            styled = (_styled(row.figures[column.name], column) for column in columns)
            table.add_row(escape(_terminal_label(row)), *styled)
    say(comparison.title)
    out.print(table)
    if left_out := comparison.columns[n_columns:]:
        names = ", ".join(column.name for column in left_out)
        say(f"The terminal has no room for {names}; select with --columns, or see the files.")
    for text in foot(comparison):
        say(text)
    if folder is not None:
        say(f"table: {folder}/table.md, .csv, .tex, .json, .html")


def _terminal_label(row: Row) -> str:
    """Return the name of a row of a table, indented below its family."""
    from ssl_zoo.comparison.render import row_label

    return f"  {row_label(row)}" if row.family else row_label(row)


def _styled(figure: Figure, column: Column) -> str:
    text = escape(figure.format(column))
    return f"[bold]{text}[/]" if figure.best else text


def _columns_that_fit(comparison: ComparisonTable) -> int:
    """Return the number of columns for which the terminal has room, at least 1."""
    room = out.width - max((len(_terminal_label(row)) for row in comparison.rows), default=0)
    for number, column in enumerate(comparison.columns):
        cells = [len(row.figures[column.name].format(column)) for row in comparison.rows]
        room -= max([len(column.title), *cells]) + 3
        if room < 0:
            return max(1, number)
    return len(comparison.columns)


def print_embedded(written: Embedded) -> None:
    """Print the number of features and samples written, and of those left out."""
    parts = ", ".join(f"{count:,} {name}" for name, count in written.samples.items())
    places = f" at {'×'.join(map(str, written.grid))} places" if written.grid else ""
    say(f"wrote {written.file}: {written.width} features{places} of {parts} samples")
    _say_left_out(written.skipped.unreadable, written.skipped.excluded)


def print_prepared(source: str, samples: Mapping[str, int], classes: int) -> None:
    """Print how many samples of how many classes were written, and the command that trains on them."""
    parts = ", ".join(f"{count:,} {name}" for name, count in samples.items())
    of_classes = f" of {quantity(classes, 'classes')}" if classes else ""
    say(f"wrote {source}: {parts} samples{of_classes}")
    say(f"  ssl-zoo train --task TASK --data {quote(source)}")


def print_estimate(found: Estimate) -> None:
    """Print what a run needs, beside what there is, how long it takes, and the bottleneck."""
    table = Table(box=SIMPLE_HEAD)
    for name in ("", "needed", "there is", "", "share"):
        table.add_column(name, justify="left" if not name else "right")
    for need in (*found.slowing, *found.needs):
        have = "" if need.have is None else f"{need.have:,.4g}"
        share = "" if need.have is None else f"{need.share:.0%}"
        table.add_row(need.part, f"{need.need:,.3g}", have, need.unit, share)
    out.print(table)
    say(f"{found.steps:,} steps in {found.hours:,.1f} hours; {found.computing_hours:,.1f} of computing")
    say(f"{found.start_minutes:,.0f} minutes of listing files before the first step")
    say(f"{found.evaluation_hours:,.1f} hours for each row of the results")
    say(found.verdict[0].upper() + found.verdict[1:])


def print_kept(run: str, file: Path) -> None:
    """Print where a classifier is kept, and the command that uses it."""
    say(f"classifier: {file}")
    say(f"  ssl-zoo predict {quote(run)} --data DATA -o predictions.csv")


def print_predicted(predicted: Predicted) -> None:
    """Print the number of samples of each predicted class, the accuracy, and what is left out."""
    most = [f"{count:,} {name}" for name, count in predicted.classes.items()]
    more = f" and {len(most) - MAX_SHOWN_CLASSES} more classes" if len(most) > MAX_SHOWN_CLASSES else ""
    shown = ", ".join(most[:MAX_SHOWN_CLASSES])
    say(f"wrote {predicted.file}: {predicted.samples:,} samples: {shown}{more}")
    if predicted.accuracy is not None:
        labelled = quantity(predicted.judged + sum(predicted.unlearnt.values()), "labelled samples")
        judged = f"{predicted.judged:,} of {labelled}" if predicted.unlearnt else labelled
        say(f"accuracy on {judged}: {predicted.accuracy:.1f} %")
    _say_left_out(predicted.skipped.unreadable, predicted.skipped.excluded)


def _say_left_out(unreadable: Mapping[str, str], excluded: Mapping[str, str]) -> None:
    """Say how many samples are missing from a result, with the first of each kind."""
    for skipped, kind in ((unreadable, "that cannot be read"), (excluded, "as a setting says")):
        if skipped:
            name, reason = next(iter(skipped.items()))
            say(f"left out {len(skipped):,} {kind}, such as {name}: {reason}")


def print_run(run: Run) -> None:
    """Print a finished run's scores beside the baselines', and where the run is."""
    from ssl_zoo.evaluation.reading import describe_gains, read_gains
    from ssl_zoo.runs.run import BEST_FILE

    results, source = run.results(), run.config().data.source_text
    # Older versions wrote less, and a file may be damaged.
    scores, data = results.get("scores", {}), results.get("data", {})
    labelled = any("knn" in row for row in scores.values())
    split = "test" if data.get("test", 1) else "train"
    print_scores(scores, f"evaluated on the {split} split of {source}")
    if problem := data.get("no_accuracy"):
        say(f"{source} {problem}: there is no accuracy to show")
    elif gains := read_gains(results.get("gains")):
        say(describe_gains(gains, data.get("noun", "samples")))
    _say_left_out(results.get("skipped", {}), results.get("excluded", {}))
    say(f"run: {run.path}")
    if best := results.get("best"):
        file = quote(str(run.snapshots / BEST_FILE))
        say(f"  best {best['figure']}: {best['value']:.4g} at epoch {best['epoch']:.4g}: {file}")
    if labelled:
        say(f"  ssl-zoo eval {quote(str(run.path))}")
    say(f"  model = ssl_zoo.load_backbone({str(run.path)!r})")
