"""SimCLR: two views of an image attract, all other images of the batch repel."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo import distributed
from ssl_zoo.nn import full_precision, mlp, sum_over_rows
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses, Task
from ssl_zoo.views import Rng
from ssl_zoo_vision.augmentation import SMALL, ViewOptions


def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """Return the normalised temperature-scaled cross entropy (Chen et al. 2020, equation 1).

    Each of the 2N embeddings is an anchor, and the other view of its image is the positive. The
    denominator has the positive and the 2(N - 1) embeddings of other images, but not the anchor.

    Args:
        z1: embeddings of the first views [B, D], unit rows.
        z2: embeddings of the second views [B, D], unit rows, in the same order.
        temperature: τ > 0.

    Returns:
        The mean over this process's 2B anchors, against the embeddings of all N = world_size · B
        images; log(2N - 1) if all embeddings coincide.
    """
    z1, z2 = full_precision(z1), full_precision(z2)
    anchors = torch.cat([z1, z2])  # [2B, D]
    candidates = torch.cat([distributed.all_gather(z1), distributed.all_gather(z2)])  # [2N, D]
    b, n = len(z1), len(candidates) // 2
    first = distributed.rank() * b + torch.arange(b, device=z1.device)
    self_column = torch.cat([first, first + n])
    positive_column = torch.cat([first + n, first])

    def cross_entropy(anchors: Tensor, itself: Tensor, positive: Tensor) -> Tensor:
        with torch.autocast(anchors.device.type, enabled=False):
            logits = anchors @ candidates.T / temperature  # [rows, 2N]
        logits = logits.scatter(1, itself.unsqueeze(1), -torch.inf)
        return F.cross_entropy(logits, positive, reduction="sum")

    rows = (anchors, self_column, positive_column)
    return sum_over_rows(cross_entropy, *rows, columns=2 * n) / (2 * b)


class SimCLR(Task):
    """Two augmented views of an image attract each other, all others in the batch repel."""

    name = "simclr"
    paper = "Chen et al. 2020, A Simple Framework for Contrastive Learning, arXiv:2002.05709"
    family = "contrastive"
    recipe = {"train": {"optimizer": "lars", "lr": 0.3, "weight_decay": 1e-6, "warmup": 0.1}}

    class Options(ViewOptions):
        """SimCLR's options."""

        temperature: float | None = Field(
            None, gt=0, description="temperature τ; none: 0.1, or 0.5 up to 64 pixels"
        )
        hidden: int | None = Field(
            None, ge=1, description="hidden width of the head; none: the width of the features"
        )
        out: int = Field(128, ge=2, description="width of the embedding")
        jitter: tuple[float, float, float, float] = Field(
            (0.8, 0.8, 0.8, 0.2), description="brightness, contrast, saturation, hue"
        )

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        self.head = mlp([encoder.width, options.hidden or encoder.width, options.out])
        self.temperature = options.temperature or (0.5 if spec.size <= SMALL else 0.1)
        self.view = options.view(spec)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return two views [B, C, H, W] of images [B, C, h, w], from one distribution."""
        return self.view(batch, rng), self.view(batch, rng)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return NT-Xent of both views' embeddings, computed as one batch."""
        z = self.head(self.encoder(torch.cat(views)))  # [2B, out]
        z1, z2 = F.normalize(full_precision(z), dim=1).chunk(2)
        loss = nt_xent(z1, z2, self.temperature)
        candidates = 2 * len(z1) * distributed.world_size() - 1
        return Losses(loss, {"mi_bound": math.log(candidates) - loss.detach()})
