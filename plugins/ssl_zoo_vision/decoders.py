"""Decoders from feature maps back to images, or to anything else on a grid of pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from ssl_zoo.errors import UserError
from ssl_zoo.nn import output_shape
from ssl_zoo.sizes import Size, height_width
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder

MAX_STAGES = 4
"""The number of stages, from the last, that a decoder has connections to."""

Shape = tuple[int, int, int]
"""The channels, rows and columns of a map."""


class UpDecoder(nn.Module):
    """Up-convolutions from a feature map to an output of a larger grid.

    Each of them doubles the grid and halves the width, down to 32, and is followed by batch
    normalisation and a ReLU. A 3×3 convolution gives the output, which is resized where the sides are no
    powers of two of the map's.

        _, width, *grid = output_shape(encoder, encoder.feature_map, spec)
        self.decoder = UpDecoder(width, grid, spec.size, spec.channels)

    Args:
        width: the channels of the feature map.
        grid: its rows and columns.
        size: the side of the output, or its height and width, in pixels.
        channels: the channels of the output.
        hidden: the width of the first layer.
    """

    def __init__(
        self, width: int, grid: tuple[int, int], size: Size, channels: int, hidden: int = 256
    ) -> None:
        super().__init__()
        self.size = height_width(size)
        stride = max(side / number for side, number in zip(self.size, grid, strict=True))
        layers: list[nn.Module] = []
        for _ in range(math.ceil(math.log2(max(1, stride)))):
            layers += [
                nn.ConvTranspose2d(width, hidden, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(hidden),
                nn.ReLU(inplace=True),
            ]
            width, hidden = hidden, max(hidden // 2, 32)
        self.up = nn.Sequential(*layers, nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, feature_map: Tensor) -> Tensor:
        """Return the output [B, channels, *size] of feature maps [B, width, h, w]."""
        return _resized(self.up(feature_map), self.size)


def stages_by_size(encoder: Encoder, spec: ImageSpec) -> list[tuple[int, Shape]]:
    """Return the last stages of an encoder and the shapes of their maps, the largest map first.

    Of stages whose maps have one size, only the last is among them.

    Raises:
        UserError: the encoder has no stages.
    """
    found: dict[tuple[int, int], tuple[int, Shape]] = {}
    for stage in range(-1, -1 - MAX_STAGES, -1):

        def feature_map(x: Tensor, stage: int = stage) -> Tensor:
            return encoder.stages(x, [stage])[1][0]

        try:
            _, width, rows, columns = output_shape(encoder, feature_map, spec)
        except UserError:
            if not found:
                raise
            break
        found.setdefault((rows, columns), (stage, (width, rows, columns)))
    return list(found.values())[::-1]


class FilledMap(nn.Module):
    """A normalised map whose hidden cells are filled with a learnt vector, and then projected.

    Args:
        width: the channels of the map.
        out: those of the output.
        kernel: the side of the projection's kernel.
    """

    def __init__(self, width: int, out: int, kernel: int) -> None:
        super().__init__()
        self.norm = LayerNorm2d(width)
        self.token = nn.Parameter(0.02 * torch.randn(width))
        self.project = nn.Conv2d(width, out, kernel, padding=kernel // 2)

    def forward(self, feature_map: Tensor, hidden: Tensor) -> Tensor:
        """Return [B, out, h, w] for a map [B, width, h, w] and its hidden cells, bool [B, 1, h, w]."""
        output: Tensor = self.project(_filled(self.norm(feature_map), hidden, self.token))
        return output


class LateralDecoder(nn.Module):
    """Up-convolutions from the last map of a network to an image, to which larger maps are added.

    Source: SparK, arXiv:2301.03580, section 3.2; maps are normalised over channels.

    Args:
        maps: the shapes of the maps, the largest first.
        size: the side of the image, or its height and width, in pixels.
        channels: its channels.
        width: the width of the first layer; each further one has half.
    """

    def __init__(self, maps: Sequence[Shape], size: Size, channels: int, width: int) -> None:
        super().__init__()
        self.size = height_width(size)
        (d, *grid), *others = [*maps][::-1]
        self.fill = nn.ModuleList([FilledMap(d, width, 1)])
        self.up = nn.ModuleList()
        for d, *larger in [*others, (0, *self.size)]:
            blocks = []
            for _ in range(round(math.log2(larger[0] / grid[0]))):
                narrow = max(width // 2, 16)
                blocks.append(_doubling(width, narrow))
                width = narrow
            self.up.append(nn.Sequential(*blocks))
            if d:
                self.fill.append(FilledMap(d, width, 3))
            grid = larger
        self.out = nn.Conv2d(width, channels, 1)

    def forward(self, maps: Sequence[Tensor], hidden: Tensor) -> Tensor:
        """Return images [B, C, H, W].

        Args:
            maps: the maps [B, d, h, w], the largest first.
            hidden: the hidden cells, bool [B, h, w] on the grid of the last map.
        """
        cells = hidden.unsqueeze(1).float()
        filled = [
            fill(m, F.interpolate(cells, m.shape[2:]) > 0)
            for fill, m in zip(self.fill, reversed(maps), strict=True)
        ]
        x = filled[0]
        for up, lateral in zip(self.up, filled[1:], strict=False):  # the last goes up to the image
            x = _resized(up(x), lateral.shape[2:]) + lateral
        return _resized(self.out(self.up[-1](x)), self.size)


def _doubling(width: int, out: int) -> nn.Sequential:
    """Return layers from a map [B, width, h, w] to one of twice the sides, [B, out, 2h, 2w]."""
    return nn.Sequential(
        nn.ConvTranspose2d(width, width, 4, stride=2, padding=1),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU6(inplace=True),
        nn.Conv2d(width, out, 3, padding=1, bias=False),
        nn.BatchNorm2d(out),
    )


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return a map of another size, where a side was no multiple of a smaller one."""
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


class BlockDecoder(nn.Module):
    """One ConvNeXt block on the last map, which predicts the pixels of each cell.

    Source: FCMAE of ConvNeXt V2, arXiv:2301.00808, section 3.1.

    Args:
        shape: the shape of the map.
        patch: the height and width of a cell, in pixels.
        channels: the channels of the image.
        width: the width of the block.
    """

    def __init__(self, shape: Shape, patch: tuple[int, int], channels: int, width: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(shape[0], width, 1)
        self.token = nn.Parameter(0.02 * torch.randn(width))
        self.block = ConvNeXtBlock(width, width, use_grn=True, ls_init_value=None)
        self.out = nn.ConvTranspose2d(width, channels, patch, stride=patch)

    def forward(self, maps: Sequence[Tensor], hidden: Tensor) -> Tensor:
        """Return images [B, C, H, W], of the last of the maps, as `LateralDecoder` does."""
        x = _filled(self.project(maps[-1]), hidden.unsqueeze(1), self.token)
        output: Tensor = self.out(self.block(x))
        return output


def _filled(x: Tensor, hidden: Tensor, token: Tensor) -> Tensor:
    """Put a token [d] in the hidden cells, bool [B, 1, h, w], of a map [B, d, h, w]."""
    return torch.where(hidden, token.to(x.dtype).view(-1, 1, 1), x)
