"""Figures as inline SVG, images as data URIs, and the look of each row on the whole page."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
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
from torch import Tensor

from ssl_zoo.reporting.inputs import Missing
from ssl_zoo.text import printable

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours, which colour-blind people can tell apart, without the black and the yellow
that vanish on a dark and on a white page."""
SHAPES = {
    "o": "M5 1a4 4 0 1 0 .01 0z",
    "s": "M1.5 1.5h7v7h-7z",
    "^": "M5 .8 9.5 9h-9z",
    "D": "M5 .3 9.7 5 5 9.7.3 5z",
}
"""The markers, as matplotlib calls them, and as paths in a square of 10 units."""
DISTINCT = len(PALETTE) * len(SHAPES)
"""How many looks can be told apart."""

# Colours that stand for the page's own, which depend on whether it is shown dark.
INK, SOFT, LINE = "#010203", "#010204", "#010205"
_PAGE = {INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)"}

_STYLE: Any = {
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
_SMALLEST_JPEG = 48
"""Smaller images, in pixels, keep every pixel as it is."""


@dataclass(frozen=True)
class Look:
    """How a row, or a class, is drawn wherever it stands on the page.

    Attributes:
        colour: as matplotlib takes it.
        marker: likewise.
        dash: the style of its lines, likewise.
    """

    colour: str
    marker: str = "o"
    dash: str = "-"

    @property
    def css(self) -> str:
        """The colour as a style sheet takes it."""
        return _PAGE.get(self.colour, self.colour)

    @property
    def shape(self) -> str:
        """The marker as a path in a square of 10 units."""
        return SHAPES[self.marker]


def look(number: int) -> Look:
    """One of the `DISTINCT` looks; beyond them they repeat."""
    markers = list(SHAPES)
    marker = markers[(number + number // (2 * len(PALETTE))) % len(markers)]
    return Look(PALETTE[number % len(PALETTE)], marker)


OTHER = Look("#8C959F")
"""What has no look of its own."""


def looks(tasks: Iterable[str], baselines: Mapping[str, bool]) -> dict[str, Look]:
    """The look of each row: tasks in colour, baselines in the page's own inks.

    Args:
        tasks: names, in an order that does not depend on how well they do.
        baselines: by name whether it is trained.
    """
    found = {name: look(number) for number, name in enumerate(tasks)}
    dashes = cycle((":", "--", "-."))
    for (name, trained), marker in zip(baselines.items(), cycle(SHAPES), strict=False):
        found[name] = Look(INK, marker) if trained else Look(SOFT, marker, next(dashes))
    return found


def drawn(
    paint: Callable[[Axes], None], name: str, alt: str, size: tuple[float, float] = (4.4, 2.9)
) -> Markup:
    """A figure as an SVG element to be put into a page.

    Args:
        paint: what draws it.
        name: begins all its ids; no other figure of the page may have it.
        alt: what it shows, for who cannot see it.
        size: in inches of 72 units.
    """
    buffer = io.StringIO()
    with rc_context(_STYLE), warnings.catch_warnings():
        # Browsers have the letters that matplotlib's font lacks.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure = Figure(figsize=size, layout="constrained")
        paint(figure.subplots())
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _inline(buffer.getvalue(), name, alt)


def _inline(document: str, name: str, alt: str) -> Markup:
    """An SVG document as an element of HTML: no namespaces, no style of its own, no id twice."""
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
    root.attrib = {"class": "plot", "viewBox": root.attrib["viewBox"], "role": "img"}
    root.set("aria-label", printable(alt))
    return Markup(ElementTree.tostring(root, encoding="unicode"))


@dataclass(frozen=True)
class Panel:
    """A picture with its title, or what there is in its place.

    Attributes:
        title: what it shows.
        picture: SVG, or the address of an image; else why there is none.
        row: whose it is, where it is of one row.
        alt: what an image shows, for who cannot see it.
    """

    title: str
    picture: Markup | str | Missing
    row: str | None = None
    alt: str = ""


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The nearest values in the same order, between two bounds, with a gap between neighbours.

    Where there is no room for all they go beyond the upper bound.
    """
    if not values:
        return []
    order = np.argsort(np.asarray(values), kind="stable")
    steps = gap * np.arange(len(order))
    fit = IsotonicRegression(y_min=low, y_max=max(low, high - gap * (len(order) - 1)))
    moved = fit.fit_transform(steps, np.asarray(values)[order] - steps) + steps
    return [float(moved[place]) for place in np.argsort(order)]


def label_ends(axes: Axes, ends: Sequence[tuple[str, float, float, Look]]) -> None:
    """Write names at the right edge, each with a thin line to the point that it names.

    Args:
        axes: whose limits are final.
        ends: of each name its text, the point x and y, and the look.
    """
    low, high = axes.get_ylim()
    heights = spread([y for _, _, y, _ in ends], 0.075 * (high - low), low, high)
    for (name, x, y, its), height in zip(ends, heights, strict=True):
        axes.annotate(
            shortened(name), (x, y), (1.04, height), "data", axes.get_yaxis_transform(),
            va="center", color=INK, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": its.colour, "lw": 0.6, "alpha": 0.6,
                        "shrinkA": 0, "shrinkB": 2, "relpos": (0, 0.5)},
        )  # fmt: skip


def shortened(text: str, most: int = 24) -> str:
    """A name that a figure has room for, of letters that XML may hold."""
    text = printable(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def scatter_png(points: np.ndarray[Any, np.dtype[Any]], kinds: Sequence[Look]) -> str:
    """Points [N, 2] on a transparent square without axes, as a data URI.

    Args:
        points: where they are.
        kinds: of each the look.
    """
    figure = Figure(figsize=(3.6, 3.6), dpi=180)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.margins(0.04)
    # One group after the other would hide the first below the last; so they are drawn in turns.
    turns = np.array_split(np.arange(len(points)), min(10, len(points)))
    for turn in turns:
        for its in dict.fromkeys(kinds):
            of_kind = points[[i for i in turn if kinds[i] == its]]
            axes.scatter(
                of_kind[:, 0], of_kind[:, 1], s=15, c=its.colour,
                marker=its.marker, linewidths=0, alpha=0.85,
            )  # fmt: skip
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", transparent=True)
    with Image.open(buffer) as image:
        return data_uri(image.quantize(128, Image.Quantize.FASTOCTREE))


def image_of(pixels: Tensor) -> Image.Image:
    """An image uint8 [C, h, w], of one or three channels."""
    array = pixels.cpu().permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[-1] == 1 else array))


def data_uri(image: Image.Image) -> str:
    """An image as the address that holds it: PNG, or JPEG for a photograph, which takes far less."""
    content, kind = _encoded(image, "PNG", optimize=True), "png"
    if image.mode in ("L", "RGB") and max(image.size) >= _SMALLEST_JPEG:
        lossy = _encoded(image, "JPEG", quality=85)
        if 3 * len(lossy) < len(content):
            content, kind = lossy, "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
