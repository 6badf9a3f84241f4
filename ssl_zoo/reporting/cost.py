"""Accuracy against the cost of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from ssl_zoo.comparison.columns import Outcome, fact, known_columns
from ssl_zoo.comparison.machines import Machines
from ssl_zoo.comparison.table import Table
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation import known_metrics
from ssl_zoo.reporting.curves import format_x_axis
from ssl_zoo.reporting.inputs import Missing, ReportInputs, values_by_row
from ssl_zoo.reporting.labels import label_points
from ssl_zoo.reporting.pictures import Style, label_ends, render_svg
from ssl_zoo.text import singular

METRICS = ("linear", "knn")
"""The accuracies in order of preference; the plot shows the first that is available."""


@dataclass(frozen=True)
class Cost:
    """A cost of training, for the horizontal axis.

    Attributes:
        label: the label of the axis.
        how: how it is measured, in words for the caption.
        value: computes it from the outcome of a run; returns None where it is unknown.
    """

    label: str
    how: str
    value: Callable[[Outcome], float | None]


def choose_cost(table: Table) -> Cost:
    """Return minutes of training, or passes where the runs come from several machines."""
    if len(Machines.of(table.outcomes).names) < 2:
        return Cost(
            "minutes of training", "minutes of training without evaluation", fact("seconds", 1 / 60)
        )
    noun = singular(table.noun)
    return Cost(
        f"passes per {noun}",
        f"{known_columns(table.noun)['passes'].how}, as minutes on several machines cannot be compared",
        fact("passes_per_sample"),
    )


def section(inputs: ReportInputs, styles: Mapping[str, Style]) -> dict[str, Any]:
    """Return the plot of accuracy against the cost of training.

    Raises:
        UserError: there is no accuracy yet, or only that of baselines that are not trained.
    """
    if isinstance(inputs.table, Missing):
        raise UserError(inputs.table.reason)
    cost = choose_cost(inputs.table)
    costs = values_by_row(inputs.table, cost.value)
    for name in METRICS:
        accuracy = values_by_row(inputs.table, partial(_score, name))
        if accuracy.keys() & costs.keys():
            metric = known_metrics()[name]
            picture = against_cost(accuracy, costs, styles, metric.title, cost.label)
            return {
                "picture": picture, "metric": metric.title, "how": metric.how, "axis": cost.how
            }  # fmt: skip
    outcomes = [outcome.facts.get("data", {}) for outcome in inputs.table.outcomes]
    reasons = {facts["no_accuracy"] for facts in outcomes if facts.get("no_accuracy")}
    reason = " and ".join(f"the data {text}" for text in sorted(reasons))
    raise UserError(f"there is no accuracy to show: {reason or 'no run with one has ended'}")


def _score(metric: str, outcome: Outcome) -> float | None:
    return outcome.scores.get(metric)


def against_cost(
    accuracy: Mapping[str, Sequence[float]],
    costs: Mapping[str, Sequence[float]],
    styles: Mapping[str, Style],
    label: str,
    cost_label: str = "minutes of training",
) -> Markup:
    """Draw a named point for each trained row, and a horizontal line for each other row.

    Args:
        accuracy: the accuracies by row, one per run.
        costs: the cost of training by row, one per run; trained rows only.
        styles: the style of each row.
        label: the label of the accuracy axis, with the unit.
        cost_label: the label of the axis of the cost, with the unit.
    """
    points = [(row, costs[row], values) for row, values in accuracy.items() if row in costs]
    values = "; ".join(f"{row} {mean(y):.1f} at {mean(x):.2g}" for row, x, y in points)
    paint = partial(paint_costs, accuracy, costs, styles, label, cost_label)
    return render_svg(
        paint, "cost", f"{label} against {cost_label}: {values}", (5.0, max(3.2, 0.13 * len(points)))
    )


def paint_costs(
    accuracy: Mapping[str, Sequence[float]],
    costs: Mapping[str, Sequence[float]],
    styles: Mapping[str, Style],
    label: str,
    cost_label: str,
    axes: Axes,
) -> None:
    """Draw the plot of `against_cost` on axes, in a figure that grows until all names have room."""
    points = [(row, costs[row], values) for row, values in accuracy.items() if row in costs]
    levels = [(row, mean(values)) for row, values in accuracy.items() if row not in costs]
    limit = max(max(x) for _, x, _ in points) * 1.1
    for row, x, y in points:
        style = styles[row]
        axes.errorbar(
            mean(x), mean(y), _reach(y), _reach(x), color=style.colour, marker=style.marker,
            markersize=5, linewidth=0.8, capsize=1.5,
        )  # fmt: skip
    for row, level in levels:
        axes.axhline(level, color=styles[row].colour, linestyle=styles[row].dash, linewidth=1.2)
    axes.margins(y=0.1)
    axes.set_ylabel(label)
    format_x_axis(axes, "minutes", limit)
    axes.set_xlabel(cost_label)
    axes.set_ylim(axes.get_ylim())
    label_ends(axes, [(row, limit * 1.02, level, styles[row]) for row, level in levels])
    label_points(axes, [(row, mean(x), mean(y), styles[row]) for row, x, y in points])


def _reach(values: Sequence[float]) -> list[list[float]] | None:
    """Return the distances [2][1] of the mean to the minimum and the maximum; None for one value."""
    if len(values) < 2:
        return None
    centre = mean(values)
    return [[max(centre - min(values), 0.0)], [max(max(values) - centre, 0.0)]]
