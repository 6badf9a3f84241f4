"""Jigsaw puzzles: predict the order of nine shuffled tiles of an image."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import cache
from textwrap import shorten
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo import Encoder, Field, ImageSpec, Losses, Rng, Task, TaskOptions, Unsuitable
from ssl_zoo.nn import full_precision, mlp, output_shape
from ssl_zoo.sizes import longer_side
from ssl_zoo.views import Compose, RandomGrayscale, RandomResizedCrop

GRID = 3
"""The number of cells along a side of the puzzle."""
Share = Annotated[float, Field(gt=0, le=1)]


@cache
def permutations(number: int, tiles: int = GRID**2, seed: int = 0) -> Tensor:
    """Choose permutations far apart from each other, greedily (Noroozi & Favaro 2016, algorithm 1).

    The first is drawn. Each further one has the largest Hamming distance to the nearest one chosen so
    far; ties go to the largest mean distance, then to the first in lexicographic order. The paper
    maximises the mean only. For 100 permutations that mean is no larger (8.08), but most permutations
    differ from another one in only two tiles, here in at least six.

    Returns:
        int64 [number, tiles]: for each permutation, the cell whose tile is at each position. The
        tensor is cached and shared: do not modify it.

    Raises:
        ValueError: there are fewer than `number` permutations of `tiles` tiles.
    """
    if number > math.factorial(tiles):
        raise ValueError(f"{tiles} tiles have {math.factorial(tiles)} orders, fewer than {number}")
    flat = itertools.chain.from_iterable(itertools.permutations(range(tiles)))
    every = np.fromiter(flat, np.uint8).reshape(-1, tiles).T.copy()  # [tiles, n!]
    nearest = np.full(every.shape[1], tiles, np.int32)
    total = np.zeros_like(nearest)
    chosen = [int(np.random.default_rng(seed).integers(every.shape[1]))]
    while len(chosen) < number:
        distance = (every != every[:, chosen[-1:]]).sum(0, dtype=np.uint8)
        np.minimum(nearest, distance, out=nearest)  # 0 for the chosen, at least 2 for all others
        total += distance
        chosen.append(int((nearest * (tiles * number) + total).argmax()))
    return torch.from_numpy(every[:, chosen].T.astype(np.int64))


@dataclass(frozen=True)
class ChannelShift:
    """A random shift of each channel by up to `pixels`, against cues from chromatic aberration."""

    pixels: int

    def __call__(self, x: Tensor, rng: Rng) -> Tensor:
        """Return the shifted images [B, C, H, W], with repeated borders."""
        if x.shape[1] == 1 or not self.pixels:
            return x
        shift = (rng.uniform(*x.shape[:2], 2) * (2 * self.pixels + 1)).long() - self.pixels
        for dim, by in zip((2, 3), shift.unbind(2), strict=True):
            at = torch.arange(x.shape[dim], device=x.device) + by.unsqueeze(2)  # [B, C, side]
            x = x.gather(dim, at.clamp(0, x.shape[dim] - 1).unsqueeze(5 - dim).expand_as(x))
        return x


def cut(x: Tensor, cells: Tensor, shift: Tensor, cell: int, tile: int) -> Tensor:
    """Cut tiles out of the cells of a grid over each image.

    Args:
        x: images [B, C, 3·cell, 3·cell].
        cells: the cell whose tile is at each position of the puzzle, row by row, int64 [B, 9].
        shift: the offset of each tile in its cell, down and right, in pixels, int64 [B, 9, 2].
        cell: the side of a cell, in pixels.
        tile: the side of a tile, in pixels.

    Returns:
        [B, 9, C, tile, tile].
    """
    corner = torch.stack([cells // GRID, cells % GRID], -1) * cell + shift  # [B, 9, 2]
    rows, columns = (corner.unsqueeze(-1) + torch.arange(tile, device=x.device)).unbind(2)
    image = torch.arange(len(x), device=x.device).view(-1, 1, 1, 1)
    # With channels last, the network's format, a pixel is one read.
    tiles = x.permute(0, 2, 3, 1)[image, rows.unsqueeze(3), columns.unsqueeze(2)]
    return tiles.permute(0, 1, 4, 2, 3)


def normalise(tiles: Tensor) -> Tensor:
    """Normalise each channel of each tile to mean 0 and deviation 1, which would reveal neighbours.

    A deviation below one level of 256 is rounding and is not amplified: a flat tile becomes 0.
    """
    mean, std = tiles.mean((-2, -1), keepdim=True), tiles.std((-2, -1), correction=0, keepdim=True)
    return (tiles - mean) / std.clamp(min=1 / 255)


def solve(tiles: Tensor, order: Tensor) -> Tensor:
    """Put shuffled tiles [B, 9, ...] back into their cells; `order` [B, 9] has the cell of each tile."""
    return tiles[torch.arange(len(tiles), device=tiles.device).unsqueeze(1), order.argsort(1)]


def arrange(tiles: Tensor, gap: int = 1) -> Tensor:
    """Lay out nine tiles [B, 9, C, t, t] as a picture [B, C, s, s] with white lines between them."""
    framed = F.pad(tiles, (0, gap, 0, gap), value=1e4)  # white once clamped
    b, _, c, t, _ = framed.shape
    picture = framed.view(b, GRID, GRID, c, t, t).permute(0, 3, 1, 4, 2, 5)
    return picture.reshape(b, c, GRID * t, GRID * t)[..., :-gap, :-gap]


class Jigsaw(Task):
    """Nine tiles of an image are shuffled, and the permutation is predicted out of a fixed set."""

    name = "jigsaw"
    paper = "Noroozi & Favaro 2016, Learning by Solving Jigsaw Puzzles, arXiv:1603.09246"
    family = "predictive"
    passes = 9
    recipe = {
        "train": {
            "optimizer": "sgd",
            "lr": 0.1,
            "lr_scaling": "none",
            "weight_decay": 5e-4,
            "batch_size": 128,
        }
    }

    class Options(TaskOptions):
        """Jigsaw's options."""

        permutations: int = Field(
            100, ge=2, le=1000, description="number of permutations, out of 9! = 362,880"
        )
        tile: int | None = Field(
            None,
            ge=2,
            description="side of a tile in pixels; none: 64/225 of the input's shorter one, at least 16",
        )
        gap: float = Field(
            11 / 64, ge=0, le=1, description="space around a tile in its cell, as a share of its side"
        )
        crop_scale: tuple[Share, Share] = Field((0.6, 1.0), description="share of the image's area")
        flip: float | None = Field(
            None,
            ge=0,
            le=1,
            description="probability of a flip; none: 0.5, or 0 if mirroring changes the meaning",
        )
        grayscale_p: float = Field(0.3, ge=0, le=1, description="probability of conversion to gray")
        channel_shift: int | None = Field(
            None,
            ge=0,
            description="maximum shift of a channel in pixels; none: the paper's 2 in 225",
        )
        width: int = Field(256, ge=1, description="width of fc6, for each tile; the paper's is 1024")
        hidden: int = Field(1024, ge=1, description="width of fc7, for the puzzle; the paper's is 4096")

    permutations: Tensor

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        self.tile = options.tile or max(16, round(min(spec.height, spec.width) * 64 / 225))
        self.cell = self.tile + math.ceil(options.gap * self.tile)
        try:
            output_shape(encoder, encoder, replace(spec, size=self.tile))
        except Exception as error:  # a backbone's code may raise anything
            reason = shorten(str(error), 120, placeholder=" …")
            raise Unsuitable(
                f"task.tile: the backbone cannot take {self.tile}×{self.tile} tiles ({reason}): set a "
                f"larger one ({longer_side(spec.size)} will do), choose another --backbone, or let a "
                "ViT take any size with backbone.options.dynamic_img_size=true"
            ) from error
        # Saved, so that a resumed run keeps its permutations.
        self.register_buffer("permutations", permutations(options.permutations).clone())
        self.fc6 = nn.Sequential(nn.Linear(encoder.width, options.width), nn.ReLU())
        self.fc78 = mlp([GRID**2 * options.width, options.hidden, options.permutations])

        side = GRID * self.cell
        flip = (0.5 if spec.mirror else 0.0) if options.flip is None else options.flip
        pixels = round(side * 2 / 225) if options.channel_shift is None else options.channel_shift
        self.augment = Compose(
            RandomResizedCrop(side, options.crop_scale, ratio=(1, 1), flip=flip),
            ChannelShift(pixels),
            RandomGrayscale(options.grayscale_p),
        )

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return shuffled tiles [B, 9, C, t, t], and the indices [B] of their permutations."""
        x = self.augment(batch, rng)  # [B, C, 3·cell, 3·cell]
        target = (rng.uniform(len(x)) * len(self.permutations)).long()
        shift = (rng.uniform(len(x), GRID**2, 2) * (self.cell - self.tile + 1)).long()
        return normalise(cut(x, self.permutations[target], shift, self.cell, self.tile)), target

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the cross entropy of the permutation."""
        tiles, target = views
        logits = full_precision(self.logits(tiles))  # [B, permutations]
        accuracy = (logits.detach().argmax(1) == target).float().mean()
        return Losses(F.cross_entropy(logits, target), {"accuracy": accuracy})

    @property
    def chance_loss(self) -> float:
        """The log of the number of permutations."""
        return math.log(len(self.permutations))

    def logits(self, tiles: Tensor) -> Tensor:
        """Return the logits [B, permutations] of tiles [B, 9, C, t, t], which are encoded one by one."""
        z = self.fc6(self.encoder(tiles.flatten(0, 1)))  # [9B, width]
        logits: Tensor = self.fc78(z.view(len(tiles), -1))
        return logits

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the puzzle as the network sees it, and the same tiles in their cells."""
        tiles, target = views
        return {"puzzle": arrange(tiles), "solved": arrange(solve(tiles, self.permutations[target]))}

    def reconstructions(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the tiles where the network places them."""
        tiles, _ = views
        order = self.permutations[self.logits(tiles).argmax(1)]
        return {"prediction": arrange(solve(tiles, order))}
