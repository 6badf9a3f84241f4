"""NPID: each image is a class of its own, whose weight is its embedding in a memory bank."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.nn import FirstMean, MemoryBank, contrastive_loss, full_precision, mlp, unit
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo.views import Rng
from ssl_zoo_vision.augmentation import ViewOptions, is_small
from ssl_zoo_vision.joint_embedding import JointEmbedding


def nce(scores: Tensor, mean: Tensor) -> Tensor:
    """Return noise-contrastive estimation with uniform noise (equations 6 and 7), in [0, ∞).

    -log h_0 - Σ_j log(1 - h_j), where h = P / (P + K/N) and P = e^s / Z.

    Args:
        scores: s = z·m / τ of each image's own row and of K drawn ones [B, 1 + K].
        mean: Z / N, the mean of e^s, a scalar.
    """
    logits = scores - mean.log() - math.log(scores.shape[1] - 1)  # h = sigmoid(logits)
    return (F.softplus(-logits[:, 0]) + F.softplus(logits[:, 1:]).sum(1)).mean()


class NPID(JointEmbedding):
    """Each image is told from all others by its embedding from earlier epochs."""

    name = "npid"
    family = "contrastive"
    paper = "Wu et al. 2018, Non-Parametric Instance Discrimination, arXiv:1805.01978"
    passes = 1
    recipe = {
        "train": {"optimizer": "momentum", "lr": 0.03, "weight_decay": 1e-4, "warmup": 0.0}
        | {"schedule": "step", "milestones": [0.6, 0.8]}
    }
    needs = ("index",)

    class Options(ViewOptions):
        """NPID's options."""

        temperature: float | None = Field(
            None, gt=0, description="temperature τ; none: 0.07, or 0.1 up to 64 pixels"
        )
        negatives: int | None = Field(
            None,
            ge=0,
            description="images drawn as noise for each image; 0: a softmax over all images; none: "
            "4096, or 0 up to 64 pixels",
        )
        momentum: float = Field(0.5, ge=0, le=1, description="share of its row that an image keeps")
        out: int = Field(128, ge=2, description="width of the embedding")
        crop_scale: tuple[float, float] = Field((0.2, 1.0), description="share of the image's area")
        jitter: tuple[float, float, float, float] = Field(
            (0.4, 0.4, 0.4, 0.4), description="brightness, contrast, saturation, hue"
        )
        jitter_p: float = Field(1.0, ge=0, le=1, description="probability of colour jitter")
        blur_p: float | None = Field(0.0, ge=0, le=1, description="probability of blur")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        assert spec.samples is not None  # as the task needs the index
        small = is_small(spec)
        self.temperature = options.temperature or (0.1 if small else 0.07)
        self.negatives = (0 if small else 4096) if options.negatives is None else options.negatives
        self.head = mlp([encoder.width, options.out])
        self.bank = MemoryBank(spec.samples, options.out, options.momentum)
        self.mean_score = FirstMean()
        self.augment = options.view(spec)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return a view [B, C, H, W] of each image, and numbers [B, K] of the images drawn as noise."""
        x = self.augment(batch, rng)
        if not self.negatives:
            return (x,)
        samples = len(self.bank.features)
        return x, (rng.uniform(len(x), self.negatives) * samples).long().clamp_(max=samples - 1)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the cross entropy among all images (equation 2), or its estimate (equation 7)."""
        x, *drawn, index = views
        z = unit(self.head(self.encoder(x)))  # [B, out]
        self.bank.note(z, index)
        if not drawn:
            return Losses(contrastive_loss(z, self.bank.features, index, self.temperature))
        rows = self.bank.rows(torch.cat([index.unsqueeze(1), *drawn], 1))  # [B, 1 + K, out]
        scores = full_precision((rows * z.unsqueeze(1)).sum(2)) / self.temperature
        return Losses(nce(scores, self.mean_score.of(scores.exp())))

    def after_step(self, progress: float) -> None:
        """Move the batch's rows of the bank towards their embeddings; keep the first normaliser."""
        self.bank.update()
        self.mean_score.update()
