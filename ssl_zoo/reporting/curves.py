"""Curves of the metrics logged during training."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from ssl_zoo.evaluation import ONLINE_EVAL_SIZES
from ssl_zoo.reporting.inputs import Member, Missing, ReportInputs, attempt, values_by_row
from ssl_zoo.reporting.pictures import SOFT, Panel, Style, label_ends, render_svg
from ssl_zoo.runs.run import Run

Values = NDArray[np.float64]

AXES = {"samples": "by {noun} seen", "minutes": "by minutes of training"}
"""The horizontal axes, and the titles of plots over them."""
MAX_JOINT = 10
"""More curves than this are drawn in a plot for each instead of one for all."""
MAX_MARKERS = 20
"""A curve of more points than this is drawn without markers."""
MAX_POINTS = 150
"""A curve of more points than this is reduced to the means of this many segments."""


@dataclass(frozen=True)
class Curve:
    """A logged metric of all runs of a row: its mean and range over the runs at P points.

    Attributes:
        samples: the samples drawn so far [P], mean over the runs.
        minutes: the minutes of training so far [P], mean over the runs.
        mean: the mean of the metric [P].
        low: the minimum of the metric [P].
        high: the maximum of the metric [P].
        runs: the number of runs.
    """

    samples: Values
    minutes: Values
    mean: Values
    low: Values
    high: Values
    runs: int

    def x(self, axis: str) -> Values:
        """Return the points [P] on the axis `samples` or `minutes`."""
        return self.samples if axis == "samples" else self.minutes


def logged(run: Run, key: str) -> Values:
    """Return a metric that a run logged: samples, minutes and the value of each line, [P, 3]."""
    lines = [line for line in run.metrics() if key in line]
    values = [(line["samples"], line["seconds"] / 60, line[key]) for line in lines]
    array = np.array(values, dtype=np.float64).reshape(-1, 3)
    return array[np.isfinite(array).all(1)]


def curve(runs: Sequence[Values]) -> Curve | None:
    """Return the curve of several runs, up to the point that all have reached; None if empty.

    Args:
        runs: the logged metric of each run, [P, 3], as `logged` returns it.
    """
    length = min(map(len, runs), default=0)
    if not length:
        return None
    stacked = np.stack([run[:length] for run in runs])  # [R, P, 3]
    values = stacked[..., 2]
    columns = [*stacked[..., :2].mean(0).T, values.mean(0), values.min(0), values.max(0)]
    segments = np.array_split(np.arange(length), min(length, MAX_POINTS))
    samples, minutes, mean, low, high = (
        np.array([column[segment].mean() for segment in segments]) for column in columns
    )
    return Curve(samples, minutes, mean, low, high, len(runs))


def curves_of(runs: Mapping[str, Sequence[Run]], key: str) -> dict[str, Curve | Missing]:
    """Return the curve of each row that logged a metric, or why its log cannot be read."""
    curves = {row: attempt(partial(_curve_of, of_row, key)) for row, of_row in runs.items()}
    return {row: value for row, value in curves.items() if value is not None}


def _curve_of(runs: Sequence[Run], key: str) -> Curve | None:
    return curve([logged(run, key) for run in runs])


def _draw_curve(axes: Axes, x: Values, curve: Curve, style: Style) -> None:
    marker = style.marker if len(x) <= MAX_MARKERS else None
    axes.plot(x, curve.mean, color=style.colour, marker=marker)
    if curve.runs > 1:
        axes.fill_between(x, curve.low, curve.high, color=style.colour, alpha=0.18, linewidth=0)


def format_x_axis(axes: Axes, axis: str, limit: float, noun: str = "samples") -> None:
    """Set the range, the label and the ticks of the axis `samples` or `minutes`."""
    axes.set_xlim(0, limit * 1.02 or 1.0)
    axes.set_xlabel(f"{noun} seen" if axis == "samples" else "minutes of training")
    _format_ticks(axes, axis)


def _format_ticks(axes: Any, axis: str, number: int = 4) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(number, steps=[1, 2, 2.5, 5, 10]))
    if axis == "samples":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def loss_plot(row: str, curve: Curve, style: Style, name: str, noun: str) -> Markup:
    """Draw the loss of one row by samples seen, with a second axis for minutes of training.

    The second axis assumes a constant speed.
    """

    def paint(axes: Axes) -> None:
        _draw_curve(axes, curve.samples, curve, style)
        format_x_axis(axes, "samples", float(curve.samples[-1]), noun)
        speed = curve.samples[-1] / max(curve.minutes[-1], 1e-9)
        above = axes.secondary_xaxis("top", functions=(lambda x: x / speed, lambda x: x * speed))
        above.spines["top"].set_visible(True)
        above.set_xlabel("minutes of training")
        _format_ticks(above, "minutes")
        axes.set_ylabel("loss")

    alt = f"Loss of {row}, from {curve.mean[0]:.3g} to {curve.mean[-1]:.3g}"
    return render_svg(paint, name, alt, (3.4, 2.5))


def joint_plot(
    curves: Mapping[str, Curve],
    styles: Mapping[str, Style],
    axis: str,
    label: str,
    name: str,
    levels: Mapping[str, float] | None = None,
    noun: str = "samples",
) -> Markup:
    """Draw a metric of all rows in one plot.

    Args:
        curves: the curve of each row.
        styles: the style of each row.
        axis: ``samples`` or ``minutes``.
        label: the label of the metric, with the unit.
        name: the name of the plot, unique on the page.
        levels: values of rows without a curve, drawn as horizontal lines.
        noun: the plural noun for samples.
    """

    def paint(axes: Axes) -> None:
        limit = max(float(curve.x(axis)[-1]) for curve in curves.values())
        ends = []
        for row, curve in curves.items():
            x = curve.x(axis)
            _draw_curve(axes, x, curve, styles[row])
            ends.append((row, float(x[-1]), float(curve.mean[-1]), styles[row]))
        for row, level in (levels or {}).items():
            axes.axhline(level, color=styles[row].colour, linestyle=styles[row].dash, linewidth=1.2)
            ends.append((row, limit, level, styles[row]))
        format_x_axis(axes, axis, limit, noun)
        axes.set_ylabel(label)
        label_ends(axes, ends)

    values = ", ".join(f"{row} {curve.mean[-1]:.3g}" for row, curve in curves.items())
    by = noun if axis == "samples" else axis
    return render_svg(paint, name, f"{label} by {by}, at the end: {values}")


def small_multiples(
    curves: Mapping[str, Curve],
    styles: Mapping[str, Style],
    label: str,
    name: str,
    levels: Mapping[str, float] | None = None,
) -> list[Panel]:
    """Draw a metric by samples seen in one small plot for each row, all with one scale.

    A grey band shows the middle half of all rows.

    Args:
        curves: the curve of each row.
        styles: the style of each row.
        label: the label of the metric, with the unit.
        name: the prefix of the names of the plots, unique on the page.
        levels: values of rows without a curve, drawn as horizontal lines.
    """
    levels = levels or {}
    limit = max(float(curve.samples[-1]) for curve in curves.values())
    grid = np.linspace(max(float(curve.samples[0]) for curve in curves.values()), limit, 20)
    all_means = np.stack([np.interp(grid, curve.samples, curve.mean) for curve in curves.values()])
    quarters = np.quantile(all_means, (0.25, 0.75), axis=0)
    extremes = [x for curve in curves.values() for x in (curve.low.min(), curve.high.max())]
    extremes += levels.values()
    margin = 0.05 * (max(extremes) - min(extremes)) or 1.0

    def paint(row: str, axes: Axes) -> None:
        axes.fill_between(grid, *quarters, color=SOFT, alpha=0.2, linewidth=0)
        for other, level in levels.items():
            style = styles[other]
            axes.axhline(level, color=style.colour, linestyle=style.dash, linewidth=0.8)
        _draw_curve(axes, curves[row].samples, curves[row], styles[row])
        axes.set_ylim(min(extremes) - margin, max(extremes) + margin)
        axes.set_xlim(0, limit * 1.02 or 1.0)
        _format_ticks(axes, "samples", 3)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.tick_params(labelsize=8)

    def panel(number: int, row: str, end: float) -> Panel:
        alt = f"{label} of {row}, at the end {end:.3g}"
        plot = attempt(partial(render_svg, partial(paint, row), f"{name}-{number}", alt, (2.0, 1.35)))
        return Panel(f"{row} {end:#.3g}", plot, row)

    return [panel(i, row, curves[row].mean[-1]) for i, row in enumerate(curves)]


def section(
    inputs: ReportInputs, styles: Mapping[str, Style], pictured: Collection[str]
) -> dict[str, Any]:
    """Return the plots of the loss, of kNN during training, and of bounds on mutual information.

    Args:
        inputs: the runs.
        styles: the style of each row.
        pictured: the rows whose losses are shown without a click.
    """
    runs = {row: of_row for row, members in inputs.rows.items() if (of_row := logging_runs(members))}
    losses = curves_of(runs, "loss")
    knn, bounds = (_readable(curves_of(runs, key)) for key in ("knn", "mi_bound"))
    final = values_by_row(inputs.table, lambda outcome: outcome.scores.get("knn"))
    levels = {row: mean(values) for row, values in final.items() if row not in knn}

    def loss_panel(number: int, row: str, curve: Curve | Missing) -> Panel:
        folded = row not in pictured
        if isinstance(curve, Missing):
            return Panel(row, curve, row, folded=folded)
        plot = partial(loss_plot, row, curve, styles[row], f"loss-{number}", inputs.noun)
        return Panel(row, attempt(plot), row, folded=folded)

    def panels(
        name: str, label: str, curves: Mapping[str, Curve], levels: Mapping[str, float] | None = None
    ) -> list[Panel]:
        if len(curves) > MAX_JOINT:
            return small_multiples(curves, styles, label, name, levels)
        return [
            Panel(
                title.format(noun=inputs.noun),
                attempt(
                    partial(
                        joint_plot, curves, styles, axis, label, f"{name}-{axis}", levels, inputs.noun
                    )
                ),
            )
            for axis, title in AXES.items()
            if curves
        ]

    return {
        "noun": inputs.noun,
        "loss": [loss_panel(number, *item) for number, item in enumerate(losses.items())],
        "knn": panels("knn", "kNN %", knn, levels),
        "bound": panels("bound", "nats", bounds),
        "max_joint": MAX_JOINT,
        "online_eval_sizes": ONLINE_EVAL_SIZES,
        "levels": {row: f"{row} {level:.1f}" for row, level in levels.items()},
    }


def _readable(curves: Mapping[str, Curve | Missing]) -> dict[str, Curve]:
    return {row: curve for row, curve in curves.items() if isinstance(curve, Curve)}


def logging_runs(members: Sequence[Member]) -> list[Run]:
    """Return the runs to draw the curves of a row from: those that are done, else the longest one."""
    trained = [m for m in members if m.kind == "trained" and m.run.metrics_file.is_file()]
    done = [m.run for m in trained if m.incomplete is None]
    furthest = sorted((m.run for m in trained), key=lambda run: -run.metrics_file.stat().st_size)
    return done or furthest[:1]
