"""Names beside the points of a plot, so that none covers another name or a point."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from ssl_zoo.reporting.pictures import INK, Style, shorten

Array = NDArray[np.float64]

FONT_SIZE = 7.5
"""The size of the names in points."""
MARKER_SIZE = 7.0
"""The side in points of the square that a marker covers."""
_ANGLES = np.deg2rad([35, 325, 145, 215, 90, 270, 0, 180, 65, 115, 295, 245])
"""The directions of a name, first those in which it covers no bar of its point."""
_STEP = 4.0
"""The step in points by which a name moves away from its point."""
_NEAREST = 40
"""The number of free places nearest to a point among which one with a clear line is looked for."""
_ON_LINE = np.linspace(0, 1, 12)


def place(anchors: Array, sizes: Array, area: tuple[float, float]) -> Array | None:
    """Choose a place for each name near its point; return None if there is no room.

    No name covers another or a point; nor, where there is room, the line from a name to its point.

    Args:
        anchors: the points [N, 2], in points of length.
        sizes: width and height of the names [N, 2].
        area: width and height of the plot; its lower left corner is (0, 0).

    Returns:
        The boxes [N, 4]: left, bottom, right, top.
    """
    markers = np.hstack([anchors - MARKER_SIZE / 2, anchors + MARKER_SIZE / 2])
    boxes = np.zeros((0, 4))
    lines = np.zeros((0, 2))
    chosen = np.zeros((len(anchors), 4))
    for index in np.lexsort((anchors[:, 0], -anchors[:, 1])):
        obstacles = np.vstack([boxes, np.delete(markers, index, 0)])
        taken = np.vstack([obstacles, markers[index]])
        candidates = _candidates(anchors[index], sizes[index], area)
        free = [box for box in candidates if not _overlaps(box, taken).any()]
        if not free:
            return None
        clear = (
            box
            for box in free[:_NEAREST]
            if not _covers(box, lines).any()
            and not any(_covers(other, _line(anchors[index], box)).any() for other in obstacles)
        )
        box = chosen[index] = next(clear, free[0])
        boxes, lines = np.vstack([boxes, box]), np.vstack([lines, _line(anchors[index], box)])
    return chosen


def _candidates(anchor: Array, size: Array, area: tuple[float, float]) -> Array:
    """Return the boxes [C, 4] of a name around its point that lie in the plot, the nearest first."""
    distances = MARKER_SIZE / 2 + 1 + _STEP * np.arange(1 + int(max(area) / 2 / _STEP))
    directions = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], 1)
    # The nearest point of the box lies in the direction, at the distance.
    centres = anchor + directions * (distances[:, None, None] + size / 2 * np.abs(directions))
    centres = centres.reshape(-1, 2)
    boxes = np.hstack([centres - size / 2, centres + size / 2])
    inside = (boxes[:, :2] >= 0).all(1) & (boxes[:, 2:] <= area).all(1)
    return np.asarray(boxes[inside])


def _overlaps(box: Array, others: Array) -> NDArray[np.bool_]:
    """Return which boxes [N, 4] overlap a box [4]."""
    return np.asarray((box[:2] < others[:, 2:]).all(1) & (others[:, :2] < box[2:]).all(1))


def _covers(box: Array, points: Array) -> NDArray[np.bool_]:
    """Return which points [N, 2] lie in a box [4]."""
    return np.asarray((box[:2] < points).all(1) & (points < box[2:]).all(1))


def _line(anchor: Array, box: Array) -> Array:
    """Return points [P, 2] on the line from a point to the nearest point of its name."""
    nearest = np.clip(anchor, box[:2], box[2:])
    return np.asarray(anchor + _ON_LINE[:, None] * (nearest - anchor))


def label_points(axes: Axes, points: Sequence[tuple[str, float, float, Style]]) -> list[Annotation]:
    """Write the name of each point beside it, in a figure that grows in height until all have room.

    Args:
        axes: the axes, with final limits and labels.
        points: the name, x, y and style of each point.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    names = [axes.text(0, 0, shorten(name), fontsize=FONT_SIZE) for name, *_ in points]
    scale = 72 / figure.dpi
    FigureCanvasAgg(figure)  # which measures texts
    sizes = np.array([name.get_window_extent().size for name in names]) * scale + (2, 0)
    for name in names:
        name.remove()
    while True:
        figure.draw_without_rendering()  # lays out the axes
        anchors = axes.transData.transform([(x, y) for _, x, y, _ in points])
        area: Bbox = axes.bbox
        boxes = place((anchors - area.p0) * scale, sizes, (area.width * scale, area.height * scale))
        if boxes is not None:
            break
        figure.set_figheight(figure.get_figheight() * 1.2)
    offsets = boxes[:, :2] - (anchors - area.p0) * scale
    return [_annotate(axes, *point, offset) for point, offset in zip(points, offsets, strict=True)]


def _annotate(axes: Axes, name: str, x: float, y: float, style: Style, offset: Array) -> Annotation:
    """Write a name at an offset [2] in points of its lower left corner from its point."""
    return axes.annotate(
        shorten(name), (x, y), (offset[0] + 1, offset[1]), textcoords="offset points", color=INK,
        fontsize=FONT_SIZE, va="bottom", ha="left", in_layout=False,
        arrowprops={"arrowstyle": "-", "color": style.colour, "lw": 0.5, "alpha": 0.7, "shrinkA": 0,
                    "shrinkB": 3},
    )  # fmt: skip
