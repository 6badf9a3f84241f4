"""Context encoders: inpaint a hidden region from its surroundings."""

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
from ssl_zoo.views import Rng, random_blocks
from ssl_zoo.views.functional import centre_block


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


class Decoder(nn.Module):
    """A decoder from feature maps to images: a channel-wise layer, then up-convolutions."""

    def __init__(self, width: int, grid: tuple[int, int], spec: ImageSpec, hidden: int) -> None:
        super().__init__()
        self.size = spec.height, spec.width
        # The positions of each channel are fully connected (section 3.1).
        places = grid[0] * grid[1]
        self.channel_wise = nn.Parameter(torch.eye(places).repeat(width, 1, 1))
        layers: list[nn.Module] = []
        stride = max(spec.height / grid[0], spec.width / grid[1])
        for _ in range(math.ceil(math.log2(stride))):
            layers += [
                nn.ConvTranspose2d(width, hidden, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(hidden),
                nn.ReLU(inplace=True),
            ]
            width, hidden = hidden, max(hidden // 2, 32)
        self.up = nn.Sequential(*layers, nn.Conv2d(width, spec.channels, 3, padding=1))

    def forward(self, feature_map: Tensor) -> Tensor:
        """Return images [B, C, H, W] for feature maps [B, width, h, w]."""
        x = torch.einsum("bcp,cqp->bcq", feature_map.flatten(2), self.channel_wise)
        painted = self.up(F.relu(x.view_as(feature_map)))
        return F.interpolate(painted, self.size, mode="bilinear", align_corners=False)


def discriminator(channels: int, size: int) -> nn.Sequential:
    """Build a classifier of real and inpainted regions: strided convolutions to one logit [B, 1]."""
    layers: list[nn.Module] = []
    width = 32
    for i in range(max(2, int(math.log2(size)) - 2)):
        layers += [nn.Conv2d(channels, width, 4, stride=2, padding=1)]
        layers += [nn.BatchNorm2d(width)] if i else []
        layers += [nn.LeakyReLU(0.2, inplace=True)]
        channels, width = width, min(2 * width, 256)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1))


class Inpainting(Task):
    """A region of the image is hidden and inpainted from the features of the rest."""

    name = "inpainting"
    paper = "Pathak et al. 2016, Context Encoders: Feature Learning by Inpainting, arXiv:1604.07379"
    family = "masked"
    passes = 1
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
            "random", description="a centred block of half the sides, or random squares"
        )
        overlap: int | None = Field(
            None,
            ge=0,
            description="width of the weighted band in pixels; none: shorter side / 32, at least 1",
        )
        overlap_weight: float = Field(10.0, ge=0, description="weight of errors in the band")
        adversarial: float = Field(
            0.0,
            ge=0,
            lt=1,
            description="share of the adversarial loss in the total; the paper's is 0.001",
        )
        hidden: int = Field(256, ge=32, description="width of the decoder's first layer")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        _, width, *grid = output_shape(encoder, encoder.feature_map, spec)
        self.decoder = Decoder(width, (grid[0], grid[1]), spec, options.hidden)
        side = min(spec.height, spec.width)
        self.critic = discriminator(spec.channels, side) if options.adversarial else None
        self.overlap = max(1, round(side / 32)) if options.overlap is None else options.overlap
        self.augment = options.view(spec)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return crops [B, C, H, W] of the images, and the masks [B, 1, H, W], true where hidden."""
        x = self.augment(batch, rng)
        height, width = x.shape[2:]
        if self.options.region == "centre":
            return x, centre_block(len(x), (height, width), (height // 2, width // 2), x.device)
        return x, random_blocks(len(x), (height, width), rng)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the reconstruction loss, plus both adversarial losses if the option is set."""
        x, hidden = views
        painted = self.paint(x, hidden)
        weight = weights(hidden, self.overlap, self.options.overlap_weight)
        reconstruction = reconstruction_loss(x, painted, weight)
        logs = {"reconstruction": reconstruction.detach()}
        area = weight.sum()
        if self.critic is None:
            return Losses(reconstruction, logs, area)
        # The critic's losses are means over images, so that the area cannot weigh the total. Processes
        # agree on their mean area; accumulated batches count alike.
        reconstruction = reconstruction * (area / distributed.mean(area))

        def bce(logit: Tensor, real: float) -> Tensor:
            return F.binary_cross_entropy_with_logits(logit, torch.full_like(logit, real))

        # The generator's loss does not train the critic, nor the critic's loss the generator, so
        # both are one sum.
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
        """Return the whole image [B, C, H, W], predicted from the visible pixels."""
        # Hidden pixels are filled with 0, the mean of the data.
        painted: Tensor = self.decoder(self.encoder.feature_map(x.masked_fill(hidden, 0)))
        return painted

    def lr_scale(self, parameter: str) -> float:
        """Return a tenth of the learning rate for the critic (section 5.1).

        The authors' train.lua uses Adam with 2e-4 for the critic and ten times that otherwise.
        """
        return 0.1 if parameter.startswith("critic.") else 1.0

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the image and the input of the network."""
        x, hidden = views
        return {"image": x, "input": x.masked_fill(hidden, 0)}

    def reconstructions(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the image with the hidden region inpainted."""
        x, hidden = views
        return {"painted": torch.where(hidden, self.paint(x, hidden), x)}
