"""AIM: predict each patch from those before it, as language models predict tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import build_sincos2d_pos_embed
from torch import Tensor, nn

from ssl_zoo import CropOptions, Encoder, Field, ImageSpec, Losses, Rng, Task, Unsuitable, distributed
from ssl_zoo.nn import full_precision
from ssl_zoo_vision.augmentation import is_small
from ssl_zoo_vision.patches import PatchGrid, freeze_unreached, moments, normalised
from ssl_zoo_vision.predictor import ResidualMLP
from ssl_zoo_vision.transformers import MASKED_ADAMW, MASKED_VIT, prefix_attention


class AIM(Task):
    """The next patch is predicted from all before it, beyond a prefix that sees itself whole."""

    name = "aim"
    paper = "El-Nouby et al. 2024, Pre-training of Autoregressive Image Models, arXiv:2401.08541"
    family = "generative"
    prerequisites = "a ViT"
    passes = 1
    recipe = {
        "train": {**MASKED_ADAMW, "optimizer_options": {"betas": [0.9, 0.95]}, "clip_norm": 1.0},
        "backbone": MASKED_VIT,
    }

    class Options(CropOptions):
        """AIM's options."""

        width: int | None = Field(
            None, ge=4, multiple_of=4, description="of the head; none: 2048, or 256 up to 64 pixels"
        )
        depth: int | None = Field(None, ge=1, description="its blocks; none: 12, or 2 up to 64 pixels")
        crop_scale: tuple[float, float] = Field((0.4, 1.0), description="share of the image's area")

    positions: Tensor

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        self.grid = PatchGrid.of(encoder, spec)
        d, n = self.grid.width, self.grid.places
        every = torch.ones(1, n, n, dtype=torch.bool)
        try:
            freeze_unreached(encoder, spec, lambda network, x: network.tokens(x, attend=every))
        except Unsuitable as error:
            raise Unsuitable(f"backbone.name: {error}") from error
        self.grid.require_parts()
        self.register_buffer("positions", build_sincos2d_pos_embed(list(self.grid.shape), d))  # [N, d]
        small = is_small(spec)
        width, depth = options.width or (256 if small else 2048), options.depth or (2 if small else 12)
        blocks = [ResidualMLP(width) for _ in range(depth)]
        last = nn.Linear(width, self.grid.values)
        self.head = nn.Sequential(nn.Linear(d, width), *blocks, nn.LayerNorm(width), last)
        self.augment = options.view(spec)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return crops [B, C, H, W], and the length of each one's prefix [B], from 1 to N - 1."""
        x = self.augment(batch, rng)
        return x, 1 + (rng.uniform(len(x)) * (self.grid.places - 1)).long()

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the mean squared error of normalised patches after the prefix (section 3.1)."""
        x, prefix = views
        target = normalised(self.grid.patches(x))[:, 1:]  # [B, N - 1, P]
        asked = self.asked(prefix)
        error = (self.predict(x, prefix) - target).square().mean(2) * asked  # [B, N - 1]
        return Losses(error.sum() / distributed.nonzero(weight := asked.sum().float()), weight=weight)

    def asked(self, prefix: Tensor) -> Tensor:
        """Return which of the patches 1 to N - 1 are after the prefix, bool [B, N - 1]."""
        return torch.arange(1, self.grid.places, device=prefix.device) >= prefix.unsqueeze(1)

    def predict(self, x: Tensor, prefix: Tensor) -> Tensor:
        """Return the prediction [B, N - 1, P] of each patch but the first, from those before it."""
        tokens = self.encoder.tokens(x, attend=prefix_attention(prefix, self.grid.places))
        return full_precision(self.head((tokens + self.positions)[:, :-1]))

    def features(self, x: Tensor) -> Tensor:
        """Return the mean of the last layer's patches [B, d]; the paper averages the last six layers."""
        return self.exported_encoder.feature_map(x).flatten(2).mean(2)

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the image and its prefix."""
        x, prefix = views
        seen = F.pad(~self.asked(prefix), (1, 0), value=True).unsqueeze(2)  # [B, N, 1]
        return {"image": x, "prefix": self.grid.image(self.grid.patches(x) * seen)}

    def reconstructions(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the image with each patch after the prefix as it is predicted from those before it."""
        x, prefix = views
        patches = self.grid.patches(x)
        mean, deviation = moments(patches[:, 1:])
        painted = self.predict(x, prefix) * deviation + mean
        later = torch.where(self.asked(prefix).unsqueeze(2), painted, patches[:, 1:])
        return {"painted": self.grid.image(torch.cat([patches[:, :1], later], 1))}
