"""The base of tasks that predict a momentum teacher's features of the whole image from a part of it."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from ssl_zoo.nn import Teacher, places_of
from ssl_zoo.options import CropOptions
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field
from ssl_zoo.views.masks import mask_of, places_in
from ssl_zoo_vision.augmentation import is_small
from ssl_zoo_vision.masked.patch_task import PatchTask
from ssl_zoo_vision.patches import fit_to_tokens, take


class LatentOptions(CropOptions):
    """The options of a crop, and of the teacher that sees the whole of it."""

    momentum: float | None = Field(
        None, gt=0, le=1, description="initial momentum; none: the paper's, or 0.99 up to 64 pixels"
    )


class LatentTask(PatchTask):
    """A task whose encoder gets the visible patches alone, and predicts its teacher's features.

    Views are the crops [B, C, H, W], the visible places [B, K], and the asked ones [B, …].

    Attributes:
        teacher: the moving average of the encoder, which is exported.
        small: whether options that are None take the values for small images.
    """

    passes = 2
    paper_momentum = 0.996

    def __init__(self, encoder: Encoder, options: LatentOptions, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        fit_to_tokens(encoder, spec, self.grid)
        self.small = is_small(spec)
        momentum = options.momentum or (0.99 if self.small else self.paper_momentum)
        self.teacher = Teacher(encoder, start=momentum, kind="linear")

    @torch.no_grad()
    def teacher_places(self, x: Tensor) -> Tensor:
        """Return the teacher's features [B, N, d] of all places of the whole image."""
        return places_of(self.exported_encoder.feature_map(x))

    def after_step(self, progress: float) -> None:
        """Update the teacher by a momentum that grows to 1 linearly."""
        self.teacher.update(progress, self.encoder)

    @property
    def exported_encoder(self) -> Encoder:
        """The teacher."""
        return cast(Encoder, self.teacher[0])

    def hidden_places(self, views: tuple[Tensor, ...]) -> Tensor:
        """Return all places that are not seen [B, N - K]."""
        visible = views[1]
        return places_in(~mask_of(visible, self.grid.shape), self.grid.places - visible.shape[1])

    def asked_places(self, views: tuple[Tensor, ...]) -> Tensor:
        """Return the asked places [B, M]."""
        return views[2].flatten(1)

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the image, the input of the network, and the patches it is asked for."""
        x, asked = views[0], self.asked_places(views)
        patches = take(self.grid.patches(x), asked)
        shown = self.grid.replaced(torch.zeros_like(x), asked, patches)
        return {**super().gallery(views), "asked": shown}
