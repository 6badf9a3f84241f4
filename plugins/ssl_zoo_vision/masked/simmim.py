"""SimMIM: a token stands in hidden patches, and their pixels are predicted; or, in MaskFeat, HOG."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo.errors import Unsuitable
from ssl_zoo.nn import full_precision
from ssl_zoo.options import CropOptions
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo.views import Rng
from ssl_zoo.views.masks import unit_places
from ssl_zoo_vision.hog import BINS, cell_side, patch_histograms
from ssl_zoo_vision.masked.token_task import TokenTask
from ssl_zoo_vision.patches import take
from ssl_zoo_vision.transformers import MASKED_ADAMW, MASKED_VIT, Recipe, with_train


class SimMIM(TokenTask):
    """Units of patches are hidden; their pixels, or histograms of gradients, are predicted linearly."""

    name = "simmim"
    paper = "Xie et al. 2021, SimMIM: A Simple Framework for Masked Image Modeling, arXiv:2111.09886"
    recipe = {"train": {**MASKED_ADAMW, "clip_norm": 5.0}, "backbone": MASKED_VIT}

    class Options(CropOptions):
        """The options of SimMIM, and of MaskFeat, whose target is hog."""

        target: Literal["pixels", "hog"] = Field(
            "pixels", description="pixels, or histograms of gradients (MaskFeat, arXiv:2112.09133)"
        )
        masks: Literal["units", "blocks"] | None = Field(
            None, description="hidden square units, or blocks; none: units, or blocks with hog"
        )
        mask_ratio: float | None = Field(
            None, gt=0, lt=1, description="share of patches that are hidden; none: 0.6, or 0.4 with hog"
        )
        unit: int | None = Field(
            None, ge=1, description="side of a unit in patches; none: 2, or 1 if a patch has 32 pixels"
        )
        crop_scale: tuple[float, float] | None = Field(
            None, description="share of the image's area; none: 0.67 to 1, or 0.5 to 1 with hog"
        )

    @classmethod
    def recipe_for(cls, options: Any) -> Recipe:
        """Return the recipe; MaskFeat clips the gradient's norm to 0.02 (the authors' configuration)."""
        return with_train(cls.recipe, {"clip_norm": 0.02} if options.target == "hog" else {})

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        maskfeat = options.target == "hog"
        scale = options.crop_scale or (0.5 if maskfeat else 0.67, 1.0)
        ratio = options.mask_ratio or (0.4 if maskfeat else 0.6)
        super().__init__(encoder, options.model_copy(update={"crop_scale": scale}), spec, ratio)
        self.masks = options.masks or ("blocks" if maskfeat else "units")
        unit = options.unit or (2 if max(self.grid.patch) < 32 else 1)  # of Swin
        self.draw = partial(unit_places, grid=self.grid.shape, share=ratio, unit=unit)
        if self.masks == "units":
            try:
                self.hidden = self.draw(1, rng=Rng(0)).shape[1]
            except ValueError as error:
                raise Unsuitable(f"task.unit: {error}; choose a smaller unit or patches") from None
        values = self.grid.values
        values = values // cell_side(self.grid.patch) ** 2 * BINS if maskfeat else values
        self.head = nn.Linear(self.grid.width, values)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return crops [B, C, H, W] and the hidden places [B, M]."""
        if self.masks == "blocks":
            return super().views(batch, rng)
        return self.augment(batch, rng), self.draw(len(batch), rng=rng)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the mean over hidden places: of |x - x̂| for pixels, of squared errors for HOG."""
        x, hidden = views
        target, predicted = take(self.targets(x), hidden), self.predict(x, hidden)  # [B, M, P]
        error = F.mse_loss if self.options.target == "hog" else F.l1_loss
        return Losses(error(predicted, target))

    def targets(self, x: Tensor) -> Tensor:
        """Return the targets [B, N, P] of all places, from the whole image."""
        if self.options.target == "pixels":
            return self.grid.patches(x)
        return patch_histograms(x, self.grid.patch)

    def predict(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Return the predictions [B, M, P] for the hidden places."""
        return full_precision(self.head(self.encode(x, hidden)))

    def answers(self, views: tuple[Tensor, ...]) -> Tensor:
        """Return the predicted pixels [B, M, P], or patches with a similar histogram."""
        x, hidden = views
        predicted = self.predict(x, hidden)
        hog = self.options.target == "hog"
        return self.nearest_patches(x, predicted, self.targets(x)) if hog else predicted
