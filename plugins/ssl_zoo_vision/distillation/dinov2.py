"""DINOv2: iBOT with balanced targets, and a regulariser that spreads the features."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor

from ssl_zoo.nn import Centre, koleo, sinkhorn
from ssl_zoo.task import Field, Losses
from ssl_zoo_vision.distillation.ibot import IBOT
from ssl_zoo_vision.transformers import ADAMW, VIT


class DINOv2(IBOT):
    """iBOT with Sinkhorn-Knopp for the teacher, and KoLeo for the student's class tokens."""

    name = "dinov2"
    family = "distillation"
    prerequisites = "a ViT"
    paper = "Oquab et al. 2023, DINOv2: Learning Robust Visual Features, arXiv:2304.07193"
    passes = 4
    recipe = {
        "train": {**ADAMW, "lr": 2e-3, "lr_scaling": "sqrt", "layer_decay": 0.9},
        "backbone": VIT,
    }
    paper_outputs, paper_momentum, paper_local, paper_large = 65536, 0.992, 8, (0.32, 1.0)

    class Options(IBOT.Options):
        """DINOv2's options."""

        centring: Literal["sinkhorn", "centre"] = Field(
            "sinkhorn", description="sinkhorn: balanced targets; centre: as in DINO and iBOT"
        )
        koleo_weight: float = Field(0.1, ge=0, description="weight of KoLeo, for each large crop")
        train_gain: bool = Field(True, description="train the last layer's gain, not fix it at 1")
        local_scale: tuple[float, float] = Field((0.05, 0.32), description="area of a small crop")

    @property
    def min_block(self) -> int:
        """The area of the smallest hidden block, in patches, at any size of the map."""
        return 4

    def compared(self, x: Tensor) -> Tensor:
        """Return the output [B, out] of the head; balanced targets have no centre."""
        return cast(Tensor, self.head(self.encoder(x)))

    def targets(self, scores: Tensor, centre: Centre) -> Tensor:
        """Return the targets [N, K] of the teacher's scores [N, K], balanced over prototypes."""
        if self.options.centring == "centre":
            return super().targets(scores, centre)
        return sinkhorn(scores / self.teacher_temperature)

    def matched(self, targets: Tensor, features: list[Tensor]) -> Losses:
        """Return DINO's loss and KoLeo of the large crops' features [B, D], before the head."""
        losses = super().matched(targets, features)
        spread = torch.stack([koleo(x) for x in features[:2]]).sum()
        total = losses.total + self.options.koleo_weight * spread
        return Losses(total, {**losses.logs, "koleo": spread.detach()})

    def patch_targets(self, patches: Tensor, hidden: Tensor) -> Tensor:
        """Return targets [P, K] of the hidden among the teacher's patches, centred by these alone."""
        scores = self.teacher[2](self.teacher[1](patches[hidden]))
        self.patch_centre.note(scores)
        return self.targets(scores, self.patch_centre)

    def lr_scale(self, parameter: str) -> float:
        """Return the factor on the rate of a parameter: 0.2 for the patch embedding (table 16)."""
        return 0.2 if parameter.startswith("encoder.model.patch_embed.") else 1.0
