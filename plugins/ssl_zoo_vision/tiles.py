"""Shared parts of the tasks on tiles of images: their options, and what a backbone must take."""

from __future__ import annotations

from dataclasses import replace
from textwrap import shorten

from torch.nn.modules.batchnorm import _BatchNorm

from ssl_zoo.errors import Unsuitable
from ssl_zoo.nn import output_shape
from ssl_zoo.sizes import Size, format_size, height_width, longer_side
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, TaskOptions
from ssl_zoo.views import RandomResizedCrop
from ssl_zoo.views.ranges import ShareRange
from ssl_zoo.views.tiles import TileGrid


class TileOptions(TaskOptions):
    """The options of the crop of which tiles are cut."""

    tile: int | None = Field(None, ge=2, description="side of a tile in pixels; none: the task's own")
    crop_scale: ShareRange = Field((0.6, 1.0), description="share of the image's area")
    flip: float | None = Field(
        None,
        ge=0,
        le=1,
        description="probability of a flip; none: 0.5, or 0 if mirroring changes the meaning",
    )

    def crop(self, spec: ImageSpec, size: Size) -> RandomResizedCrop:
        """Return the random crop of which tiles are cut.

        Args:
            spec: the description of the images.
            size: the side of the crop, or its height and width, in pixels; its aspect is that of the
                part of the image.
        """
        height, width = height_width(size)
        return RandomResizedCrop(
            size, self.crop_scale, ratio=(width / height, width / height), flip=self.flip_p(spec)
        )

    def flip_p(self, spec: ImageSpec) -> float:
        """Return the probability of a flip."""
        return (0.5 if spec.mirror else 0.0) if self.flip is None else self.flip


def check_tile(encoder: Encoder, spec: ImageSpec, tile: int, largest: int | None = None) -> None:
    """Raise if a backbone does not take tiles.

    Args:
        encoder: the backbone.
        spec: the description of the images.
        tile: the side of a tile, in pixels.
        largest: the largest side that suits the task; None for the image's longer one.

    Raises:
        Unsuitable: it does not, as a transformer for one size of image.
    """
    largest = largest or longer_side(spec.size)
    try:
        output_shape(encoder, encoder, replace(spec, size=tile))
    except Exception as error:  # a backbone's code may raise anything
        reason = shorten(str(error), 120, placeholder=" …")
        raise Unsuitable(
            f"task.tile: the backbone cannot take {tile}×{tile} tiles ({reason}): set a larger one "
            f"({largest} will do), choose another --backbone, or let a ViT take any size with "
            "backbone.options.dynamic_img_size=true"
        ) from error


def overlapping_grid(encoder: Encoder, spec: ImageSpec, tile: int) -> TileGrid:
    """Return the grid of tiles that share half with their neighbours, where each is encoded alone.

    Args:
        encoder: the backbone.
        spec: the description of the images.
        tile: the side of a tile, in pixels.

    Raises:
        Unsuitable: the backbone does not take such tiles, or has batch normalisation, by which a tile's
            features depend on others; or no two tiles of a row or column lie apart.
    """
    if any(isinstance(module, _BatchNorm) for module in encoder.modules()):
        raise Unsuitable(
            "backbone.options.norm_layer: batch norm tells a tile of the others, which gives the answer "
            "away; set it to groupnorm1 with a ResNet, or choose --backbone convnext_atto"
        )
    grid, largest = TileGrid.overlapping(spec.size, tile), min(spec.height, spec.width) // 4 * 2
    if grid.apart >= min(grid.rows, grid.columns):
        raise Unsuitable(
            f"task.tile: of {format_size(spec.size)} pixels no tiles of {tile} lie apart; set at most "
            f"{largest}"
        )
    check_tile(encoder, spec, tile, largest)
    return grid
