"""Tiles of images: square parts in the cells of a grid, at random places in them or overlapping.

    grid = TileGrid(3, 3, step=75, side=64)  # tiles of 64 pixels, anywhere in their cells of 75
    tiles = grid.cut(x, shifts=grid.random_shifts(len(x), 9, rng))  # [B, 9, C, 64, 64]

    grid = TileGrid.overlapping(256, side=64)  # 7 × 7, each shares a half with its neighbour
    tiles = grid.cut(x)  # [B, 49, C, 64, 64]

Cells are counted row by row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.sizes import Size, height_width
from ssl_zoo.views.rng import Rng


@dataclass(frozen=True)
class TileGrid:
    """A grid of cells over an image, each with a square tile in it.

    Attributes:
        rows: the number of rows.
        columns: the number of cells in a row.
        step: the distance of neighbouring cells, in pixels.
        side: the side of a tile, in pixels; tiles overlap if it is larger than `step`.
    """

    rows: int
    columns: int
    step: int
    side: int

    @classmethod
    def overlapping(cls, size: Size, side: int) -> TileGrid:
        """Return the grid of as many tiles as an image has, each sharing half with its neighbours.

        Args:
            size: the side of the image, or its height and width, in pixels.
            side: the side of a tile, in pixels; of an odd one a pixel less is shared.
        """
        step = -(-side // 2)
        rows, columns = ((length - side) // step + 1 for length in height_width(size))
        return cls(rows, columns, step, side)

    @property
    def apart(self) -> int:
        """The least number of rows, or columns, by which two tiles differ that share no pixel."""
        return -(-self.side // self.step)

    @property
    def size(self) -> tuple[int, int]:
        """The height and width of an image that the grid covers, in pixels."""
        cell = max(self.step, self.side)
        return (self.rows - 1) * self.step + cell, (self.columns - 1) * self.step + cell

    def random_shifts(self, n: int, tiles: int, rng: Rng, gap: int = 0) -> Tensor:
        """Draw places in cells: offsets down and right in 0..step - side - gap, int64 [n, tiles, 2].

        Args:
            n: the number of images.
            tiles: the number of tiles of each.
            rng: the source of random numbers.
            gap: the least distance of tiles in neighbouring cells, in pixels.
        """
        return (rng.uniform(n, tiles, 2) * (self.step - self.side - gap + 1)).long()

    def cut(self, x: Tensor, cells: Tensor | None = None, shifts: Tensor | None = None) -> Tensor:
        """Cut tiles out of images.

        Args:
            x: images [B, C, height, width] of the grid's `size`, or larger.
            cells: the cells of each image that tiles are cut from, int64 [B, N]; None for all N cells.
            shifts: the offset of each tile in its cell, down and right, int64 [B, N, 2]; None for 0.

        Returns:
            [B, N, C, side, side].
        """
        if cells is None:
            cells = torch.arange(self.rows * self.columns, device=x.device).expand(len(x), -1)
        corners = torch.stack([cells // self.columns, cells % self.columns], -1) * self.step
        corners = corners if shifts is None else corners + shifts
        pixels = corners.unsqueeze(-1) + torch.arange(self.side, device=x.device)  # [B, N, 2, side]
        rows, columns = pixels.unbind(2)
        image = torch.arange(len(x), device=x.device).view(-1, 1, 1, 1)
        # With channels last, the network's format, a pixel is one read.
        tiles = x.permute(0, 2, 3, 1)[image, rows.unsqueeze(3), columns.unsqueeze(2)]
        return tiles.permute(0, 1, 4, 2, 3)

    def place(self, tiles: Tensor, cells: Tensor) -> Tensor:
        """Put tiles into cells, as a puzzle is solved.

        Args:
            tiles: [B, N, C, h, w].
            cells: the cell of each tile, int64 [B, N], no two alike in an image.

        Returns:
            [B, rows · columns, C, h, w], 0 in empty cells.
        """
        placed = tiles.new_zeros(len(tiles), self.rows * self.columns, *tiles.shape[2:])
        return placed.scatter(1, cells[:, :, None, None, None].expand_as(tiles), tiles)

    def picture(self, tiles: Tensor, gap: int = 1) -> Tensor:
        """Lay out normalised tiles as one picture with white lines between them.

        Args:
            tiles: a tile for each cell, [B, rows · columns, C, h, w].
            gap: the width of a line, in pixels.

        Returns:
            [B, C, rows · (h + gap) - gap, columns · (w + gap) - gap].
        """
        framed = F.pad(tiles, (0, gap, 0, gap), value=1e4)  # white once clamped
        b, _, c, h, w = framed.shape
        picture = framed.view(b, self.rows, self.columns, c, h, w).permute(0, 3, 1, 4, 2, 5)
        picture = picture.reshape(b, c, self.rows * h, self.columns * w)
        return picture[..., : picture.shape[2] - gap, : picture.shape[3] - gap]


def normalise_tiles(tiles: Tensor) -> Tensor:
    """Normalise each channel of each tile to mean 0 and deviation 1, which would reveal neighbours.

    A deviation below one level of 256 is rounding and is not amplified: a flat tile becomes 0.

    Args:
        tiles: [..., C, h, w], with intensities in [0, 1].
    """
    mean, std = tiles.mean((-2, -1), keepdim=True), tiles.std((-2, -1), correction=0, keepdim=True)
    return (tiles - mean) / std.clamp(min=1 / 255)
