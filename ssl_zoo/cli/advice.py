"""The plan and the result of ``ssl-zoo advise`` in the terminal, or as JSON."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from ssl_zoo.cli import console

if TYPE_CHECKING:
    from pathlib import Path

    from ssl_zoo.advice import Advice, AdviceRow, Plan


def print_plan(plan: Plan) -> None:
    """Print what will be compared, how long each takes, and what is left out."""
    table = Table("", "what it is", "minutes", "passes", "steps", box=SIMPLE_HEAD, pad_edge=False)
    for planned in plan.rows:
        passes = "" if planned.passes is None else f"{planned.passes:.1f}"
        steps = "" if planned.steps is None else f"{planned.steps:,}"
        console.add_row(table, planned.row, planned.phrase, f"{planned.seconds / 60:.1f}", passes, steps)
    total = f"{plan.seconds / 60:.1f} of {plan.minutes:g} minutes"
    console.say(f"plan: {total}, {plan.spent_seconds / 60:.1f} of them spent on data and trials")
    console.out.print(table)
    for row, reason in plan.left_out.items():
        console.say(f"left out: {row}: {reason}")
    for text in plan.unanswered:
        console.say(text)


def print_advice(advice: Advice, page: Path, json: bool) -> None:
    """Print the table, the verdict, and what to do next."""
    from ssl_zoo.advice.result import as_dict, shown_metrics

    if json:
        console.print_results({**as_dict(advice), "report": str(page)})
        return
    metrics = shown_metrics(advice)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for title in metrics.values():
        table.add_column(escape(title), justify="right")
    for row in advice.rows:
        console.add_row(table, row.row, *(_figure(row, metric) for metric in metrics))
    console.say(advice.title)
    console.out.print(table)
    for row in advice.rows:
        cost = f", {row.minutes:.1f} minutes, {row.passes:.1f} passes" if row.passes else ""
        console.say(f"{row.row}: {row.phrase}{cost}" + "".join(f"; {note}" for note in row.notes))
    if advice.interval_note:
        console.say(advice.interval_note)
    console.say("")
    for sentence in advice.verdict.sentences:
        console.say(sentence)
    for text in advice.plan.unanswered:
        console.say(text)
    for command, remark in advice.commands:
        console.say(f"  {command}  # {remark}")
    console.say(f"report: {page} (ssl-zoo report {quote(str(advice.folder))} adds maps of the features)")


def _figure(row: AdviceRow, metric: str) -> str:
    """Return a figure of a row, with its interval where it has one."""
    from ssl_zoo.evaluation import known_metrics

    if (interval := row.intervals.get(metric)) is not None:
        return str(interval)
    value = row.scores.get(metric)
    return "" if value is None else f"{value:.{known_metrics()[metric].digits}f}"
