"""PixPro: places of two views that show the same spot of the image agree; no negatives."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssl_zoo.nn import Teacher, at_places, mlp, output_shape, product, unit
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo.views import Rng, cells
from ssl_zoo_vision.augmentation import AsymmetricViewOptions
from ssl_zoo_vision.joint_embedding import JointEmbedding


def positive_pairs(boxes_1: Tensor, boxes_2: Tensor, grid: tuple[int, int], threshold: float) -> Tensor:
    """Return which places of two views are one spot (equation 1), bool [B, N, N].

    Their distance in the image is below `threshold` times the larger of the two cells' diagonals.
    """
    (centres_1, diagonal_1), (centres_2, diagonal_2) = cells(boxes_1, grid), cells(boxes_2, grid)
    offset = centres_1.unsqueeze(2) - centres_2.unsqueeze(1)  # [B, N, N, 2]
    distance = torch.hypot(offset[..., 0], offset[..., 1])
    return distance < threshold * torch.maximum(diagonal_1, diagonal_2).view(-1, 1, 1)


def pixpro_loss(y: Tensor, target: Tensor, positive: Tensor) -> Tensor:
    """Return -2 times the mean cosine of an image's positive pairs [B, N, N] (equation 5), in [-2, 2].

    Features `y` and `target` [B, N, D] are unit at each place. An image without a pair counts as 0.
    """
    cosine = product(y, target.mT) * positive
    return -2 * (cosine.sum((1, 2)) / (positive.sum((1, 2)) + 1e-6)).mean()


class PixPro(JointEmbedding):
    """Places of two views that show the same spot agree, after propagation between similar places."""

    name = "pixpro"
    family = "contrastive"
    paper = "Xie et al. 2021, Propagate Yourself, arXiv:2011.10043"
    passes = 4
    # The last stages keep the second one's resolution, as small images leave a map of one place.
    recipe = {
        "train": {"optimizer": "lars", "lr": 1.0, "weight_decay": 1e-5, "warmup": 0.05},
        "backbone": {"options": {"output_stride": 8}},
    }

    class Options(AsymmetricViewOptions):
        """PixPro's options."""

        moves: Literal[False] = Field(False, description="crops alone tell which places are the same")
        threshold: float = Field(0.7, gt=0, description="distance of a positive pair, in diagonals")
        gamma: float = Field(2.0, gt=0, description="exponent γ of similarities in propagation")
        momentum: float = Field(0.99, ge=0, le=1, description="initial momentum of the target")
        hidden: int = Field(4096, ge=1, description="hidden width of the projector")
        out: int = Field(256, ge=2, description="width of the projection")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        _, width, *grid = output_shape(encoder, encoder.feature_map, spec)
        self.grid = grid[0], grid[1]
        self.projector = mlp([width, options.hidden, options.out])
        self.transform = nn.Linear(options.out, options.out)  # g of equation 3
        self.target = Teacher(encoder, self.projector, start=options.momentum)
        self.pair = options.pair(spec, placed=True)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return two views [B, C, H, W] and their boxes [B, 4] in pixels of the image."""
        views, boxes = self.pair.placed(batch, rng)
        return *views, *(box * box.new_tensor([batch.shape[3], batch.shape[2]] * 2) for box in boxes)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the loss of each view's propagated places and the other's targets, in [-4, 4]."""
        *images, boxes_1, boxes_2 = views
        y1, y2 = (self.propagate(self.embed(self.encoder, self.projector, x)) for x in images)
        teacher, projector = self.target
        with torch.no_grad():
            t1, t2 = (unit(self.embed(teacher, projector, x)) for x in images)
        positive = positive_pairs(boxes_1, boxes_2, self.grid, self.options.threshold)
        loss = pixpro_loss(y1, t2, positive) + pixpro_loss(y2, t1, positive.transpose(1, 2))
        return Losses(loss, {"positives": positive.float().sum((1, 2)).mean()})

    @staticmethod
    def embed(encoder: Any, projector: nn.Module, x: Tensor) -> Tensor:
        """Return the projected places [B, N, out] of images [B, C, H, W]."""
        return at_places(projector, encoder.feature_map(x))

    def propagate(self, x: Tensor) -> Tensor:
        """Return places [B, N, out] with what similar ones propagate to them (equations 2 and 3)."""
        value, u = (unit(y) for y in (self.transform(x), x))
        similarity = product(u, u.mT).clamp(min=0) ** self.options.gamma  # [B, N, N]
        return unit(product(similarity, value))

    def place_map(self, x: Tensor) -> Tensor:
        """Return the projected places of images as a map [B, out, h, w]."""
        return self.embed(self.encoder, self.projector, x).mT.reshape(len(x), -1, *self.grid)

    def after_step(self, progress: float) -> None:
        """Update the target by a momentum that grows to 1 on a cosine."""
        self.target.update(progress, self.encoder, self.projector)
