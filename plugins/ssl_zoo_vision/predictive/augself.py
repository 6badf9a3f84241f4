"""AugSelf: on top of a joint-embedding task, the difference of two views' changes is predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo import Encoder, Field, ImageSpec, Losses, Rng, Unsuitable
from ssl_zoo.nn import full_precision, mlp
from ssl_zoo.views import Drawn
from ssl_zoo_vision.predictive.applied import COLUMNS, NAMES, as_texts, by_view, compare, describe
from ssl_zoo_vision.predictive.on_top import OnTop, OnTopOptions, pooled


class AugSelf(OnTop):
    """Features are to tell how the views of another task differ, which its own loss lets them forget."""

    name = "augself"
    paper = "Lee et al. 2021, Transferability by Augmentation-Aware Self-Supervision, arXiv:2111.09613"
    family = "predictive"
    passes = 2

    class Options(OnTopOptions):
        """AugSelf's options: the weight of each kind of change, 0 for none of it."""

        crop: float = Field(1.0, ge=0, description="weight of place and size of the crop")
        colour: float = Field(
            1.0, ge=0, description="weight of brightness, contrast, saturation and hue"
        )
        blur: float = Field(0.0, ge=0, description="weight of the blur")
        flip: float = Field(0.0, ge=0, description="weight of whether one view is mirrored")
        hidden: int = Field(512, ge=1, description="hidden width of the heads")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        self.weights = {name: getattr(options, name) for name in COLUMNS if getattr(options, name)}
        self.heads = nn.ModuleDict(
            {
                name: mlp([2 * encoder.width, options.hidden, options.hidden, len(NAMES[COLUMNS[name]])])
                for name in self.weights
            }
        )
        if not self.weights:
            raise Unsuitable(f"task.crop: all weights are 0; set one of {', '.join(COLUMNS)}")
        self.views(spec.example(2), Rng(0))  # refuses a base without two views

    def extra(self, batch: Tensor, drawn: Sequence[Drawn], rng: Rng) -> Tensor:
        """Return the differences of the first view's parameters and the second's, [B, 10]."""
        views = by_view(drawn)
        if len(views) < 2:
            raise Unsuitable(
                f"task.base: {self.options.base!r} makes no two views of an image to compare; choose a "
                "joint-embedding task, such as simclr"
            )
        return compare(*(describe(view, batch) for view in views[:2]))

    def term(self, views: tuple[Tensor, ...], extra: Tensor, outputs: Sequence[Tensor]) -> Losses:
        """Return the errors of all kinds of differences, predicted for both orders of the views."""
        y1, y2 = pooled(self.encoder, views, outputs)  # [B, D]
        pairs = torch.cat([torch.cat([y1, y2], 1), torch.cat([y2, y1], 1)])  # [2B, 2D]
        losses = {}
        for name, answer in self.answers(pairs).items():
            target = extra[:, COLUMNS[name]]
            if name == "flip":
                losses[name] = F.binary_cross_entropy_with_logits(answer, target.repeat(2, 1))
            else:
                losses[name] = F.mse_loss(answer, torch.cat([target, -target]))
        total = torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()
        return Losses(total, {name: loss.detach() for name, loss in losses.items()})

    def answers(self, pairs: Tensor) -> dict[str, Tensor]:
        """Return the answers [n, k] by kind to pairs of features [n, 2D]; of the flip, its logit."""
        answers = {name: full_precision(head(pairs)) for name, head in self.heads.items()}
        return {name: x if name == "flip" else x.tanh() for name, x in answers.items()}

    def gallery(self, views: tuple[Tensor, ...]) -> dict[str, Any]:
        """Return the base's columns, and how view 1 differs from view 2."""
        return {**super().gallery(views), "difference": as_texts(views[-1], self.weights)}

    def reconstructions(self, views: tuple[Tensor, ...]) -> dict[str, Any]:
        """Return the base's columns, and the predicted difference."""
        predicted = torch.zeros_like(views[-1])
        for name, answer in self.answers(torch.cat(pooled(self.encoder, views, ()), 1)).items():
            predicted[:, COLUMNS[name]] = answer.sigmoid() if name == "flip" else answer
        return {**super().reconstructions(views), "predicted": as_texts(predicted, self.weights)}
