"""Rotation prediction: by how many quarter turns was an image rotated?"""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import field_validator
from torch import Tensor, nn

from ssl_zoo import CropOptions, Encoder, Field, ImageSpec, Losses, Rng, Task, Unsuitable, UserError
from ssl_zoo.nn import output_shape
from ssl_zoo.sizes import format_size
from ssl_zoo.views.functional import rotate90
from ssl_zoo.views.named import named_in
from ssl_zoo_vision.predictive.recipe import SGD


class Rotation(Task):
    """Each image is rotated by 0°, 90°, 180° and 270°, and the rotation is predicted."""

    name = "rotation"
    paper = "Gidaris et al. 2018, Predicting Image Rotations, arXiv:1803.07728"
    family = "predictive"
    passes = 4
    recipe = {
        "train": {**SGD, "schedule": "step", "milestones": [0.3, 0.6, 0.8], "decay": 0.2, "warmup": 0.0}
    }

    class Options(CropOptions):
        """Rotation's options."""

        crop_scale: tuple[float, float] = Field((0.5, 1.0), description="share of the image's area")
        stage: int | None = Field(
            None,
            description="stage whose pooled output is evaluated, from the end if negative "
            "(middle ones transfer better, table 1); none: the backbone's features",
        )

        @field_validator("views")
        @classmethod
        def _keep_upright(cls, views: Any) -> Any:
            hiding = named_in(views) & {"random_quarter_turn", "random_vertical_flip"}
            if hiding:
                raise ValueError(f"{min(hiding)} hides the rotation to predict; leave it out")
            return views

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        if spec.height != spec.width:
            raise Unsuitable(
                "data.image_size: turned by 90°, an image of "
                f"{format_size(spec.size)} pixels has another shape; give one side, such as "
                f"--image-size {min(spec.height, spec.width)}"
            )
        if (stage := options.stage) is not None:
            # Refuse a stage that does not exist now rather than in evaluation.
            try:
                output_shape(encoder, lambda x: encoder.stages(x, [stage])[0], spec)
            except UserError as error:
                raise UserError(f"task.stage: {error}") from error
        self.head = nn.Linear(encoder.width, 4)
        self.augment = options.view(spec)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return four batches [B, C, H, W]: crops of the images in each rotation."""
        x = self.augment(batch, rng)
        return tuple(rotate90(x, quarters) for quarters in range(4))

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the cross entropy of the rotation."""
        logits = self.head(self.encoder(torch.cat(views)))  # [4B, 4]
        turns = torch.arange(4, device=logits.device).repeat_interleave(len(views[0]))
        return Losses.of_classes(logits, turns)

    @property
    def chance_loss(self) -> float:
        """Log 4."""
        return math.log(4)

    def features(self, x: Tensor) -> Tensor:
        """Return the pooled features [B, D] of the chosen stage."""
        if self.options.stage is None:
            return super().features(x)
        _, (feature_map,) = self.exported_encoder.stages(x, [self.options.stage])
        return feature_map.flatten(2).mean(2)

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return a column for each rotation."""
        return {f"{90 * quarters}°": x for quarters, x in enumerate(views)}

    def reconstructions(self, views: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the image at 90°, turned back by the rotation that the network predicts."""
        turned = views[1]
        quarters = self.head(self.encoder(turned)).argmax(1)
        back = torch.stack([rotate90(turned, -q) for q in range(4)])  # [4, B, C, H, W]
        return {"90°, turned back": back[quarters, torch.arange(len(turned))]}
