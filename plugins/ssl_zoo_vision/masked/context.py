"""The parts of context encoders: a decoder that mixes places, the loss of a region, and a critic."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ssl_zoo import distributed
from ssl_zoo.nn import full_precision
from ssl_zoo.spec import ImageSpec
from ssl_zoo_vision.decoders import UpDecoder


def weights(hidden: Tensor, overlap: int, overlap_weight: float) -> Tensor:
    """Return the pixel weights of the reconstruction loss: 1 where hidden, more in a band around it.

    The pixels of the band are visible to the network, so that the inpainted region continues its
    surroundings (Pathak et al. 2016, section 5).

    Args:
        hidden: the mask [B, 1, H, W], true where hidden.
        overlap: the width of the band, in pixels.
        overlap_weight: the weight in the band.
    """
    mask = hidden.float()
    near = F.max_pool2d(mask, 2 * overlap + 1, stride=1, padding=overlap)
    return mask + overlap_weight * (near - mask)


def reconstruction_loss(x: Tensor, painted: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean squared error over the region (equation 1, as a mean).

    Args:
        x: the images [B, C, H, W].
        painted: the network's output [B, C, H, W].
        weight: [B, 1, H, W], 0 outside the region.
    """
    error = (x - full_precision(painted)).pow(2).mean(1, keepdim=True)
    return (weight * error).sum() / distributed.nonzero(weight.sum())


class ContextDecoder(UpDecoder):
    """A decoder from feature maps to images: a channel-wise layer, then up-convolutions."""

    def __init__(self, width: int, grid: tuple[int, int], spec: ImageSpec, hidden: int) -> None:
        super().__init__(width, grid, spec.size, spec.channels, hidden)
        # The positions of each channel are fully connected (section 3.1).
        self.channel_wise = nn.Parameter(torch.eye(grid[0] * grid[1]).repeat(width, 1, 1))

    def forward(self, feature_map: Tensor) -> Tensor:
        """Return images [B, C, H, W] for feature maps [B, width, h, w]."""
        x = torch.einsum("bcp,cqp->bcq", feature_map.flatten(2), self.channel_wise)
        return super().forward(F.relu(x.view_as(feature_map)))


class Critic(nn.Sequential):
    """A classifier of real and inpainted regions: strided convolutions to one logit [B, 1].

    Args:
        channels: the channels of the images.
        size: their shorter side, in pixels.
    """

    def __init__(self, channels: int, size: int) -> None:
        layers: list[nn.Module] = []
        width = 32
        for i in range(max(2, int(math.log2(size)) - 2)):
            layers += [nn.Conv2d(channels, width, 4, stride=2, padding=1)]
            layers += [nn.BatchNorm2d(width)] if i else []
            layers += [nn.LeakyReLU(0.2, inplace=True)]
            channels, width = width, min(2 * width, 256)
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1))

    def losses(self, x: Tensor, painted: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses of fooling the critic, and of its telling real regions from painted ones.

        The first does not train the critic, nor the second what has painted, so both are terms of one
        sum (equation 2).

        Args:
            x: the images [B, C, H, W].
            painted: the inpainted ones [B, C, H, W].
            region: what the critic sees, bool [B, 1, H, W].
        """

        def bce(logit: Tensor, real: float) -> Tensor:
            return F.binary_cross_entropy_with_logits(logit, torch.full_like(logit, real))

        still = {name: p.detach() for name, p in self.named_parameters()}
        fooling = bce(functional_call(self, still, (painted * region,)), 1.0)
        real, false = self(x * region), self(painted.detach() * region)
        return fooling, 0.5 * (bce(real, 1.0) + bce(false, 0.0))
