"""Accuracy against training time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import mean
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from ssl_zoo.comparison.columns import Outcome
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation import known_metrics
from ssl_zoo.reporting.curves import format_x_axis
from ssl_zoo.reporting.inputs import Missing, ReportInputs, values_by_row
from ssl_zoo.reporting.pictures import Style, label_ends, render_svg

METRICS = ("linear", "knn")
"""The accuracies in order of preference; the plot shows the first that is available."""


def section(inputs: ReportInputs, styles: Mapping[str, Style]) -> dict[str, Any]:
    """Return the plot of accuracy against minutes of training.

    Raises:
        UserError: there is no accuracy yet, or only that of baselines that are not trained.
    """
    if isinstance(inputs.table, Missing):
        raise UserError(inputs.table.reason)
    seconds = values_by_row(inputs.table, lambda outcome: outcome.facts.get("seconds"))
    minutes = {row: [value / 60 for value in values] for row, values in seconds.items()}
    for name in METRICS:
        accuracy = values_by_row(inputs.table, partial(_score, name))
        if accuracy.keys() & minutes.keys():
            metric = known_metrics()[name]
            picture = against_minutes(accuracy, minutes, styles, metric.title)
            return {"picture": picture, "metric": metric.title, "how": metric.how}
    outcomes = [outcome.facts.get("data", {}) for outcome in inputs.table.outcomes]
    reasons = {facts["no_accuracy"] for facts in outcomes if facts.get("no_accuracy")}
    reason = " and ".join(f"the data {text}" for text in sorted(reasons))
    raise UserError(f"there is no accuracy to show: {reason or 'no run with one has ended'}")


def _score(metric: str, outcome: Outcome) -> float | None:
    return outcome.scores.get(metric)


def against_minutes(
    accuracy: Mapping[str, Sequence[float]],
    minutes: Mapping[str, Sequence[float]],
    styles: Mapping[str, Style],
    label: str,
) -> Markup:
    """Draw a point for each trained row, and a horizontal line for each other row.

    Args:
        accuracy: the accuracies by row, one per run.
        minutes: the minutes of training by row, one per run; trained rows only.
        styles: the style of each row.
        label: the label of the accuracy axis, with the unit.
    """
    points = [(row, minutes[row], values) for row, values in accuracy.items() if row in minutes]
    levels = [(row, mean(values)) for row, values in accuracy.items() if row not in minutes]
    limit = max(max(x) for _, x, _ in points) * 1.1

    def paint(axes: Axes) -> None:
        for row, x, y in points:
            style = styles[row]
            axes.errorbar(
                mean(x), mean(y), _reach(y), _reach(x), color=style.colour, marker=style.marker,
                markersize=6, linewidth=1.2, capsize=2.5,
            )  # fmt: skip
        for row, level in levels:
            axes.axhline(level, color=styles[row].colour, linestyle=styles[row].dash, linewidth=1.2)
        axes.margins(y=0.1)
        axes.set_ylabel(label)
        format_x_axis(axes, "minutes", limit)
        ends = [(row, mean(x), mean(y), styles[row]) for row, x, y in points]
        ends += [(row, limit * 1.02, level, styles[row]) for row, level in levels]
        label_ends(axes, ends)

    values = "; ".join(f"{row} {mean(y):.1f} in {mean(x):.2g} minutes" for row, x, y in points)
    return render_svg(paint, "cost", f"{label} against minutes of training: {values}", (4.6, 3.0))


def _reach(values: Sequence[float]) -> list[list[float]] | None:
    """Return the distances [2][1] of the mean to the minimum and the maximum; None for one value."""
    if len(values) < 2:
        return None
    centre = mean(values)
    return [[max(centre - min(values), 0.0)], [max(max(values) - centre, 0.0)]]
