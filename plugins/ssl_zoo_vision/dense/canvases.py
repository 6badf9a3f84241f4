"""Pictures of several objects, for segmentation and detection, pasted together of a data set's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.data import DataSet, Split
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation.features import sample_indices
from ssl_zoo.spec import ImageSpec

SIDE = 128
"""About so many pixels wide is a canvas, unless one input of the network is wider."""
MOST_INPUTS = 4
"""At most so many inputs of the network lie side by side on a canvas."""
TRAIN, TEST = 400, 200
"""How many canvases are pasted of each split."""
MOST_OBJECTS = 4
"""At most so many pictures lie on a canvas."""
SMALLEST, LARGEST = 1 / 4, 1 / 2
"""The side of a pasted picture, as a share of the canvas's."""
TRIES = 16
"""So many places are tried for a picture."""
OVERLAP = 0.1
"""Two pictures share at most so much of the smaller one's area."""
MOST_CLASSES = 20
"""With more classes than this, a canvas shows only pictures of so many of them, always the same."""
DARK = 16
"""Up to this intensity of 255 a pixel of a gray picture on dark ground is ground."""
IGNORED = 255
"""In a mask: what lies here does not count."""


@dataclass(frozen=True)
class Canvases:
    """Pictures of several objects, and what is to be found in them; all on the CPU.

    Attributes:
        images: uint8 [N, C, S, S].
        masks: uint8 [N, S, S]: 0 for the ground, 1 + class for an object, or `IGNORED`.
        boxes: float32 [N, M, 4]: an object's left, top, right and bottom edge in pixels.
        labels: int64 [N, M]: its class; -1 where there is no object.
        hard: bool [N, M]: an object whose finding or missing does not count.
    """

    images: Tensor
    masks: Tensor
    boxes: Tensor
    labels: Tensor
    hard: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def split(self, size: int) -> Iterator[Canvases]:
        """The same in parts of at most so many."""
        columns = [getattr(self, field.name).split(size) for field in fields(self)]
        return (Canvases(*part) for part in zip(*columns, strict=True))


def canvas_side(spec: ImageSpec) -> int:
    """S: the multiple of a network's input side that is next to 128 pixels, at most fourfold.

    28 pixels make 112, 32 make 128, 224 stay 224. Thus even a stride of 32 leaves a map of some places,
    and a network for one image size can see a canvas in tiles.
    """
    return spec.size * min(max(1, round(SIDE / spec.size)), MOST_INPUTS)


def pasted(data: DataSet) -> tuple[Canvases, Canvases, int]:
    """Canvases of a labelled data set's pictures, which follow from the data set alone.

    Each has up to four pictures at random places, of a quarter to half its side, drawn from all classes
    alike; those for training from the bank, the others from the test split. If at least nine in ten
    corners of one-channel pictures are dark (≤ 16 of 255), the ground is black and an object is the
    pixels brighter than that; otherwise the ground is the pictures' mean colour, and an object a square.

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
    classes = common[sample_indices(len(common), MOST_CLASSES)]
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
    """Whether pictures [N, C, h, w] show something bright on a dark ground; see `pasted`."""
    corners = pictures[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    return pictures.shape[1] == 1 and float((corners <= DARK).float().mean()) >= 0.9


def _drawn(
    split: Split, classes: Tensor, number: int, side: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [number, M, C, h, w] and which of the classes [number, M] each shows.

    Those that are larger than they can be on a canvas of this side are shrunk to that.
    """
    assert split.labels is not None
    shows = (split.labels[:, None] == classes).float()
    weights = (shows / shows.sum(0)).sum(1)
    numbers = torch.multinomial(weights, number * MOST_OBJECTS, replacement=True, generator=generator)
    largest = round(LARGEST * side)

    def shrunk(batch: Tensor) -> Tensor:
        if max(batch.shape[-2:]) <= largest:
            return batch
        return F.interpolate(batch, (largest, largest), mode="bilinear", antialias=True)

    parts = split.stream(numbers, 256)
    pictures = torch.cat([shrunk(batch.cpu()) for batch in parts])
    shape = (number, MOST_OBJECTS)
    return pictures.unflatten(0, shape), shows[numbers].argmax(1).view(shape)


def layout(number: int, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Where pictures lie on canvases of this side.

    One to four are wanted on each; what finds no place in sixteen tries is left out.

    Returns:
        In pixels the left and top edges [N, M, 2] and the sides [N, M]; and which are there [N, M].
    """
    shape = (number, MOST_OBJECTS)
    sides = side * (SMALLEST + (LARGEST - SMALLEST) * torch.rand(shape, generator=generator))
    tries = torch.rand(*shape, TRIES, 2, generator=generator) * (side - sides)[..., None, None]
    wanted = torch.randint(1, MOST_OBJECTS + 1, (number, 1), generator=generator)
    corners, there = torch.zeros(*shape, 2), torch.zeros(shape, dtype=torch.bool)
    for k in range(MOST_OBJECTS):
        # Each try [N, TRIES, 1, 2] against each picture that is there already [N, 1, M, 2].
        low = torch.maximum(tries[:, k, :, None], corners[:, None])
        high = torch.minimum(
            tries[:, k, :, None] + sides[:, k, None, None, None], (corners + sides[..., None])[:, None]
        )
        shared = (high - low).clamp(min=0).prod(-1) * there[:, None]
        smaller = torch.minimum(sides[:, k, None], sides).square()[:, None]
        overlap, best = (shared / smaller).amax(2).min(1)
        corners[:, k] = tries[torch.arange(number), k, best]
        there[:, k] = (overlap <= OVERLAP) & (k < wanted[:, 0])
    return corners, sides, there


def paste(
    pictures: Tensor, labels: Tensor, side: int, ground: Tensor, dark: bool, generator: torch.Generator
) -> Canvases:
    """Lay pictures on canvases, later ones over earlier ones.

    Args:
        pictures: uint8 [N, M, C, h, w].
        labels: int64 [N, M], their classes.
        side: S.
        ground: the colour [C] of what is empty, of 255.
        dark: whether an object is the bright pixels of its picture, or all of it.
        generator: what the layout is drawn from.
    """
    number, most = labels.shape
    corners, sides, there = layout(number, side, generator)
    images = ground.view(1, -1, 1, 1).repeat(number, 1, side, side)
    owners = torch.zeros(number, side, side, dtype=torch.long)
    centres = torch.arange(side) + 0.5
    for k in range(most):
        # Where the canvas's columns and rows lie in the picture, -1 to 1 being its edges.
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
    boxes, seen = _boxes(owners, most)
    labels = labels.masked_fill(~seen, -1)
    masks = F.pad(labels + 1, (1, 0)).gather(1, owners.flatten(1)).view_as(owners)
    return Canvases(images.round().byte(), masks.byte(), boxes, labels, torch.zeros_like(seen))


def _boxes(owners: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The tight boxes [N, M, 4] of objects, and which are seen at all [N, M].

    Args:
        owners: [N, S, S], 1 + the number of the object that a pixel belongs to, or 0.
        most: M.
    """
    objects = owners[:, None] == torch.arange(1, most + 1).view(-1, 1, 1)
    columns, rows = objects.any(2), objects.any(3)
    side = owners.shape[-1]
    first = [line.int().argmax(-1) for line in (columns, rows)]
    after = [side - line.flip(-1).int().argmax(-1) for line in (columns, rows)]
    seen = columns.any(-1)
    return torch.stack([*first, *after], -1).float() * seen[..., None], seen
