"""Canvases with several objects, pasted from a data set's images, for dense protocols."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.data import DataSet, Split
from ssl_zoo.data.order import sample_indices
from ssl_zoo.errors import Unsuitable, UserError
from ssl_zoo.sizes import format_size, longer_side
from ssl_zoo.spec import ImageSpec

SIDE = 128
"""The approximate side of a canvas in pixels, unless one input of the network is larger."""
MAX_INPUTS = 4
"""The maximum side of a canvas, as a multiple of the network's input side."""
TRAIN, TEST = 400, 200
"""The number of canvases from each split."""
MAX_OBJECTS = 4
"""The maximum number of objects on a canvas."""
MIN_SIDE, MAX_SIDE = 1 / 4, 1 / 2
"""The limits of the side of a pasted image, as a fraction of the canvas's side."""
TRIES = 16
"""The number of positions tried for an image."""
OVERLAP = 0.1
"""The maximum overlap of two images, as a fraction of the smaller one's area."""
MAX_CLASSES = 20
"""The maximum number of classes; from more, a fixed subset of this size is used."""
DARK = 16
"""The maximum intensity, of 255, of the dark background of gray images."""
IGNORED = 255
"""The mask value of pixels that are not counted."""


@dataclass(frozen=True)
class Canvases:
    """Images with several objects, and their annotations; all on the CPU.

    Attributes:
        images: uint8 [N, C, S, S].
        masks: uint8 [N, S, S]: 0 for the background, 1 + class for an object, or `IGNORED`.
        boxes: float32 [N, M, 4]: left, top, right and bottom edges of objects in pixels.
        labels: int64 [N, M]: classes of objects; -1 for no object.
        hard: bool [N, M]: objects that count neither as found nor as missed.
    """

    images: Tensor
    masks: Tensor
    boxes: Tensor
    labels: Tensor
    hard: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def split(self, size: int) -> Iterator[Canvases]:
        """Yield parts of at most `size` canvases."""
        columns = [getattr(self, field.name).split(size) for field in fields(self)]
        return (Canvases(*part) for part in zip(*columns, strict=True))


def canvas_side(spec: ImageSpec) -> int:
    """Return S, the multiple of the network's input sides nearest to 128 pixels, at most four times it.

    28 gives 112, 32 gives 128, 32 × 64 gives 128, 224 stays 224. A stride of 32 then leaves a map of
    several positions, and a network with a fixed image size can take a canvas in tiles.

    Raises:
        Unsuitable: no square of a reasonable size has whole inputs in both directions.
    """
    unit = math.lcm(spec.height, spec.width)
    if unit > MAX_INPUTS * longer_side(spec.size):
        raise Unsuitable(
            f"dense: a square canvas of whole inputs of {format_size(spec.size)} pixels would have "
            f"{unit:,} a side; choose sides with larger common divisors (--image-size)"
        )
    return unit * min(max(1, round(SIDE / unit)), MAX_INPUTS)


def pasted(data: DataSet) -> tuple[Canvases, Canvases, int]:
    """Paste canvases from a labelled data set's images; the same data set gives the same canvases.

    Each has up to four images, drawn uniformly over classes, at random positions; an image's side is a
    quarter to half of the canvas's. Training canvases take images from the bank, the others from the
    test split. If at least nine in ten corners of one-channel images are dark (≤ 16 of 255), the
    background is black and an object is the brighter pixels; otherwise the background is the images'
    mean colour, and an object is the whole square.

    Returns:
        The canvases for training, those for the test, and the number of classes.

    Raises:
        UserError: the splits have no class in common.
    """
    bank, test = data.bank, data.test
    assert test is not None
    assert bank.labels is not None
    assert test.labels is not None
    common = bank.labels.unique()
    common = common[torch.isin(common, test.labels)]
    if not len(common):
        raise UserError(f"{data.name}: its train and its test split have no class in common")
    classes = common[sample_indices(len(common), MAX_CLASSES)]
    assert isinstance(data.spec, ImageSpec)
    side = canvas_side(data.spec)

    generator = torch.Generator().manual_seed(0)
    pictures, labels = _drawn(bank, classes, TRAIN, side, generator)
    dark = dark_ground(pictures.flatten(0, 1))
    ground = torch.zeros(pictures.shape[2]) if dark else pictures.float().mean((0, 1, 3, 4))
    train = paste(pictures, labels, side, ground, dark, generator)
    pictures, labels = _drawn(test, classes, TEST, side, generator)
    return train, paste(pictures, labels, side, ground, dark, generator), len(classes)


def dark_ground(pictures: Tensor) -> bool:
    """Return whether images [N, C, h, w] show bright objects on a dark background; see `pasted`."""
    corners = pictures[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    return pictures.shape[1] == 1 and float((corners <= DARK).float().mean()) >= 0.9


def _drawn(
    split: Split, classes: Tensor, number: int, side: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw images uint8 [number, M, C, h, w] and the indices of their classes [number, M].

    Images larger than they can be on a canvas of this side are shrunk.
    """
    assert split.labels is not None
    shows = (split.labels[:, None] == classes).float()
    weights = (shows / shows.sum(0)).sum(1)
    numbers = torch.multinomial(weights, number * MAX_OBJECTS, replacement=True, generator=generator)
    max_side = round(MAX_SIDE * side)

    def shrunk(batch: Tensor) -> Tensor:
        if batch.is_floating_point():  # intensities in [0, 1], of images of more than 8 bits
            batch = batch.mul(255).round_().byte()
        if max(batch.shape[-2:]) <= max_side:
            return batch
        return F.interpolate(batch, (max_side, max_side), mode="bilinear", antialias=True)

    parts = split.stream(numbers, 256)
    pictures = torch.cat([shrunk(batch.cpu()) for batch in parts])
    shape = (number, MAX_OBJECTS)
    return pictures.unflatten(0, shape), shows[numbers].argmax(1).view(shape)


def layout(number: int, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the positions of images on canvases of this side.

    One to four are drawn for each canvas; one that does not fit after sixteen tries is left out.

    Returns:
        The left and top edges [N, M, 2] and the sides [N, M] in pixels, and which are used [N, M].
    """
    shape = (number, MAX_OBJECTS)
    sides = side * (MIN_SIDE + (MAX_SIDE - MIN_SIDE) * torch.rand(shape, generator=generator))
    tries = torch.rand(*shape, TRIES, 2, generator=generator) * (side - sides)[..., None, None]
    counts = torch.randint(1, MAX_OBJECTS + 1, (number, 1), generator=generator)
    corners, there = torch.zeros(*shape, 2), torch.zeros(shape, dtype=torch.bool)
    for k in range(MAX_OBJECTS):
        # Each try [N, TRIES, 1, 2] against each image placed already [N, 1, M, 2].
        low = torch.maximum(tries[:, k, :, None], corners[:, None])
        high = torch.minimum(
            tries[:, k, :, None] + sides[:, k, None, None, None], (corners + sides[..., None])[:, None]
        )
        shared = (high - low).clamp(min=0).prod(-1) * there[:, None]
        smaller = torch.minimum(sides[:, k, None], sides).square()[:, None]
        overlap, best = (shared / smaller).amax(2).min(1)
        corners[:, k] = tries[torch.arange(number), k, best]
        there[:, k] = (overlap <= OVERLAP) & (k < counts[:, 0])
    return corners, sides, there


def paste(
    pictures: Tensor, labels: Tensor, side: int, ground: Tensor, dark: bool, generator: torch.Generator
) -> Canvases:
    """Paste images on canvases, later ones over earlier ones.

    Args:
        pictures: uint8 [N, M, C, h, w].
        labels: int64 [N, M], their classes.
        side: S.
        ground: the colour [C] of the background, of 255.
        dark: whether an object is the bright pixels of its image, or the whole image.
        generator: the generator of the layout.
    """
    number, count = labels.shape
    corners, sides, there = layout(number, side, generator)
    images = ground.view(1, -1, 1, 1).repeat(number, 1, side, side)
    owners = torch.zeros(number, side, side, dtype=torch.long)
    centres = torch.arange(side) + 0.5
    for k in range(count):
        # The canvas's columns and rows in the image's coordinates, with edges at -1 and 1.
        place = (centres - corners[:, k, :, None]) / sides[:, k, None, None] * 2 - 1
        x, y = place[:, 0, None, :], place[:, 1, :, None]
        grid = torch.stack(torch.broadcast_tensors(x, y), -1)
        picture = F.grid_sample(
            pictures[:, k].float(), grid, padding_mode="border", align_corners=False
        ).round()
        shown = (grid.abs() < 1).all(-1) & there[:, k, None, None]
        if dark:
            shown &= picture[:, 0] > DARK
        images = torch.where(shown[:, None], picture, images)
        owners.masked_fill_(shown, k + 1)
    boxes, visible = _boxes(owners, count)
    labels = labels.masked_fill(~visible, -1)
    masks = F.pad(labels + 1, (1, 0)).gather(1, owners.flatten(1)).view_as(owners)
    return Canvases(images.round().byte(), masks.byte(), boxes, labels, torch.zeros_like(visible))


def _boxes(owners: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the tight boxes [N, M, 4] of objects, and which are visible [N, M].

    Args:
        owners: [N, S, S], 1 + the index of the object that a pixel belongs to, or 0.
        count: M.
    """
    objects = owners[:, None] == torch.arange(1, count + 1).view(-1, 1, 1)
    columns, rows = objects.any(2), objects.any(3)
    side = owners.shape[-1]
    first = [line.int().argmax(-1) for line in (columns, rows)]
    after = [side - line.flip(-1).int().argmax(-1) for line in (columns, rows)]
    visible = columns.any(-1)
    return torch.stack([*first, *after], -1).float() * visible[..., None], visible
