"""iBOT: DINO, and the student also matches its teacher's outputs for patches hidden from it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssl_zoo.nn import Centre, by_size, output_shape, places_of, soft_cross_entropy
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo.views import Rng
from ssl_zoo.views.masks import block_places, places_in
from ssl_zoo_vision.distillation.dino import DINO
from ssl_zoo_vision.patches import token_width
from ssl_zoo_vision.transformers import VIT


class IBOT(DINO):
    """DINO on class tokens, and the same on hidden patches of the same view, through one head."""

    name = "ibot"
    family = "distillation"
    prerequisites = "a ViT"
    paper = "Zhou et al. 2021, iBOT: Image BERT Pre-Training with Online Tokenizer, arXiv:2111.07832"
    passes = 4
    masked_views = (0, 1)
    recipe = {**DINO.recipe, "backbone": VIT}
    paper_outputs, paper_momentum, paper_local, paper_large = 8192, 0.996, 10, (0.25, 1.0)

    class Options(DINO.Options):
        """iBOT's options."""

        patch_weight: float = Field(1.0, ge=0, description="weight of the patches' loss")
        mask_low: float = Field(0.1, ge=0, le=1, description="smallest share of patches to hide")
        mask_high: float = Field(
            0.5, ge=0, le=1, description="largest share, in half of the large crops"
        )
        local_scale: tuple[float, float] = Field((0.05, 0.25), description="area of a small crop")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        self.token = nn.Parameter(torch.zeros(token_width(encoder)))
        self.patch_centre = Centre(self.centre.centre.numel())
        self.rows, self.columns = output_shape(encoder, encoder.feature_map, spec)[2:]

    @property
    def min_block(self) -> int:
        """The area of the smallest hidden block, in patches: of a third of the side."""
        return max(1, min(self.rows // 3, self.columns // 3) ** 2)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return the crops, and of the large ones masks [2B, h, w] and indices of hidden patches [1, P].

        Half of the large crops of the joint batch are masked, with evenly spread shares.
        """
        crops, n, half = super().views(batch, rng), 2 * len(batch), len(batch) * rng.world_size
        low, high = sorted((self.options.mask_low, self.options.mask_high))
        dealt = rng.order(2 * half)[rng.rank * n :][:n]
        shares = [low + (high - low) * (i + 0.5) / half if i < half else 0.0 for i in dealt]
        hidden = [round(share * self.rows * self.columns) for share in shares]
        counts = torch.tensor(hidden, device=batch.device)
        masks = block_places(n, (self.rows, self.columns), counts, rng, self.min_block)
        masks = torch.cat(masks.unflatten(0, (-1, 2)).unbind(1))  # from image by image to crop by crop
        return *crops, masks, places_in(masks.flatten(0, 1), sum(hidden)).unsqueeze(0)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return DINO's loss plus the mean over large crops of that of an image's hidden patches."""
        *crops, masks, (hidden,) = views
        large = torch.cat(crops[:2])
        with torch.no_grad():
            pooled, patches = self.exported_encoder.pooled_and_map(large)
            scores = self.teacher[2](self.teacher[1](pooled))  # [2B, K]
            self.centre.note(scores)
            targets = self.targets(scores, self.centre)
            patch_targets = self.patch_targets(places_of(patches).flatten(0, 1), hidden)  # [P, K]

        pooled, patches = self.encoder.pooled_and_map(large, masks, self.token)
        losses = self.matched(targets, [*pooled.chunk(2), *by_size(self.encoder, crops[2:])])
        z = self.head(places_of(patches).flatten(0, 1)[hidden])  # [P, out]
        counts = masks.flatten(1).sum(1).to(patch_targets.dtype)
        weights = 1 / (len(masks) * counts[hidden // masks[0].numel()])  # [P]
        patch_loss = soft_cross_entropy(patch_targets, z, self.options.temperature, self.scores, weights)
        total = losses.total + self.options.patch_weight * patch_loss
        return Losses(total, {**losses.logs, "patch_loss": patch_loss.detach()})

    def patch_targets(self, patches: Tensor, hidden: Tensor) -> Tensor:
        """Return targets [P, K] of the hidden among the teacher's patches, centred by all of them."""
        scores = self.teacher[2](self.teacher[1](patches))
        self.patch_centre.note(scores)
        return self.targets(scores[hidden], self.patch_centre)

    def after_step(self, progress: float) -> None:
        """Update the centres and the teacher."""
        super().after_step(progress)
        self.patch_centre.update()
