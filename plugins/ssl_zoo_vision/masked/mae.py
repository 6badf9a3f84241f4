"""MAE: most patches of an image are hidden, and reconstructed from the few visible ones."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.nn import full_precision
from ssl_zoo.options import CropOptions
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo.views import Rng
from ssl_zoo.views.masks import random_places
from ssl_zoo_vision.augmentation import is_small
from ssl_zoo_vision.masked.patch_task import PatchTask
from ssl_zoo_vision.patches import fit_to_tokens, moments, normalised, take
from ssl_zoo_vision.predictor import Predictor
from ssl_zoo_vision.transformers import MASKED_ADAMW, MASKED_VIT


class MAE(PatchTask):
    """Three patches in four are hidden, and a decoder reconstructs them from the others' tokens."""

    name = "mae"
    paper = "He et al. 2021, Masked Autoencoders Are Scalable Vision Learners, arXiv:2111.06377"
    recipe = {
        "train": {**MASKED_ADAMW, "optimizer_options": {"betas": [0.9, 0.95]}, "lr": 3e-3},
        "backbone": MASKED_VIT,
    }

    class Options(CropOptions):
        """MAE's options."""

        mask_ratio: float = Field(0.75, gt=0, lt=1, description="share of patches that are hidden")
        normalise_targets: bool = Field(
            True, description="normalise each target patch by its own mean and deviation"
        )
        decoder_width: int | None = Field(
            None, ge=32, multiple_of=32, description="none: the paper's 512, or 128 up to 64 pixels"
        )
        decoder_depth: int | None = Field(
            None, ge=1, description="blocks; none: the paper's 8, or 2 up to 64 pixels"
        )
        crop_scale: tuple[float, float] = Field((0.2, 1.0), description="share of the image's area")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        fit_to_tokens(encoder, spec, self.grid)
        self.hidden = self.grid.share(options.mask_ratio)  # M
        small = is_small(spec)
        size = (
            options.decoder_width or (128 if small else 512),
            options.decoder_depth or (2 if small else 8),
        )
        self.decoder = Predictor(self.grid.width, self.grid.values, self.grid.shape, *size)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return crops [B, C, H, W], and the places visible [B, K] and hidden [B, M]."""
        x = self.augment(batch, rng)
        return x, *random_places(len(x), self.grid.places, self.hidden, rng)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the mean squared error over the hidden patches; about 1 if it predicts their means."""
        x, visible, hidden = views
        target = take(self.grid.patches(x), hidden)  # [B, M, P]
        if self.options.normalise_targets:
            target = normalised(target)
        return Losses(F.mse_loss(self.predict(x, visible, hidden), target))

    def predict(self, x: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Reconstruct the hidden patches [B, M, P] from the visible ones."""
        return full_precision(self.decoder(self.encoder.tokens(x, visible), visible, hidden))

    def hidden_places(self, views: tuple[Tensor, ...]) -> Tensor:
        """Return the hidden places [B, M]."""
        return views[2]

    def answers(self, views: tuple[Tensor, ...]) -> Tensor:
        """Return the hidden patches [B, M, P]; normalised ones get their true mean and deviation."""
        x, visible, hidden = views
        patches = self.predict(x, visible, hidden)
        if self.options.normalise_targets:
            mean, deviation = moments(take(self.grid.patches(x), hidden))
            patches = patches * deviation + mean
        return patches
