"""Context encoders: inpaint a hidden region from its surroundings."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ssl_zoo import CropOptions, Encoder, Field, ImageSpec, Losses, Rng, Task, distributed
from ssl_zoo.nn import output_shape
from ssl_zoo.views import random_blocks
from ssl_zoo.views.functional import centre_block
from ssl_zoo_vision.masked.context import ContextDecoder, Critic, reconstruction_loss, weights


class Inpainting(Task):
    """A region of the image is hidden and inpainted from the features of the rest."""

    name = "inpainting"
    paper = "Pathak et al. 2016, Context Encoders: Feature Learning by Inpainting, arXiv:1604.07379"
    family = "masked"
    passes = 1
    recipe = {
        "train": {"optimizer": "adam", "lr": 2e-3, "lr_scaling": "none", "momentum": 0.5}
        | {"weight_decay": 0.0, "warmup": 0.0}
    }

    class Options(CropOptions):
        """Inpainting's options."""

        crop_scale: tuple[float, float] = Field((0.5, 1.0), description="share of the image's area")
        region: Literal["centre", "random"] = Field(
            "random", description="a centred block of half the sides, or random squares"
        )
        overlap: int | None = Field(
            None, ge=0, description="width of the band in pixels; none: shorter side / 32, at least 1"
        )
        overlap_weight: float = Field(
            10.0, ge=0, description="weight of errors in the band around the region"
        )
        adversarial: float = Field(
            0.0, ge=0, lt=1, description="share of the adversarial loss; the paper's is 0.001"
        )
        hidden: int = Field(256, ge=32, description="width of the decoder's first layer")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        _, width, *grid = output_shape(encoder, encoder.feature_map, spec)
        self.decoder = ContextDecoder(width, (grid[0], grid[1]), spec, options.hidden)
        side = min(spec.height, spec.width)
        self.critic = Critic(spec.channels, side) if options.adversarial else None
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
        logs, area = {"reconstruction": reconstruction.detach()}, weight.sum()
        if self.critic is None:
            return Losses(reconstruction, logs, area)
        # The critic's losses are means over images, so that the area cannot weigh the total. Processes
        # agree on their mean area; accumulated batches count alike.
        reconstruction = reconstruction * (area / distributed.mean(area))
        fooling, telling = self.critic.losses(x, painted, weight > 0)
        share = self.options.adversarial
        total = (1 - share) * reconstruction + share * fooling + telling
        return Losses(total, logs | {"fooling": fooling.detach(), "telling": telling.detach()})

    def paint(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Return the whole image [B, C, H, W], predicted from the visible pixels."""
        # Hidden pixels are filled with 0, the mean of the data.
        painted: Tensor = self.decoder(self.encoder.feature_map(x.masked_fill(hidden, 0)))
        return painted

    def lr_scale(self, parameter: str) -> float:
        """Return a tenth of the rate for the critic, as the authors' train.lua does (section 5.1)."""
        return 0.1 if parameter.startswith("critic.") else 1.0

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the image and the input of the network."""
        x, hidden = views
        return {"image": x, "input": x.masked_fill(hidden, 0)}

    def reconstructions(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the image with the hidden region inpainted."""
        x, hidden = views
        return {"painted": torch.where(hidden, self.paint(x, hidden), x)}
