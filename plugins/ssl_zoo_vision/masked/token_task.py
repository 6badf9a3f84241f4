"""The base of tasks whose encoder sees a learnt token in the place of hidden patches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssl_zoo.nn import places_of
from ssl_zoo.options import CropOptions
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder
from ssl_zoo.views import Rng
from ssl_zoo.views.masks import block_places, mask_of, places_in
from ssl_zoo_vision.masked.patch_task import PatchTask
from ssl_zoo_vision.patches import freeze_unreached, take, token_width

SMALLEST_BLOCK = 16 / 196
"""The share of the grid in the smallest hidden block, in BEiT and data2vec."""


class TokenTask(PatchTask):
    """A task whose encoder gets all patches, a learnt token standing in the hidden ones (BEiT, SimMIM).

    Views are the crops [B, C, H, W] and the hidden places [B, M].

    Attributes:
        token: what stands in hidden places, before positions are added, [e].
        hidden: M, the number of hidden places.
    """

    prerequisites = "a ViT or Swin"

    def __init__(
        self, encoder: Encoder, options: CropOptions, spec: ImageSpec, mask_ratio: float
    ) -> None:
        super().__init__(encoder, options, spec)
        width = token_width(encoder)
        self.grid.require_parts()
        freeze_unreached(encoder, spec, lambda network, x: network.feature_map(x))
        self.token = nn.Parameter(0.02 * torch.randn(width))
        self.hidden = self.grid.share(mask_ratio)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return crops [B, C, H, W] and the hidden places [B, M], which are a union of blocks."""
        x = self.augment(batch, rng)
        smallest = max(1, round(SMALLEST_BLOCK * self.grid.places))
        masks = block_places(len(x), self.grid.shape, self.hidden, rng, smallest)
        return x, places_in(masks, self.hidden)

    def encode(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Return the features [B, M, d] of the hidden places, which have seen all others."""
        mask = mask_of(hidden, self.grid.shape)
        features = places_of(self.encoder.feature_map(x, mask, self.token))  # [B, N, d]
        return take(features, hidden)

    def hidden_places(self, views: tuple[Tensor, ...]) -> Tensor:
        """Return the hidden places [B, M]."""
        return views[1]
