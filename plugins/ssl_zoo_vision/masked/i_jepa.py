"""I-JEPA: from a part of an image, predict a momentum teacher's features of other parts."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.errors import Unsuitable
from ssl_zoo.nn import full_precision, layer_normalised, spread
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo.views import Rng
from ssl_zoo.views.masks import Rectangles, context_and_targets
from ssl_zoo_vision.masked.latent_task import LatentOptions, LatentTask
from ssl_zoo_vision.patches import take
from ssl_zoo_vision.predictor import Predictor
from ssl_zoo_vision.transformers import MASKED_ADAMW, MASKED_VIT

BLOCKS = 4
"""The number of blocks that are predicted, each by itself."""


class IJEPA(LatentTask):
    """A context block's tokens predict the teacher's features of four blocks, without augmentation.

    The authors' code divides the output weights of block l by √(2l) at the start:
    ``backbone.options.fix_init=true`` of a ViT.
    """

    name = "i-jepa"
    paper = "Assran et al. 2023, Self-Supervised Learning with a JEPA, arXiv:2301.08243"
    recipe = {
        "train": {**MASKED_ADAMW, "weight_decay": 0.04, "weight_decay_end": 0.4},
        "backbone": MASKED_VIT,
    }

    class Options(LatentOptions):
        """I-JEPA's options."""

        visible: float = Field(
            0.25, gt=0, lt=1, description="share of patches that are seen of the context, at random"
        )
        predictor_width: int | None = Field(
            None, ge=32, multiple_of=32, description="none: the paper's 384, or 64 up to 64 pixels"
        )
        predictor_depth: int | None = Field(
            None, ge=1, description="none: the paper's 6 for small networks, or 2 up to 64 pixels"
        )
        crop_scale: tuple[float, float] = Field((0.3, 1.0), description="share of the image's area")
        flip: float | None = Field(0.0, ge=0, le=1, description="probability of a horizontal flip")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        d, width = self.grid.width, options.predictor_width or (64 if self.small else 384)
        depth = options.predictor_depth or (2 if self.small else 6)
        self.predictor = Predictor(d, d, self.grid.shape, width, depth)
        self.context = Rectangles(self.grid.shape, (0.85, 1.0))
        self.targets = Rectangles(self.grid.shape, (0.15, 0.2), (0.75, 1.5))
        self.visible = self.grid.share(options.visible)  # K
        if self.visible > (most := self.context.min_places - self.targets.max_places):
            raise Unsuitable(
                f"task.visible: a context may have only {most} of {self.grid.places} patches beside a "
                f"predicted block; choose at most {most / self.grid.places:.2f}, or smaller patches"
            )

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return crops [B, C, H, W], and the places seen [B, K] and of each block [B, 4, M]."""
        x = self.augment(batch, rng)
        return x, *context_and_targets(len(x), self.context, self.targets, BLOCKS, self.visible, rng)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the smooth L1 loss over all blocks, and the spread of the teacher's features."""
        y = self.teacher_places(views[0])  # [B, N, d]
        target = take(layer_normalised(y), self.asked_places(views))  # [B, 4·M, d]
        return Losses(F.smooth_l1_loss(self.predict(views), target), {"spread": spread(y.mean(1))})

    def predict(self, views: tuple[Tensor, ...]) -> Tensor:
        """Return the predictions [B, 4·M, d]; no block sees that another is asked for."""
        x, visible, asked = views
        tokens = self.encoder.tokens(x, visible)  # [B, K, d]
        tokens, visible = (t.repeat_interleave(BLOCKS, 0) for t in (tokens, visible))
        predicted = self.predictor(tokens, visible, asked.flatten(0, 1))  # [4·B, M, d]
        return full_precision(predicted).view(len(x), -1, self.grid.width)

    def answers(self, views: tuple[Tensor, ...]) -> Tensor:
        """Return the patches [B, 4·M, P] whose features are nearest to the predictions."""
        targets = layer_normalised(self.teacher_places(views[0]))
        return self.nearest_patches(views[0], self.predict(views), targets)
