"""The table: rows of tasks and baselines, columns of figures, and notes on how each is measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from ssl_zoo.comparison.columns import Column, Outcome, choose_columns, find_column, known_columns
from ssl_zoo.comparison.machines import Machines
from ssl_zoo.comparison.statistics import Estimate, differ
from ssl_zoo.evaluation import warnings
from ssl_zoo.plugins.families import BASELINE_FAMILY, family_order
from ssl_zoo.spec import Spec

MISSING = "–"
"""The text of a missing figure, in tables that grow."""
MAX_UNGROUPED_ROWS = 10
"""A table of more rows than this is grouped by family, unless it is asked for otherwise."""
NO_RUN = "no run yet"
"""The note on a row that is planned and has no run."""


@dataclass(frozen=True)
class Figure:
    """A figure in the table: of one row in one column.

    Attributes:
        estimate: the estimate over the runs of the row; None if there is no number.
        text: a text in place of a number.
        best: whether it is significantly better than that of every other task.
        mark: what refers to a note below the table, such as " (a)"; "" for nothing.
    """

    estimate: Estimate | None = None
    text: str = ""
    best: bool = False
    mark: str = ""

    def format(self, column: Column) -> str:
        """Return the text to print: the mean, with ± half of the interval if `column.measured`."""
        if self.estimate is None:
            return self.text
        mean, half = f"{self.estimate.mean:,.{column.digits}f}{self.mark}", self.estimate.half_width
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
        family: the heading under which it stands; "" for none.
    """

    name: str
    figures: Mapping[str, Figure]
    baseline: bool
    runs: int
    notes: Sequence[str] = ()
    family: str = ""


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
    def is_long(self) -> bool:
        """True if there are so many rows that they are grouped, and sorted and filtered in a page."""
        return len(self.rows) > MAX_UNGROUPED_ROWS

    @property
    def failed(self) -> list[Outcome]:
        """The runs that failed."""
        return [outcome for outcome in self.outcomes if outcome.failure is not None]


def build_table(
    outcomes: Sequence[Outcome],
    title: str,
    columns: Sequence[str] | None = None,
    sort: str | None = None,
    foot: Sequence[str] = (),
    noun: str = Spec.noun,
    *,
    by_family: bool | None = None,
    planned: Mapping[str, str] = MappingProxyType({}),
) -> Table:
    """Build the table of some runs.

    Figures that depend on the machine are those of one machine in each row, marked where it is not that
    of most runs.

    Args:
        outcomes: the outcomes of the runs.
        title: the title of the table.
        columns: names of columns; None for all that have a figure.
        sort: the column to sort by; None for the first.
        foot: notes to put before those on the columns.
        noun: the plural noun for samples.
        by_family: group the rows by family, with numbers of runs, and say which figures are missing;
            None for tables of more than `MAX_UNGROUPED_ROWS` rows.
        planned: the families of rows, by name, that are shown even without a run.

    Raises:
        UserError: there is no column of such a name.
    """
    by_row: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_row.setdefault(outcome.row, []).append(outcome)
    if by_family is None:
        by_family = len(by_row.keys() | planned.keys()) > MAX_UNGROUPED_ROWS
    chosen = choose_columns(columns, _with_figures(outcomes), noun, counts=by_family)
    machines = Machines.of(outcomes)
    rows = [_row(name, in_row, chosen, machines) for name, in_row in by_row.items()]
    for name in sorted(planned.keys() - by_row.keys()):
        nothing = {column.name: Figure() for column in chosen}
        baseline = planned[name] == BASELINE_FAMILY
        rows.append(Row(name, nothing, baseline, 0, [NO_RUN], planned[name]))
    if (column := _sort_column(sort, chosen)) is not None:
        sign = 1 if column.better == "lower" else -1

        def sort_key(row: Row) -> tuple[bool, bool, float]:
            estimate = _figure(column, _with_figures(by_row.get(row.name, ()))).estimate
            return row.baseline, estimate is None, 0.0 if estimate is None else sign * estimate.mean

        rows.sort(key=sort_key)
    rows = _mark_best(rows, chosen)
    notes = [*foot, *_interval_notes(rows), *machines.notes(chosen)]
    if by_family:
        rows.sort(key=lambda row: (row.baseline, family_order(row.family)))
        missing = any(figure == Figure() for row in rows for figure in row.figures.values())
        notes += [f"{MISSING}: not measured."] if missing else []
        rows = [_marked_missing(row) for row in rows]
    else:
        rows = [replace(row, family="") for row in rows]
    explained = [f"{column.title}: {column.how}." for column in chosen]
    return Table(title, chosen, rows, [*notes, *explained], outcomes, noun)


def _marked_missing(row: Row) -> Row:
    figures = {n: Figure(text=MISSING) if f == Figure() else f for n, f in row.figures.items()}
    return replace(row, figures=figures)


def _row(name: str, outcomes: Sequence[Outcome], columns: Sequence[Column], machines: Machines) -> Row:
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
    on_one, mark = machines.choose(done)
    figures = {c.name: _figure(c, on_one, mark) if c.of_machine else _figure(c, done) for c in columns}
    for column in columns:
        estimate = figures[column.name].estimate
        if estimate is not None and column.measured and estimate.n < len(done):
            notes.append(f"{column.title} from {estimate.n} of {len(done)} runs")
    baseline = outcomes[0].baseline
    family = BASELINE_FAMILY if baseline else outcomes[0].family
    return Row(name, figures, baseline, len(done), notes, family)


def _figure(column: Column, outcomes: Sequence[Outcome], mark: str = "") -> Figure:
    values = [value for outcome in outcomes if (value := column.value(outcome)) is not None]
    if column.counted and values:
        return Figure(text=str(len(values)))
    numbers = [float(value) for value in values if not isinstance(value, str)]
    if numbers:
        return Figure(Estimate.of(numbers), mark=mark)
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
