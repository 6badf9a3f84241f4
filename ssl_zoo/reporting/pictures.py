"""Plots as inline SVG, images as data URIs, and the style of each row on the page."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from types import MappingProxyType
from typing import Any
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from sklearn.isotonic import IsotonicRegression

from ssl_zoo.reporting.inputs import Missing
from ssl_zoo.text import printable

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours, which colour-blind people can tell apart, without black (invisible on a
dark page) and yellow (invisible on a white one)."""
MARKER_PATHS = {
    "o": "M5 1a4 4 0 1 0 .01 0z",
    "s": "M1.5 1.5h7v7h-7z",
    "^": "M5 .8 9.5 9h-9z",
    "D": "M5 .3 9.7 5 5 9.7.3 5z",
}
"""The SVG path of each marker in a square of 10 units, by matplotlib's name."""
DISTINCT_STYLES = len(PALETTE) * len(MARKER_PATHS)
"""The number of different styles."""

# Placeholders for the colours of the page, which depend on whether it is shown dark.
INK, SOFT, LINE = "#010203", "#010204", "#010205"
_PAGE = {INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)"}

_RC_PARAMS: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "ssl-zoo",
    "text.parse_math": False,  # a $ in a name is a $
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "text.color": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
}
_LONG_NUMBER = re.compile(r"(\d\.\d\d)\d+")
"""A number with more decimals than can be seen."""
_MIN_JPEG_SIZE = 48
"""Images with a smaller side, in pixels, are stored without loss."""


@dataclass(frozen=True)
class Style:
    """The style in which a row, or a class, is drawn everywhere on the page.

    Attributes:
        colour: the colour, in matplotlib's notation.
        marker: the marker, in matplotlib's notation.
        dash: the line style, in matplotlib's notation.
    """

    colour: str
    marker: str = "o"
    dash: str = "-"

    @property
    def css(self) -> str:
        """The colour in CSS."""
        return _PAGE.get(self.colour, self.colour)

    @property
    def path(self) -> str:
        """The marker as an SVG path in a square of 10 units."""
        return MARKER_PATHS[self.marker]


def numbered_style(number: int) -> Style:
    """Return one of the `DISTINCT_STYLES` styles; they repeat after that."""
    markers = list(MARKER_PATHS)
    marker = markers[(number + number // (2 * len(PALETTE))) % len(markers)]
    return Style(PALETTE[number % len(PALETTE)], marker)


OTHER = Style("#8C959F")
"""The style of all classes that have no other style."""


def row_styles(
    tasks: Iterable[str],
    baselines: Mapping[str, bool],
    families: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Style]:
    """Return the style of each row: tasks in colour, baselines in the colours of the page's text.

    Args:
        tasks: names of tasks, in an order that does not depend on their scores.
        baselines: whether each baseline is trained, by name.
        families: the families of tasks that share a style with all of their family.
    """
    tasks = list(tasks)
    groups = sorted({families.get(name, name) for name in tasks}) if families else tasks
    styles = {name: numbered_style(groups.index(families.get(name, name))) for name in tasks}
    dashes = cycle((":", "--", "-."))
    for (name, trained), marker in zip(baselines.items(), cycle(MARKER_PATHS), strict=False):
        styles[name] = Style(INK, marker) if trained else Style(SOFT, marker, next(dashes))
    return styles


def render_svg(
    paint: Callable[[Axes], None], name: str, alt: str, size: tuple[float, float] = (4.4, 2.9)
) -> Markup:
    """Draw a plot and return it as an SVG element for a page.

    Args:
        paint: draws on the axes.
        name: the prefix of all ids, unique on the page.
        alt: the alternative text.
        size: width and height in inches of 72 units.
    """
    buffer = io.StringIO()
    with rc_context(_RC_PARAMS), warnings.catch_warnings():
        # Browsers have the glyphs that matplotlib's font lacks.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure = Figure(figsize=size, layout="constrained")
        paint(figure.subplots())
        no_metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    return _inline(buffer.getvalue(), name, alt)


def _inline(document: str, name: str, alt: str) -> Markup:
    """Turn an SVG document into an HTML element: no namespaces or style sheet, and ids with a prefix."""
    root = ElementTree.fromstring(document)
    for parent in list(root.iter()):
        parent.tag = parent.tag.rpartition("}")[2]
        parent.attrib = {key.rpartition("}")[2]: value for key, value in parent.attrib.items()}
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    elements = list(root.iter())
    referred = {
        value.removeprefix("url(").removesuffix(")")
        for element in elements
        for key, value in element.attrib.items()
        if key in ("href", "clip-path")
    }
    for element in elements:
        identity = element.attrib.pop("id", None)
        if f"#{identity}" in referred:
            element.set("id", f"{name}-{identity}")
        for key in ("href", "clip-path"):
            if key in element.attrib:
                element.set(key, element.attrib[key].replace("#", f"#{name}-"))
        if "style" in element.attrib:
            for sentinel, variable in _PAGE.items():
                element.set("style", element.attrib["style"].replace(sentinel, variable))
        for key in ("d", "points", "transform", "x", "y"):
            if key in element.attrib:
                element.set(key, _LONG_NUMBER.sub(r"\1", element.attrib[key]))
    root.attrib = {"class": "plot", "viewBox": root.attrib["viewBox"], "role": "img"}
    root.set("aria-label", printable(alt))
    return Markup(ElementTree.tostring(root, encoding="unicode"))


@dataclass(frozen=True)
class Panel:
    """A picture with its title, or the reason why it is missing.

    Attributes:
        title: the title.
        picture: SVG, the URI of an image, or why there is none.
        row: the row that it shows; None if it shows several.
        alt: the alternative text of an image.
        folded: whether it is shown only on a click.
    """

    title: str
    picture: Markup | str | Missing
    row: str | None = None
    alt: str = ""
    folded: bool = False


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move values apart as little as possible: in the same order, `gap` apart, from `low` to `high`.

    If there is not enough room, they exceed `high`.
    """
    if not values:
        return []
    order = np.argsort(np.asarray(values), kind="stable")
    steps = gap * np.arange(len(order))
    fit = IsotonicRegression(y_min=low, y_max=max(low, high - gap * (len(order) - 1)))
    moved = fit.fit_transform(steps, np.asarray(values)[order] - steps) + steps
    return [float(moved[rank]) for rank in np.argsort(order)]


def label_ends(axes: Axes, ends: Sequence[tuple[str, float, float, Style]]) -> None:
    """Write names at the right edge, each with a thin line to its point.

    Args:
        axes: the axes, with final limits.
        ends: the name, x, y and style of each point.
    """
    low, high = axes.get_ylim()
    heights = spread([y for _, _, y, _ in ends], 0.075 * (high - low), low, high)
    for (name, x, y, style), height in zip(ends, heights, strict=True):
        axes.annotate(
            shorten(name), (x, y), (1.04, height), "data", axes.get_yaxis_transform(),
            va="center", color=INK, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": style.colour, "lw": 0.6, "alpha": 0.6,
                        "shrinkA": 0, "shrinkB": 2, "relpos": (0, 0.5)},
        )  # fmt: skip


def shorten(text: str, limit: int = 24) -> str:
    """Return a name with at most `limit` characters, all of them allowed in XML."""
    text = printable(text)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def scatter_png(points: np.ndarray[Any, np.dtype[Any]], styles: Sequence[Style], dpi: int = 180) -> str:
    """Draw points on a transparent square without axes, and return it as a data URI.

    Args:
        points: the coordinates [N, 2].
        styles: the style of each point [N].
        dpi: pixels per inch; the square has 3.6 inches.
    """
    figure = Figure(figsize=(3.6, 3.6), dpi=dpi)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.margins(0.04)
    # Drawn class by class, the last would hide the first; so part of each is drawn in turn.
    for part in np.array_split(np.arange(len(points)), min(10, len(points))):
        for style in dict.fromkeys(styles):
            chosen = points[[i for i in part if styles[i] == style]]
            axes.scatter(
                chosen[:, 0], chosen[:, 1], s=15, c=style.colour,
                marker=style.marker, linewidths=0, alpha=0.85,
            )  # fmt: skip
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", transparent=True)
    with Image.open(buffer) as image:
        return data_uri(image.quantize(128, Image.Quantize.FASTOCTREE))


def data_uri(image: Image.Image, compact: bool = False) -> str:
    """Return an image as a data URI: PNG, or JPEG if that is less than a third of the size.

    Args:
        image: the image.
        compact: use JPEG, of lower quality, wherever that is smaller.
    """
    content, kind = _encoded(image, "PNG", optimize=True), "png"
    if image.mode in ("L", "RGB") and (compact or max(image.size) >= _MIN_JPEG_SIZE):
        lossy = _encoded(image, "JPEG", quality=60 if compact else 85)
        if (1 if compact else 3) * len(lossy) < len(content):
            content, kind = lossy, "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
