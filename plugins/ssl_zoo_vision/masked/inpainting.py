"""Context encoders: paint a hidden region from what surrounds it."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ssl_zoo import distributed
from ssl_zoo.nn import full_precision, output_shape
from ssl_zoo.options import CropOptions
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses, Task
from ssl_zoo.views import Compose, Normalise, Rng, random_blocks
from ssl_zoo.views.functional import centre_block


def weights(hidden: Tensor, overlap: int, overlap_weight: float) -> Tensor:
    """The weight of each pixel in the reconstruction loss: 1 where hidden, more in a band around it.

    The band, whose pixels the network sees, makes the painted region continue its surroundings
    (Pathak et al. 2016, section 5).

    Args:
        hidden: the mask [B, 1, H, W], true where hidden.
        overlap: the width of the band, in pixels.
        overlap_weight: the weight in the band.
    """
    mask = hidden.float()
    near = F.max_pool2d(mask, 2 * overlap + 1, stride=1, padding=overlap)
    return mask + overlap_weight * (near - mask)


def reconstruction_loss(x: Tensor, painted: Tensor, weight: Tensor) -> Tensor:
    """The weighted mean squared error over the region (equation 1, as a mean).

    Args:
        x: the images [B, C, H, W].
        painted: what the network made [B, C, H, W].
        weight: [B, 1, H, W], 0 outside the region.
    """
    error = (x - full_precision(painted)).pow(2).mean(1, keepdim=True)
    # Processes hide different areas; with the mean area, the mean of their losses is the joint one.
    return (weight * error).sum() / distributed.mean(weight.sum())


class Decoder(nn.Module):
    """From the encoder's feature map to an image: a channel-wise layer, then up-convolutions."""

    def __init__(self, width: int, grid: tuple[int, int], spec: ImageSpec, hidden: int) -> None:
        super().__init__()
        self.size = spec.size
        # Each channel's places are fully connected among themselves (section 3.1).
        places = grid[0] * grid[1]
        self.channel_wise = nn.Parameter(torch.eye(places).repeat(width, 1, 1))
        layers: list[nn.Module] = []
        for _ in range(math.ceil(math.log2(spec.size / min(grid)))):
            layers += [
                nn.ConvTranspose2d(width, hidden, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(hidden),
                nn.ReLU(inplace=True),
            ]
            width, hidden = hidden, max(hidden // 2, 32)
        self.up = nn.Sequential(*layers, nn.Conv2d(width, spec.channels, 3, padding=1))

    def forward(self, feature_map: Tensor) -> Tensor:
        """[B, width, h, w] to [B, C, size, size]."""
        x = torch.einsum("bcp,cqp->bcq", feature_map.flatten(2), self.channel_wise)
        painted = self.up(F.relu(x.view_as(feature_map)))
        return F.interpolate(painted, (self.size, self.size), mode="bilinear", align_corners=False)


def discriminator(channels: int, size: int) -> nn.Sequential:
    """Tells real regions from painted ones: strided convolutions to one logit [B, 1]."""
    layers: list[nn.Module] = []
    width = 32
    for i in range(max(2, int(math.log2(size)) - 2)):
        layers += [nn.Conv2d(channels, width, 4, stride=2, padding=1)]
        layers += [nn.BatchNorm2d(width)] if i else []
        layers += [nn.LeakyReLU(0.2, inplace=True)]
        channels, width = width, min(2 * width, 256)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1))


class Inpainting(Task):
    """A region of the image is hidden and painted again from the features of the rest."""

    name = "inpainting"
    paper = "Pathak et al. 2016, Context Encoders: Feature Learning by Inpainting, arXiv:1604.07379"
    recipe = {
        "train": {
            "optimizer": "adam",
            "lr": 2e-3,
            "lr_scaling": "none",
            "momentum": 0.5,
            "weight_decay": 0.0,
            "warmup": 0.0,
        }
    }

    class Options(CropOptions):
        """Inpainting's options."""

        crop_scale: tuple[float, float] = Field((0.5, 1.0), description="share of the image's area")
        region: Literal["centre", "random"] = Field(
            "random", description="a centred square of half the side, or random squares"
        )
        overlap: int | None = Field(
            None, ge=0, description="width of the weighted band in pixels; none: side / 32, at least 1"
        )
        overlap_weight: float = Field(10.0, ge=0, description="weight of an error in the band")
        adversarial: float = Field(
            0.0, ge=0, lt=1, description="share of the adversarial loss; the paper's is 0.001"
        )
        hidden: int = Field(256, ge=32, description="width of the decoder's first layer")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        _, width, *grid = output_shape(encoder, encoder.feature_map, spec)
        self.decoder = Decoder(width, (grid[0], grid[1]), spec, options.hidden)
        self.critic = discriminator(spec.channels, spec.size) if options.adversarial else None
        self.overlap = max(1, round(spec.size / 32)) if options.overlap is None else options.overlap
        self.augment = Compose(options.crop(spec), Normalise(spec))

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Images [B, C, h, w] to crops [B, C, H, W] and what is hidden of each, bool [B, 1, H, W]."""
        x = self.augment(batch, rng)
        size = self.spec.size
        if self.options.region == "centre":
            return x, centre_block(len(x), size, size // 2, x.device)
        return x, random_blocks(len(x), size, rng)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """The reconstruction loss, and with the adversarial option both players' losses."""
        x, hidden = views
        painted = self.paint(x, hidden)
        weight = weights(hidden, self.overlap, self.options.overlap_weight)
        reconstruction = reconstruction_loss(x, painted, weight)
        logs = {"reconstruction": reconstruction.detach()}
        if self.critic is None:
            return Losses(reconstruction, logs)

        def bce(logit: Tensor, real: float) -> Tensor:
            return F.binary_cross_entropy_with_logits(logit, torch.full_like(logit, real))

        # The painter is judged by a critic that it cannot move, the critic on a picture that it
        # cannot move: both gradients in one loss.
        region = weight > 0
        still = {name: p.detach() for name, p in self.critic.named_parameters()}
        fooling = bce(functional_call(self.critic, still, (painted * region,)), 1.0)
        telling = 0.5 * (
            bce(self.critic(x * region), 1.0) + bce(self.critic(painted.detach() * region), 0.0)
        )
        share = self.options.adversarial
        total = (1 - share) * reconstruction + share * fooling + telling
        return Losses(total, logs | {"fooling": fooling.detach(), "telling": telling.detach()})

    def paint(self, x: Tensor, hidden: Tensor) -> Tensor:
        """The whole image [B, C, H, W] as the network sees it from the visible pixels."""
        # 0 is the mean of the data, with which hidden pixels are filled.
        painted: Tensor = self.decoder(self.encoder.feature_map(x.masked_fill(hidden, 0)))
        return painted

    def lr_scale(self, parameter: str) -> float:
        """The critic learns ten times more slowly than the painter (section 5.1).

        The authors' train.lua: Adam with 2e-4 for the critic, ten times that for the painter.
        """
        return 0.1 if parameter.startswith("critic.") else 1.0

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """The image and what the network sees of it."""
        x, hidden = views
        return {"image": x, "input": x.masked_fill(hidden, 0)}

    def reconstructions(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """What the network paints into the hidden region."""
        x, hidden = views
        return {"painted": torch.where(hidden, self.paint(x, hidden), x)}
