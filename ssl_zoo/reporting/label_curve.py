"""Accuracy against the number of labels, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from matplotlib.axes import Axes

from ssl_zoo.errors import UserError
from ssl_zoo.evaluation.correctness import read_correctness
from ssl_zoo.evaluation.label_curve import COUNTS, NAME
from ssl_zoo.evaluation.pairing import Interval, accuracy_interval
from ssl_zoo.reporting.inputs import ReportInputs, representative
from ssl_zoo.reporting.pictures import Style, label_ends, render_svg

_ALL = "linear"
"""The metric of the same classifier on all labels."""
_DODGE = 0.06
"""The distance of the points of neighbouring rows, where 1 is that of neighbouring numbers of labels."""


def section(inputs: ReportInputs, styles: Mapping[str, Style]) -> dict[str, Any]:
    """Return the plot of accuracy against the number of labels a class.

    Raises:
        UserError: no row was evaluated with different numbers of labels.
    """
    curves: dict[str, dict[str, Interval]] = {}
    for row, members in inputs.rows.items():
        correct = read_correctness(representative(members).run.path)
        if row in styles and any(NAME.format(count) in correct for count in COUNTS):
            curves[row] = {metric: accuracy_interval(c) for metric, c in correct.items()}
    if not curves:
        raise UserError("no row was evaluated by the protocol label-curve")
    metrics = {NAME.format(count): str(count) for count in COUNTS} | {_ALL: "all"}
    metrics = {m: title for m, title in metrics.items() if any(m in c for c in curves.values())}
    ends = {row: list(curve.values())[-1] for row, curve in curves.items()}
    text = ", ".join(f"{row} {interval}" for row, interval in ends.items())
    paint = partial(_paint, curves, metrics, styles)
    return {"picture": render_svg(paint, "labels", f"Accuracy by labels a class: {text}", (6.0, 3.6))}


def _paint(
    curves: Mapping[str, Mapping[str, Interval]],
    metrics: Mapping[str, str],
    styles: Mapping[str, Style],
    axes: Axes,
) -> None:
    ends = []
    for number, (row, curve) in enumerate(curves.items()):
        style, shift = styles[row], _DODGE * (number - (len(curves) - 1) / 2)
        known = [(i, curve[m]) for i, m in enumerate(metrics) if m in curve]
        x = [i + shift for i, _ in known]
        y = [interval.mean for _, interval in known]
        reach = [interval.half_width for _, interval in known]
        axes.errorbar(
            x, y, reach, color=style.colour, marker=style.marker, linestyle=style.dash, markersize=4,
            linewidth=1.2, elinewidth=0.8, capsize=1.5,
        )  # fmt: skip
        ends.append((row, x[-1] + _DODGE, y[-1], style))
    axes.set_xticks(range(len(metrics)), list(metrics.values()))
    axes.set_xlabel("labels a class")
    axes.set_ylabel("accuracy %")
    axes.set_xlim(-0.3, len(metrics) - 0.7)
    axes.set_ylim(axes.get_ylim())
    label_ends(axes, ends)
