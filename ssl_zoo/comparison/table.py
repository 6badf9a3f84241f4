"""The table: rows of tasks and baselines, columns of figures, and at its foot how each was made."""

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
from ssl_zoo.text import did_you_mean, locate_error

log = logging.getLogger("ssl_zoo.comparison")


@dataclass(frozen=True)
class Outcome:
    """What is known of one run, or of a baseline that is none.

    Attributes:
        row: the row that it belongs to.
        seed: its seed; None for what does not depend on any.
        run: its folder.
        scores: by metric.
        facts: what else its `results.json` says.
        baseline: whether it is what others are compared with.
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
    """A figure of every row.

    Attributes:
        name: what ``--columns`` and ``--sort`` call it.
        title: its head, with the unit.
        how: how the figure is made, for the foot.
        value: from what is known of a run to the figure; None where there is none.
        better: which values are the better ones; None where neither is.
        digits: decimals.
        measured: whether it is a result of the features, and not what they cost.
    """

    name: str
    title: str
    how: str
    value: Callable[[Outcome], float | str | None]
    better: Literal["higher", "lower"] | None = None
    digits: int = 1
    measured: bool = False

    def __call__(self, outcome: Outcome) -> float | str | None:
        """The figure of a run."""
        return self.value(outcome)


@dataclass(frozen=True)
class Figure:
    """A figure of a row.

    Attributes:
        estimate: over the row's runs; None where there is none, or it is a text.
        text: a text instead.
        best: whether it is the best of the tasks by more than chance.
    """

    estimate: Estimate | None = None
    text: str = ""
    best: bool = False

    def shown(self, column: Column) -> str:
        """As it is printed: the mean, and of what was measured on features ± half of the interval."""
        if self.estimate is None:
            return self.text
        mean, half = f"{self.estimate.mean:,.{column.digits}f}", self.estimate.half_width
        if half is None or self.estimate.exact or not column.measured:
            return mean
        return f"{mean} ± {half:.{column.digits}f}"


@dataclass(frozen=True)
class Row:
    """A task or a baseline.

    Attributes:
        name: of the task or the baseline.
        entries: by the column's name.
        baseline: whether it is what others are compared with.
        runs: the number of runs in its figures.
        notes: what must be said of it: that it failed, collapsed, or used labels.
    """

    name: str
    entries: Mapping[str, Figure]
    baseline: bool
    runs: int
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Table:
    """A comparison as it is shown.

    Attributes:
        title: what is compared on what.
        columns: in order.
        rows: in order, baselines last.
        foot: how the figures were made, a sentence each.
        outcomes: what it was made of.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    foot: Sequence[str]
    outcomes: Sequence[Outcome] = field(repr=False)

    @property
    def failed(self) -> list[Outcome]:
        """The runs that failed."""
        return [outcome for outcome in self.outcomes if outcome.failure is not None]


def _fact(name: str, factor: float = 1.0) -> Callable[[Outcome], float | None]:
    def value(outcome: Outcome) -> float | None:
        given = outcome.facts.get(name)
        return None if given is None else given * factor

    return value


COSTS = (
    Column("throughput", "images/s", "images drawn per second of training", _fact("images_per_second"),
           digits=0),
    Column("minutes", "minutes", "time of training, without evaluation", _fact("seconds", 1 / 60),
           digits=2),
    Column("images", "images", "images drawn in training", _fact("images"), digits=0),
    Column("memory", "memory GB", "the most memory in use during training: on CUDA that of tensors, on "
           "a CPU the whole process's, libraries included", _fact("peak_memory_bytes", 1e-9), digits=2),
    Column("parameters", "params M", "parameters of the backbone, in millions",
           _fact("parameters", 1e-6), digits=2),
    Column("passes", "passes", "how often a backbone, a teacher's included, sees an image for each "
           "image drawn", _fact("passes_per_image")),
)  # fmt: skip


def _metric(name: str) -> Callable[[Outcome], float | str | None]:
    return lambda outcome: outcome.scores.get(name)


def _guarded(column: Column) -> Column:
    """A plugin's column, of which a failure costs a cell and no more."""

    def value(outcome: Outcome) -> float | str | None:
        try:
            return column.value(outcome)
        except PLUGIN_ERRORS as error:
            log.warning(
                "column %r of a plugin: %s: %s", column.name, outcome.run.path, locate_error(error)
            )
            return None

    return replace(column, value=value)


def known_columns() -> dict[str, Column]:
    """All columns by name: the protocols' metrics, what training costs, and those of plugins."""
    metrics = known_metrics().items()
    columns = [Column(n, m.title, m.how, _metric(n), m.better, m.digits, True) for n, m in metrics]
    given = registry.collect("ssl_zoo_table_columns").values()
    columns += [*COSTS, *(_guarded(column) for column in given if isinstance(column, Column))]
    return {column.name: column for column in columns}


def unknown_column(option: str, name: str, known: Iterable[str]) -> str:
    """What is said of a column that there is not."""
    known = list(known)
    hint = f"{did_you_mean(name, known)} There are: {', '.join(known)}"
    return f"{option}: there is no column {name!r}.{hint}"


def choose_columns(names: Sequence[str] | None, outcomes: Iterable[Outcome]) -> list[Column]:
    """The columns of these names; of None those that have a figure.

    Raises:
        UserError: there is no such column.
    """
    known = known_columns()
    if names is None:
        outcomes = list(outcomes)
        return [c for c in known.values() if any(c.value(o) is not None for o in outcomes)]
    for name in names:
        if name not in known:
            raise UserError(unknown_column("--columns", name, known))
    return [known[name] for name in names]


def build_table(
    outcomes: Sequence[Outcome],
    title: str,
    columns: Sequence[str] | None = None,
    sort: str | None = None,
    foot: Sequence[str] = (),
) -> Table:
    """Make the table of what is known of some runs.

    Args:
        outcomes: the runs.
        title: what is compared on what.
        columns: names of columns; None for all that have a figure.
        sort: the column to sort by; None for the first.
        foot: sentences that stand at its foot before those on the columns.

    Raises:
        UserError: there is no such column.
    """
    chosen = choose_columns(columns, _done(outcomes))
    by_row: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_row.setdefault(outcome.row, []).append(outcome)
    rows = [_row(name, its, chosen) for name, its in by_row.items()]
    if (column := _sorting(sort, chosen)) is not None:
        sign = 1 if column.better == "lower" else -1

        def place(row: Row) -> tuple[bool, bool, float]:
            estimate = _entry(column, _done(by_row[row.name])).estimate
            return row.baseline, estimate is None, 0.0 if estimate is None else sign * estimate.mean

        rows.sort(key=place)
    rows = _mark_best(rows, chosen)
    explained = [f"{column.title}: {column.how}." for column in chosen]
    return Table(title, chosen, rows, [*foot, *_on_intervals(rows), *explained], outcomes)


def _row(name: str, outcomes: Sequence[Outcome], columns: Sequence[Column]) -> Row:
    done = _done(outcomes)
    notes = ["uses labels"] if any(outcome.facts.get("needs_labels") for outcome in done) else []
    failed = [outcome for outcome in outcomes if outcome.failure is not None]
    if failed:
        count = f"{len(failed)} of {len(outcomes)} runs " if len(outcomes) > 1 else ""
        notes.append(f"{count}failed: {failed[0].failure}")
    notes += list(
        dict.fromkeys(f"left out: {o.facts['left_out']}" for o in done if "left_out" in o.facts)
    )
    collapsed = [text for outcome in done for text in warnings(outcome.scores)]
    notes += list(dict.fromkeys(collapsed))[:1]
    entries = {column.name: _entry(column, done) for column in columns}
    for column in columns:
        estimate = entries[column.name].estimate
        if estimate is not None and column.measured and estimate.n < len(done):
            notes.append(f"{column.title} of {estimate.n} of {len(done)} runs")
    return Row(name, entries, outcomes[0].baseline, len(done), notes)


def _entry(column: Column, outcomes: Sequence[Outcome]) -> Figure:
    values = [value for o in outcomes if (value := column.value(o)) is not None]
    numbers = [float(value) for value in values if not isinstance(value, str)]
    if numbers:
        return Figure(Estimate.of(numbers, exact=all(o.seed is None for o in outcomes)))
    return Figure(text=", ".join(dict.fromkeys(map(str, values))))


def _sorting(sort: str | None, columns: Sequence[Column]) -> Column | None:
    """The column to sort by, shown or not; None where there is none."""
    if sort is None:
        return columns[0] if columns else None
    known = known_columns()
    if sort not in known:
        raise UserError(unknown_column("--sort", sort, known))
    return known[sort]


def _done(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Those that have figures: of a run that failed those that it had before."""
    return [outcome for outcome in outcomes if outcome.failure is None or outcome.scores]


def _mark_best(rows: Sequence[Row], columns: Sequence[Column]) -> list[Row]:
    """Mark of each column the best task, where it differs from the next by more than chance."""
    best: dict[str, str] = {}
    for column in columns:
        if column.better is None:
            continue
        sign = 1 if column.better == "higher" else -1
        found = [
            (row.name, estimate)
            for row in rows
            if not row.baseline and (estimate := row.entries[column.name].estimate) is not None
        ]
        found.sort(key=lambda pair: -sign * pair[1].mean)
        if len(found) > 1 and all(differ(found[0][1], other) for _, other in found[1:]):
            best[column.name] = found[0][0]
    return [
        Row(
            row.name,
            {
                name: Figure(entry.estimate, entry.text, best.get(name) == row.name)
                for name, entry in row.entries.items()
            },
            row.baseline,
            row.runs,
            row.notes,
        )
        for row in rows
    ]


def _on_intervals(rows: Sequence[Row]) -> list[str]:
    runs = sorted({row.runs for row in rows if not row.baseline and row.runs})
    if not runs or runs[-1] < 2:
        return ["One run each, so no intervals, and no value is marked as the best."]
    count = f"{runs[0]}" if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
    return [
        f"Mean ± half of the 95 % interval (Student's t) over {count} seeds. Bold: better than every "
        "other task by more than the 95 % interval of the difference (Welch); baselines do not compete."
    ]
