"""The table: rows of tasks and baselines, columns of figures, and notes on how each is measured."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ssl_zoo.comparison.statistics import Estimate, differ
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation import Scores, known_metrics, warnings
from ssl_zoo.plugins.registry import registry
from ssl_zoo.plugins.validation import PLUGIN_ERRORS
from ssl_zoo.runs.run import Run
from ssl_zoo.spec import Spec
from ssl_zoo.text import did_you_mean, locate_error, singular

log = logging.getLogger("ssl_zoo.comparison")


@dataclass(frozen=True)
class Outcome:
    """The outcome of one run, or of a baseline that is not trained.

    Attributes:
        row: the row of the table that it belongs to.
        seed: the seed; None for a baseline that does not depend on one.
        run: the folder.
        scores: the scores by metric.
        facts: everything in its `results.json`.
        baseline: whether it is a baseline.
        failure: why it failed; None if it did not.
    """

    row: str
    seed: int | None
    run: Run
    scores: Scores
    facts: Mapping[str, Any]
    baseline: bool = False
    failure: str | None = None


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        name: the name in ``--columns`` and ``--sort``.
        title: the heading, with the unit.
        how: how the figure is measured, for the notes below the table.
        value: computes the figure from the outcome of a run; returns None where there is none.
        better: whether higher or lower values are better; None if neither.
        digits: the number of decimals.
        measured: whether it measures the features rather than their cost.
    """

    name: str
    title: str
    how: str
    value: Callable[[Outcome], float | str | None]
    better: Literal["higher", "lower"] | None = None
    digits: int = 1
    measured: bool = False

    def __call__(self, outcome: Outcome) -> float | str | None:
        """Return the figure of a run."""
        return self.value(outcome)


@dataclass(frozen=True)
class Figure:
    """A figure in the table: of one row in one column.

    Attributes:
        estimate: the estimate over the runs of the row; None if there is no number.
        text: a text in place of a number.
        best: whether it is significantly better than that of every other task.
    """

    estimate: Estimate | None = None
    text: str = ""
    best: bool = False

    def format(self, column: Column) -> str:
        """Return the text to print: the mean, with ± half of the interval if `column.measured`."""
        if self.estimate is None:
            return self.text
        mean, half = f"{self.estimate.mean:,.{column.digits}f}", self.estimate.half_width
        if half is None or not column.measured:
            return mean
        return f"{mean} ± {half:.{column.digits}f}"


@dataclass(frozen=True)
class Row:
    """A row of the table: a task or a baseline.

    Attributes:
        name: the name of the task or the baseline.
        figures: the figures by name of the column.
        baseline: whether it is a baseline.
        runs: the number of runs behind its figures.
        notes: remarks, such as that it failed, collapsed, or used labels.
    """

    name: str
    figures: Mapping[str, Figure]
    baseline: bool
    runs: int
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Table:
    """A comparison as a table.

    Attributes:
        title: the data, the backbone and the budget.
        columns: the columns in order.
        rows: the rows in order, baselines last.
        foot: the notes below the table on how the figures are measured.
        outcomes: the runs and baselines in the table.
        noun: the plural noun for samples, such as "images".
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    foot: Sequence[str]
    outcomes: Sequence[Outcome] = field(repr=False)
    noun: str = Spec.noun

    @property
    def failed(self) -> list[Outcome]:
        """The runs that failed."""
        return [outcome for outcome in self.outcomes if outcome.failure is not None]


def _fact(name: str, factor: float = 1.0) -> Callable[[Outcome], float | None]:
    def value(outcome: Outcome) -> float | None:
        fact = outcome.facts.get(name)
        return None if fact is None else fact * factor

    return value


OLD_NAMES = {"images": "samples"}
"""The names of columns in older versions, and the present ones."""


def _costs(noun: str) -> list[Column]:
    """Return the columns of what training costs, with the plural noun for samples."""
    return [
        Column("throughput", f"{noun}/s", f"{noun} drawn per second of training",
               _fact("samples_per_second"), digits=0),
        Column("minutes", "minutes", "duration of training, without evaluation",
               _fact("seconds", 1 / 60), digits=2),
        Column("samples", noun, f"{noun} drawn during training", _fact("samples"), digits=0),
        Column("memory", "memory GB", "peak memory during training: on CUDA that of tensors, on a CPU "
               "that of the whole process, libraries included", _fact("peak_memory_bytes", 1e-9),
               digits=2),
        Column("parameters", "params M", "parameters of the backbone, in millions",
               _fact("parameters", 1e-6), digits=2),
        Column("passes", "passes",
               f"passes through a backbone (a teacher's included) per {singular(noun)} drawn",
               _fact("passes_per_sample")),
    ]  # fmt: skip


def _metric(name: str) -> Callable[[Outcome], float | str | None]:
    return lambda outcome: outcome.scores.get(name)


def _guarded(column: Column) -> Column:
    """Return a plugin's column whose errors are logged and leave the figure empty."""

    def value(outcome: Outcome) -> float | str | None:
        try:
            return column.value(outcome)
        except PLUGIN_ERRORS as error:
            log.warning(
                "column %r of a plugin: %s: %s", column.name, outcome.run.path, locate_error(error)
            )
            return None

    return replace(column, value=value)


def known_columns(noun: str = Spec.noun) -> dict[str, Column]:
    """Return all columns by name: metrics of protocols, costs of training, and those of plugins.

    Args:
        noun: the plural noun for samples, for the titles.
    """
    metrics = known_metrics().items()
    columns = [Column(n, m.title, m.how, _metric(n), m.better, m.digits, True) for n, m in metrics]
    from_plugins = registry.collect("ssl_zoo_table_columns").values()
    columns += [
        *_costs(noun),
        *(_guarded(column) for column in from_plugins if isinstance(column, Column)),
    ]
    return {column.name: column for column in columns}


def find_column(option: str, name: str, known: Mapping[str, Column]) -> Column:
    """Return the column with a name, which may be that of an older version.

    Args:
        option: where the name was given, for messages.
        name: the name.
        known: all columns by name.

    Raises:
        UserError: there is no such column.
    """
    column = known.get(name) or known.get(OLD_NAMES.get(name, ""))
    if column is None:
        hint = f"{did_you_mean(name, known)} There are: {', '.join(known)}"
        raise UserError(f"{option}: there is no column {name!r}.{hint}")
    return column


def choose_columns(
    names: Sequence[str] | None, outcomes: Iterable[Outcome], noun: str = Spec.noun
) -> list[Column]:
    """Return the columns with these names; if None, those that have a figure.

    Raises:
        UserError: there is no column of such a name.
    """
    known = known_columns(noun)
    if names is None:
        outcomes = list(outcomes)
        return [c for c in known.values() if any(c.value(o) is not None for o in outcomes)]
    return [find_column("--columns", name, known) for name in names]


def build_table(
    outcomes: Sequence[Outcome],
    title: str,
    columns: Sequence[str] | None = None,
    sort: str | None = None,
    foot: Sequence[str] = (),
    noun: str = Spec.noun,
) -> Table:
    """Build the table of some runs.

    Args:
        outcomes: the outcomes of the runs.
        title: the title of the table.
        columns: names of columns; None for all that have a figure.
        sort: the column to sort by; None for the first.
        foot: notes to put before those on the columns.
        noun: the plural noun for samples.

    Raises:
        UserError: there is no column of such a name.
    """
    chosen = choose_columns(columns, _with_figures(outcomes), noun)
    by_row: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_row.setdefault(outcome.row, []).append(outcome)
    rows = [_row(name, in_row, chosen) for name, in_row in by_row.items()]
    if (column := _sort_column(sort, chosen)) is not None:
        sign = 1 if column.better == "lower" else -1

        def sort_key(row: Row) -> tuple[bool, bool, float]:
            estimate = _figure(column, _with_figures(by_row[row.name])).estimate
            return row.baseline, estimate is None, 0.0 if estimate is None else sign * estimate.mean

        rows.sort(key=sort_key)
    rows = _mark_best(rows, chosen)
    explained = [f"{column.title}: {column.how}." for column in chosen]
    return Table(title, chosen, rows, [*foot, *_interval_notes(rows), *explained], outcomes, noun)


def _row(name: str, outcomes: Sequence[Outcome], columns: Sequence[Column]) -> Row:
    done = _with_figures(outcomes)
    notes = ["uses labels"] if any(outcome.facts.get("needs_labels") for outcome in done) else []
    failed = [outcome for outcome in outcomes if outcome.failure is not None]
    if failed:
        count = f"{len(failed)} of {len(outcomes)} runs " if len(outcomes) > 1 else ""
        notes.append(f"{count}failed: {failed[0].failure}")
    left_out = [f"left out: {o.facts['left_out']}" for o in done if "left_out" in o.facts]
    notes += list(dict.fromkeys(left_out))
    collapsed = [text for outcome in done for text in warnings(outcome.scores)]
    notes += list(dict.fromkeys(collapsed))[:1]
    figures = {column.name: _figure(column, done) for column in columns}
    for column in columns:
        estimate = figures[column.name].estimate
        if estimate is not None and column.measured and estimate.n < len(done):
            notes.append(f"{column.title} from {estimate.n} of {len(done)} runs")
    return Row(name, figures, outcomes[0].baseline, len(done), notes)


def _figure(column: Column, outcomes: Sequence[Outcome]) -> Figure:
    values = [value for outcome in outcomes if (value := column.value(outcome)) is not None]
    numbers = [float(value) for value in values if not isinstance(value, str)]
    if numbers:
        return Figure(Estimate.of(numbers))
    return Figure(text=", ".join(dict.fromkeys(map(str, values))))


def _sort_column(sort: str | None, columns: Sequence[Column]) -> Column | None:
    """Return the column to sort by, in the table or not; None if there is none.

    Raises:
        UserError: there is no column of such a name.
    """
    if sort is None:
        return columns[0] if columns else None
    return find_column("--sort", sort, known_columns())


def _with_figures(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return the outcomes that have figures; a run that failed may have some from before."""
    return [outcome for outcome in outcomes if outcome.failure is None or outcome.scores]


def _mark_best(rows: Sequence[Row], columns: Sequence[Column]) -> list[Row]:
    """Mark in each column the best task, if it differs significantly from every other task."""
    best: dict[str, str] = {}
    for column in columns:
        if column.better is None:
            continue
        sign = 1 if column.better == "higher" else -1
        ranking = [
            (row.name, estimate)
            for row in rows
            if not row.baseline and (estimate := row.figures[column.name].estimate) is not None
        ]
        ranking.sort(key=lambda pair: -sign * pair[1].mean)
        if len(ranking) > 1 and all(differ(ranking[0][1], other) for _, other in ranking[1:]):
            best[column.name] = ranking[0][0]

    def marked(row: Row) -> Row:
        figures = {n: replace(f, best=best.get(n) == row.name) for n, f in row.figures.items()}
        return replace(row, figures=figures)

    return [marked(row) for row in rows]


def _interval_notes(rows: Sequence[Row]) -> list[str]:
    runs = sorted({row.runs for row in rows if not row.baseline and row.runs})
    if not runs or runs[-1] < 2:
        return ["One run per task: there are no intervals, and no value is marked as the best."]
    count = f"{runs[0]}" if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
    return [
        f"Mean ± half of the 95 % confidence interval (Student's t) over {count} seeds. Bold: "
        "significantly better than every other task (Welch's t-test, 5 % level); baselines are not "
        "marked."
    ]
