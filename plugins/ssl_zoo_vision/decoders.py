"""Decoders from feature maps back to images, or to anything else on a grid of pixels."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo.sizes import Size, height_width


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
        return F.interpolate(self.up(feature_map), self.size, mode="bilinear", align_corners=False)
