"""W-MSE: embeddings of views are alike after whitening, which leaves no way to collapse."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo import distributed
from ssl_zoo.nn import mlp, whiten
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo.views import Rng
from ssl_zoo_vision.augmentation import Crops, ViewOptions
from ssl_zoo_vision.joint_embedding import JointEmbedding


def w_mse_loss(z: Sequence[Tensor], permutation: Tensor, size: int, eps: float = 0.0) -> Tensor:
    """Return the mean of 2 - 2·cos over pairs of views, whitened (Ermolov et al. 2020, equation 5).

    Each view is whitened by itself, in random slices of the joint batch that are the same for all views;
    the gradient goes through it, on both sides.

    Args:
        z: embeddings [B, D] of each view, in the same order; B is the same in all processes.
        permutation: the order of the joint batch before it is cut, int64 [N].
        size: the number of rows of a slice; slices are larger where it does not divide N.
        eps: ε of `whiten`, the share of the identity in the covariance.

    Returns:
        The loss in [0, 4], the same in all processes; about 2 for independent views.
    """
    joint = [distributed.all_gather(view)[permutation] for view in z]  # [N, D]
    number = max(1, len(permutation) // size)
    whitened = [torch.cat([whiten(s, eps) for s in view.tensor_split(number)]) for view in joint]
    distances = [2 - 2 * F.cosine_similarity(a, b, dim=1).mean() for a, b in combinations(whitened, 2)]
    return torch.stack(distances).mean()


class WMSE(JointEmbedding):
    """Views of an image are alike after each view is whitened."""

    name = "w-mse"
    family = "redundancy"
    prerequisites = "batches of 128 or more"
    paper = "Ermolov et al. 2020, Whitening for Self-Supervised Representation, arXiv:2007.06346"
    passes = 2
    recipe = {"train": {"optimizer": "adam", "lr": 2e-3, "weight_decay": 1e-6, "warmup": 0.1}}

    class Options(ViewOptions):
        """W-MSE's options; the views are those for CIFAR.

        For ImageNet, set jitter=[0.8, 0.8, 0.8, 0.2], grayscale_p=0.2, crop_scale=[0.08, 1].
        """

        slice: int = Field(128, ge=2, description="rows that are whitened together; best 2·out or more")
        # The authors' 0 ends a run where a direction of the embedding shrinks until Cholesky fails.
        eps: float = Field(1e-4, ge=0, le=1, description="share ε of the identity in the covariance")
        number: int = Field(2, ge=2, description="number of views; the paper has 2 and 4")
        hidden: int = Field(1024, ge=1, description="hidden width of the head")
        out: int = Field(64, ge=2, description="width D of the embedding")
        crop_scale: tuple[float, float] = Field((0.2, 1.0), description="share of the image's area")
        grayscale_p: float = Field(0.1, ge=0, le=1, description="probability of conversion to gray")
        blur_p: float | None = Field(0.0, ge=0, le=1, description="probability of blur")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        self.head = mlp([encoder.width, options.hidden, options.out])
        self.crops = options.crops(spec, Crops(options.number))

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return views [B, C, H, W] of one distribution, and a permutation [N] of the joint batch."""
        return *self.crops(batch, rng), rng.permutation(len(batch) * distributed.world_size())

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the mean squared distance of whitened pairs, in [0, 4]."""
        *crops, permutation = views
        z = self.head(self.encoder(torch.cat(crops))).chunk(len(crops))  # [B, out] each
        return Losses(w_mse_loss(z, permutation, self.options.slice, self.options.eps))
