"""``ssl-zoo views``: the views of a task, as pictures or as texts."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ssl_zoo import tree
from ssl_zoo.config.schema import RunConfig
from ssl_zoo.data import DataSet
from ssl_zoo.errors import UserError
from ssl_zoo.nn import full_precision, unit
from ssl_zoo.runs.build import build_data, build_task, restore_task
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.defaults import torch_defaults
from ssl_zoo.runtime.files import check_output_file, write_atomic
from ssl_zoo.spec import Spec
from ssl_zoo.task import Task
from ssl_zoo.text import printable
from ssl_zoo.tree import Tree
from ssl_zoo.views import Rng, derive_seed

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
NEAREST = ("nearest to {}", "2nd nearest", "3rd nearest")
"""The captions of what a task finds most like the first view of a sample, whose caption is filled in."""

_MARGIN = 6
_CAPTION = 18
_FRAME = 4
_RIGHT = "#00a040"
_OUTLINE = "#c0c0c0"


@dataclass(frozen=True)
class Answer:
    """A view that a task finds like another one.

    Attributes:
        shown: the picture or text of the view.
        similarity: the cosine of both embeddings.
        right: whether both views are of one sample.
    """

    shown: Image.Image | str
    similarity: float
    right: bool

    def __str__(self) -> str:
        note = ", of the same sample" if self.right else ""
        return f"{self.shown} ({self.similarity:.2f}{note})"


Cell = Image.Image | str | Answer
Columns = Mapping[str, Sequence[Cell]]
"""A picture, a text, or an answer of the task, of each sample, by caption."""


@torch_defaults()
def views(
    config: RunConfig | None, run: str | Path | None = None, rows: int = 8, seed: int | None = None
) -> Columns:
    """Show a few random training samples, their views, and a trained run's reconstructions.

    Args:
        config: the configuration, where no run is given.
        run: a trained run, whose configuration and weights are used.
        rows: the number of samples.
        seed: the seed of the samples and views; None for the configuration's.

    Raises:
        UserError: there is no run at `run`, or the data cannot be shown.
    """
    opened = Run.open(run) if run is not None else None
    if opened is not None:
        config = opened.with_inputs(opened.config())
    if config is None:
        raise TypeError("views needs a config or a run")
    data = build_data(config, torch.device("cpu"))
    task = build_task(config, data.spec) if opened is None else restore_task(opened, data.spec)
    seed = config.train.seed if seed is None else seed
    return columns(task, data, rows, seed, trained=opened is not None)


@torch.no_grad()
def columns(task: Task, data: DataSet, rows: int, seed: int, *, trained: bool) -> Columns:
    """Show a few random training samples, their views, and a trained task's reconstructions.

    Args:
        task: the task, on the CPU.
        data: the samples.
        rows: the number of samples.
        seed: the seed of the samples and views.
        trained: whether to include reconstructions.

    Raises:
        UserError: the data cannot be shown.
    """
    rng = Rng(derive_seed(seed, "picture"))
    task.eval()
    samples = data.train.at_pass(derive_seed(seed, "pass"))
    batch = samples.batch(rng.permutation(len(samples))[:rows])
    batch = tree.move(batch, torch.device("cpu"))
    drawn = task.views(batch, rng)
    source, views = data.spec.prepare(batch), task.gallery(drawn)
    shown = {"source": source, **views}
    if trained:
        asked = {caption: view for caption, view in views.items() if not isinstance(view, list)}
        shown |= task.reconstructions(drawn)
        with torch.random.fork_rng(devices=[]):  # an embedding may have dropout
            torch.manual_seed(derive_seed(seed, "compared"))
            shown |= nearest(task, data.spec, {**asked, "source": source}) if asked else {}
    return {
        caption: column if isinstance(column, list) else data.spec.show(column)
        for caption, column in shown.items()
    }


def nearest(task: Task, spec: Spec, asked: Mapping[str, Tree]) -> dict[str, list[Answer]]:
    """Return the views that a task finds most like the first one of each sample, nearest first.

    A trained joint-embedding task finds that of the same sample among those of all samples. Of equally
    near ones the first sample's comes first.

    Args:
        task: the task; the result is empty if it compares no views.
        spec: the description of the data.
        asked: by caption the first view of each sample, a prepared batch [B, ...], then the views among
            which it looks: the second ones, or the sources if there is one view. More are ignored.
    """
    (first, view), (_, other), *_ = asked.items()
    query = task.compared(view)
    if query is None:
        return {}
    key = task.compared(other)
    assert key is not None
    similarity = unit(full_precision(query)) @ unit(full_precision(key)).T  # [B, B]
    order = similarity.argsort(dim=1, descending=True, stable=True).tolist()
    cells = spec.show(other)
    return {
        caption.format(first): [
            Answer(cells[row[k]], float(similarity[i, row[k]]), row[k] == i)
            for i, row in enumerate(order)
        ]
        for k, caption in enumerate(NEAREST[: len(cells)])
    }


def check_file(file: Path) -> None:
    """Raise unless views can be written to a file.

    Raises:
        UserError: it cannot be written, or is neither ``.png`` nor ``.txt``.
    """
    check_output_file("-o", file, {".png": (), ".txt": ()})


def save(columns: Columns, file: Path) -> None:
    """Write pictures as PNG, or texts as lines, atomically.

    Raises:
        UserError: the file is for the other kind.
    """
    text = as_text(columns)
    suffix, kind = (".png", "pictures") if text is None else (".txt", "texts")
    if file.suffix.lower() != suffix:
        raise UserError(f"-o {file}: these are {kind}; name it {file.with_suffix(suffix)}")
    if text is not None:
        write_atomic(file, text.encode())
        return
    buffer = io.BytesIO()
    draw(columns).save(buffer, "PNG")
    write_atomic(file, buffer.getvalue())


def as_text(columns: Columns) -> str | None:
    """Return texts as lines, those of a sample below each other; None if there are pictures."""
    if any(_is_picture(cell) for column in columns.values() for cell in column):
        return None
    width = max(map(len, columns))
    rows = range(max(map(len, columns.values())))
    return "\n".join(
        "".join(
            f"{caption:{width}}  {printable(str(column[row]))}\n"
            for caption, column in columns.items()
            if row < len(column)
        )
        for row in rows
    )


def _is_picture(cell: Cell) -> bool:
    """Return whether a cell is a picture, or an answer that is one."""
    return isinstance(cell.shown if isinstance(cell, Answer) else cell, Image.Image)


def draw(columns: Columns, cell: int = 96, limit: int | None = None) -> Image.Image:
    """Lay out pictures side by side, one sample per row; texts among them are drawn too.

    Pictures have a thin outline, so that white ones show. Below an answer stands its similarity, and
    the right one is framed.

    Args:
        columns: what to draw.
        cell: the smallest width of a picture, in pixels; smaller ones are enlarged by an integer
            factor, without smoothing.
        limit: the largest width, to which others are shrunk; None for any.
    """
    font = ImageFont.load_default(12)
    pictures = {
        caption: [_picture(shown, font, cell, limit) for shown in column]
        for caption, column in columns.items()
    }
    widths = [
        max(int(font.getlength(caption)), *(picture.width for picture in column))
        for caption, column in pictures.items()
    ]
    rows = max(len(column) for column in pictures.values())
    height = max(picture.height for column in pictures.values() for picture in column)
    sheet = Image.new(
        "RGB",
        (
            sum(widths) + _MARGIN * (len(widths) + 1),
            _CAPTION + rows * (height + _MARGIN) + _MARGIN,
        ),
        "white",
    )
    pen = ImageDraw.Draw(sheet)
    left = _MARGIN
    for (caption, column), width in zip(pictures.items(), widths, strict=True):
        pen.text((left, 3), caption, fill="black", font=font)
        for row, picture in enumerate(column):
            top = _CAPTION + row * (height + _MARGIN)
            sheet.paste(picture, (left, top))
            if _is_picture(shown := columns[caption][row]):
                w, h = _size(shown, cell, limit)
                pen.rectangle((left - 1, top - 1, left + w, top + h), outline=_OUTLINE)
        left += width + _MARGIN
    return sheet


def _picture(shown: Cell, font: Font, cell: int, limit: int | None) -> Image.Image:
    """Return a picture at the size at which it is drawn, or the picture of a text."""
    if isinstance(shown, Answer) and isinstance(shown.shown, Image.Image):
        return _answer(shown, _picture(shown.shown, font, cell, limit), font)
    if not isinstance(shown, Image.Image):
        lines = [printable(line) for line in str(shown).split("\n")]
        width = max(int(font.getlength(line)) for line in lines)
        picture = Image.new("RGB", (max(1, width), _CAPTION * len(lines)), "white")
        for i, line in enumerate(lines):
            ImageDraw.Draw(picture).text((0, 2 + _CAPTION * i), line, fill="black", font=font)
        return picture
    size = _size(shown, cell, limit)
    shrunk = size < shown.size
    return shown.resize(size, Image.Resampling.BILINEAR if shrunk else Image.Resampling.NEAREST)


def _size(shown: Cell, cell: int, limit: int | None) -> tuple[int, int]:
    """Return the width and height at which a picture is drawn, without what stands below an answer."""
    picture = shown.shown if isinstance(shown, Answer) else shown
    assert isinstance(picture, Image.Image)
    width, height = picture.size
    if limit is not None and width > limit:
        return limit, max(1, round(height * limit / width))
    factor = max(1, -(-cell // width))
    return width * factor, height * factor


def _answer(answer: Answer, picture: Image.Image, font: Font) -> Image.Image:
    """Return a picture with the similarity below it, and a frame if it is the right one."""
    drawn = picture.convert("RGB")
    colour = _RIGHT if answer.right else "black"
    if answer.right:
        inner = drawn.crop((_FRAME, _FRAME, drawn.width - _FRAME, drawn.height - _FRAME))
        drawn = ImageOps.expand(inner, _FRAME, _RIGHT)
    text = f"{answer.similarity:.2f}" + (" right" if answer.right else "")
    width = max(drawn.width, int(font.getlength(text)) + 1)
    whole = Image.new("RGB", (width, drawn.height + _CAPTION), "white")
    whole.paste(drawn)
    ImageDraw.Draw(whole).text((0, drawn.height + 2), text, fill=colour, font=font)
    return whole
