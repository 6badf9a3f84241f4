"""Pictures of what a task feeds its network."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ssl_zoo.config.schema import RunConfig
from ssl_zoo.data import DataSet
from ssl_zoo.errors import UserError
from ssl_zoo.runs.build import build_data, build_task
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.files import write_atomic
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Task
from ssl_zoo.views import Rng, derive_seed

_MARGIN = 6
_CAPTION = 18


def picture(
    config: RunConfig | None, run: str | Path | None = None, rows: int = 8, seed: int | None = None
) -> Image.Image:
    """Draw a few random training images, their views, and a trained run's reconstructions of them.

    Args:
        config: what to draw, where there is no run.
        run: a trained run, whose configuration and weights are taken.
        rows: the number of images.
        seed: which images, and which views of them; None for the configuration's seed.

    Raises:
        UserError: the data is not images, or the run is none.
    """
    opened = Run.open(run) if run is not None else None
    if opened is not None:
        config = opened.config()
    if config is None:
        raise TypeError("picture needs a config or a run")
    data = build_data(config, torch.device("cpu"))
    if not isinstance(data.spec, ImageSpec):
        raise UserError(f"{config.data.source} is {data.spec.modality} data, which cannot be drawn")
    task = build_task(config, data.spec) if opened is None else opened.load_task(data.spec)
    seed = config.train.seed if seed is None else seed
    return draw(columns(task, data, rows, seed, trained=opened is not None), data.spec)


def columns(task: Task, data: DataSet, rows: int, seed: int, *, trained: bool) -> dict[str, Tensor]:
    """A few random training images, their views, and of a trained task its reconstructions of them.

    Args:
        task: the task, on the CPU.
        data: images.
        rows: the number of images.
        seed: which images, and which views of them.
        trained: whether what only a trained network can tell is among them.

    Returns:
        By caption normalised images [rows, C, h, w], as `draw` takes them.
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
    """Make sure that a picture can be written to a file, before it is drawn.

    Raises:
        UserError: it cannot.
    """
    if file.suffix.lower() != ".png":
        name = file.with_suffix(".png") if file.name else file / "views.png"
        raise UserError(f"-o {file}: pictures are written as PNG; name it {name}")
    if file.is_dir() or not os.access(file.parent, os.W_OK):
        what = "is a folder" if file.is_dir() else f"there is no folder {file.parent} to write into"
        raise UserError(f"-o {file}: {what}; choose another file")


def save(image: Image.Image, file: Path) -> None:
    """Write a picture as PNG, whole or not at all."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_atomic(file, buffer.getvalue())


def draw(columns: Mapping[str, Tensor], spec: ImageSpec, cell: int = 96) -> Image.Image:
    """Lay out batches of images side by side, an image of the batch in each row.

    Args:
        columns: for each caption normalised images [B, C, h, w].
        spec: how the images were normalised.
        cell: the smallest side of an image in the picture, in pixels; images are enlarged by a
            whole factor, without smoothing.
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
    with torch.no_grad():
        pixels = spec.denormalise(images.detach().float().cpu()).mul(255).round().byte()
    factor = max(1, -(-cell // pixels.shape[-1]))
    pixels = pixels.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    arrays = pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(np.ascontiguousarray(array)) for array in arrays]
