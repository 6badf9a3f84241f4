"""The columns of the table: what they measure, and their figures of single runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ssl_zoo.errors import UserError
from ssl_zoo.evaluation import Scores, known_metrics
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
        run: the folder; for a record its file.
        scores: the scores by metric.
        facts: everything in its `results.json`.
        baseline: whether it is a baseline.
        failure: why it failed; None if it did not.
        family: the family of its task; "" if it is unknown.
    """

    row: str
    seed: int | None
    run: Run
    scores: Scores
    facts: Mapping[str, Any]
    baseline: bool = False
    failure: str | None = None
    family: str = ""


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
        of_machine: whether it depends on the machine, so that figures of several are not averaged.
        counted: whether the figure of a row is the number of its runs that have one, not their mean.
    """

    name: str
    title: str
    how: str
    value: Callable[[Outcome], float | str | None]
    better: Literal["higher", "lower"] | None = None
    digits: int = 1
    measured: bool = False
    of_machine: bool = False
    counted: bool = False

    def __call__(self, outcome: Outcome) -> float | str | None:
        """Return the figure of a run."""
        return self.value(outcome)


def fact(name: str, factor: float = 1.0) -> Callable[[Outcome], float | None]:
    """Return a function that gives a fact of an outcome times a factor; None where it is unknown."""

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
               fact("samples_per_second"), digits=0, of_machine=True),
        Column("minutes", "minutes", "duration of training, without evaluation",
               fact("seconds", 1 / 60), digits=2, of_machine=True),
        Column("samples", noun, f"{noun} drawn during training", fact("samples"), digits=0),
        Column("memory", "memory GB", "peak memory during training: on CUDA that of tensors, on a CPU "
               "that of the whole process, libraries included", fact("peak_memory_bytes", 1e-9),
               digits=2, of_machine=True),
        Column("parameters", "params M", "parameters of the backbone, in millions",
               fact("parameters", 1e-6), digits=2),
        Column("passes", "passes",
               f"passes through a backbone (a teacher's included) per {singular(noun)} drawn",
               fact("passes_per_sample")),
        Column("seeds", "seeds", "number of runs, with different seeds",
               lambda outcome: outcome.seed, counted=True),
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
    names: Sequence[str] | None,
    outcomes: Iterable[Outcome],
    noun: str = Spec.noun,
    counts: bool = False,
) -> list[Column]:
    """Return the columns with these names; if None, those that have a figure.

    Args:
        names: the names, or None.
        outcomes: the outcomes of the runs in the table.
        noun: the plural noun for samples.
        counts: whether None includes numbers of runs.

    Raises:
        UserError: there is no column of such a name.
    """
    known = known_columns(noun)
    if names is None:
        outcomes = list(outcomes)
        wanted = [column for column in known.values() if counts or not column.counted]
        return [c for c in wanted if any(c.value(o) is not None for o in outcomes)]
    return [find_column("--columns", name, known) for name in names]
