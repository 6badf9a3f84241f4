"""Accuracy against its cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import mean
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from ssl_zoo.comparison.table import Outcome
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation import known_metrics
from ssl_zoo.reporting.curves import finish
from ssl_zoo.reporting.inputs import Material, Missing, figures
from ssl_zoo.reporting.pictures import Look, drawn, label_ends

METRICS = ("linear", "knn")
"""The accuracies, of which the first is taken that there is."""


def section(material: Material, looks: Mapping[str, Look]) -> dict[str, Any]:
    """Accuracy against minutes of training.

    Raises:
        UserError: there is no accuracy yet, or none of anything that was trained.
    """
    if isinstance(material.table, Missing):
        raise UserError(material.table.reason)
    seconds = figures(material.table, lambda outcome: outcome.facts.get("seconds"))
    minutes = {row: [value / 60 for value in its] for row, its in seconds.items()}
    for metric in METRICS:
        accuracy = figures(material.table, partial(_score, metric))
        if accuracy.keys() & minutes.keys():
            what = known_metrics()[metric]
            picture = against_minutes(accuracy, minutes, looks, what.title)
            return {"picture": picture, "metric": what.title, "how": what.how}
    raise UserError("there is no accuracy to show: the data has no labels, or no run has ended")


def _score(metric: str, outcome: Outcome) -> float | None:
    return outcome.scores.get(metric)


def against_minutes(
    accuracy: Mapping[str, Sequence[float]],
    minutes: Mapping[str, Sequence[float]],
    looks: Mapping[str, Look],
    what: str,
) -> Markup:
    """Draw a point for each row that was trained, and a line across for each that was not.

    Args:
        accuracy: of each row, run by run.
        minutes: of training, likewise, for each row that was trained.
        looks: of each row.
        what: the accuracy, with the unit.
    """
    points = [(row, minutes[row], its) for row, its in accuracy.items() if row in minutes]
    levels = [(row, mean(its)) for row, its in accuracy.items() if row not in minutes]
    most = max(max(x) for _, x, _ in points) * 1.1

    def paint(axes: Axes) -> None:
        for row, x, y in points:
            look = looks[row]
            axes.errorbar(
                mean(x), mean(y), _reach(y), _reach(x), color=look.colour, marker=look.marker,
                markersize=6, linewidth=1.2, capsize=2.5,
            )  # fmt: skip
        for row, level in levels:
            axes.axhline(level, color=looks[row].colour, linestyle=looks[row].dash, linewidth=1.2)
        axes.margins(y=0.1)
        axes.set_ylabel(what)
        finish(axes, "minutes", most)
        ends = [(row, mean(x), mean(y), looks[row]) for row, x, y in points]
        ends += [(row, most * 1.02, level, looks[row]) for row, level in levels]
        label_ends(axes, ends)

    said = "; ".join(f"{row} {mean(y):.1f} in {mean(x):.2g} minutes" for row, x, y in points)
    return drawn(paint, "cost", f"{what} against minutes of training: {said}", (4.6, 3.0))


def _reach(values: Sequence[float]) -> list[list[float]] | None:
    """How far the mean of several values is from the least and from the greatest."""
    if len(values) < 2:
        return None
    middle = mean(values)
    return [[max(middle - min(values), 0.0)], [max(max(values) - middle, 0.0)]]
