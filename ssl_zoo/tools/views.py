"""``ssl-zoo views``: pictures of the views of a task."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ssl_zoo.config.schema import RunConfig
from ssl_zoo.data import DataSet
from ssl_zoo.errors import UserError
from ssl_zoo.runs.build import build_data, build_task, restore_task
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.defaults import torch_defaults
from ssl_zoo.runtime.files import write_atomic
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Task
from ssl_zoo.views import Rng, derive_seed

_MARGIN = 6
_CAPTION = 18


@torch_defaults()
def picture(
    config: RunConfig | None, run: str | Path | None = None, rows: int = 8, seed: int | None = None
) -> Image.Image:
    """Draw a few random training images, their views, and a trained run's reconstructions.

    Args:
        config: the configuration, where no run is given.
        run: a trained run, whose configuration and weights are used.
        rows: the number of images.
        seed: the seed of the images and views; None for the configuration's.

    Raises:
        UserError: the data is not images, or there is no run at `run`.
    """
    opened = Run.open(run) if run is not None else None
    if opened is not None:
        config = opened.config()
    if config is None:
        raise TypeError("picture needs a config or a run")
    data = build_data(config, torch.device("cpu"))
    if not isinstance(data.spec, ImageSpec):
        raise UserError(f"{config.data.source} is {data.spec.modality} data, which cannot be drawn")
    task = build_task(config, data.spec) if opened is None else restore_task(opened, data.spec)
    seed = config.train.seed if seed is None else seed
    return draw(columns(task, data, rows, seed, trained=opened is not None), data.spec)


def columns(task: Task, data: DataSet, rows: int, seed: int, *, trained: bool) -> dict[str, Tensor]:
    """Return a few random training images, their views, and a trained task's reconstructions.

    Args:
        task: the task, on the CPU.
        data: the images.
        rows: the number of images.
        seed: the seed of the images and views.
        trained: whether to include reconstructions.

    Returns:
        Normalised images [rows, C, h, w] by caption, for `draw`.
    """
    rng = Rng(derive_seed(seed, "picture"))
    task.eval()
    images = data.train.batch(rng.permutation(len(data.train))[:rows]).cpu()
    views = task.views(images, rng)
    shown = {"source": data.spec.prepare(images), **task.gallery(views)}
    if trained:
        with torch.no_grad():
            shown |= task.reconstructions(views)
    return shown


def check_file(file: Path) -> None:
    """Raise unless a picture can be written to a file.

    Raises:
        UserError: it cannot be written, or is not a PNG.
    """
    if file.suffix.lower() != ".png":
        name = file.with_suffix(".png") if file.name else file / "views.png"
        raise UserError(f"-o {file}: pictures are written as PNG; name it {name}")
    if file.is_dir() or not os.access(file.parent, os.W_OK):
        reason = "is a directory" if file.is_dir() else f"there is no folder {file.parent} to write into"
        raise UserError(f"-o {file}: {reason}; choose another file")


def save(image: Image.Image, file: Path) -> None:
    """Write a picture as PNG, atomically."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_atomic(file, buffer.getvalue())


def draw(columns: Mapping[str, Tensor], spec: ImageSpec, cell: int = 96) -> Image.Image:
    """Lay out batches of images side by side, one image of the batch per row.

    Args:
        columns: normalised images [B, C, h, w] by caption.
        spec: the description of the images, for undoing the normalisation.
        cell: the smallest side of an image in the picture, in pixels; images are enlarged by an
            integer factor, without smoothing.
    """
    pictures = {caption: _pictures(images, spec, cell) for caption, images in columns.items()}
    font = ImageFont.load_default(12)
    widths = [max(row[0].width, int(font.getlength(caption))) for caption, row in pictures.items()]
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
            sheet.paste(picture, (left, _CAPTION + row * (height + _MARGIN)))
        left += width + _MARGIN
    return sheet


def _pictures(images: Tensor, spec: ImageSpec, cell: int) -> list[Image.Image]:
    factor = max(1, -(-cell // images.shape[-1]))
    return [
        picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
        for picture in spec.show(images)
    ]
