"""DeepCluster v2: images are classified into the clusters of their embeddings of the last epoch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.nn import MemoryBank, by_size, kmeans, sum_over_rows, unit
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder, Field, Losses
from ssl_zoo.views import Rng
from ssl_zoo_vision.clustering.epochs import EpochClusters
from ssl_zoo_vision.clustering.options import ClusteringOptions


class DeepClusterV2(EpochClusters):
    """Images are classified into clusters, found before the first epoch and anew after each."""

    name = "deepcluster-v2"
    family = "clustering"
    paper = "Caron et al. 2020, DeepCluster-v2 (SwAV, appendix), arXiv:2006.09882"
    passes = 2
    recipe = {"train": {"optimizer": "lars", "lr": 0.6, "weight_decay": 1e-6, "warmup": 0.1}}
    any_size = True
    prototypes: Tensor
    classes: Tensor

    class Options(ClusteringOptions):
        """DeepCluster v2's options."""

        heads: int = Field(3, ge=1, description="number of clusterings, each with its own prototypes")
        rounds: int = Field(10, ge=1, description="rounds of k-means")
        local_size: float = Field(0.6, gt=0, le=1, description="sides of a small crop, as a share")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        self.number, samples = options.clusters(spec)
        self.head = options.head(encoder)
        # A row has the embeddings of both large views of an image, each of length 1/√2.
        self.bank = MemoryBank(samples, 2 * options.out, momentum=0)
        shape = options.heads, self.number, options.out
        self.register_buffer("prototypes", F.normalize(torch.randn(shape), dim=2))
        self.register_buffer("classes", torch.randint(self.number, (samples, options.heads)))
        self.register_buffer("images", torch.zeros((), dtype=torch.long))  # of all steps so far
        self.crops = options.multi_crop(spec, encoder, local=4)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return two large views [B, C, H, W], then small ones [B, C, h, w]."""
        return self.crops(batch, rng)

    def embed(self, crops: Sequence[Tensor]) -> Tensor:
        """Return the unit embeddings [V·B, out] of V crops."""
        return unit(self.head(torch.cat(by_size(self.encoder, crops))))

    def remember(self, views: tuple[Tensor, ...]) -> None:
        """Note the embeddings of both large views."""
        *crops, index = views
        self.bank.note(torch.cat(self.embed(crops[:2]).chunk(2), 1), index)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the mean cross entropy over heads, assigned images and all of their crops."""
        *crops, index = views
        z = self.embed(crops)
        self.bank.note(torch.cat(z.chunk(len(crops))[:2], 1), index)
        classes, temperature = self.classes[index], self.options.temperature  # [B, heads]

        def cross_entropy(z: Tensor, classes: Tensor) -> Tensor:  # classes of -100 count as 0
            with torch.autocast(z.device.type, enabled=False):
                logits = z @ self.prototypes.mT / temperature  # [heads, n, K]
                return F.cross_entropy(logits.permute(1, 2, 0), classes, reduction="sum")

        targets, columns = classes.repeat(len(crops), 1), self.prototypes[..., 0].numel()
        count = (classes[:, 0] >= 0).sum()
        total = sum_over_rows(cross_entropy, z, targets, columns=columns)
        return Losses(total / (classes.shape[1] * len(crops) * count.clamp(min=1)), weight=count)

    @torch.no_grad()
    def cluster(self, epoch: int) -> None:
        """Turn clusters of the images seen so far into prototypes and classes; -1: before epoch 0."""
        if self.bank.seen.sum() < self.number:
            return
        self.classes.fill_(-100)  # none, for an image that was never seen
        views = self.bank.features[self.bank.seen].chunk(2, 1)  # [n, out] each
        for h in range(heads := self.options.heads):
            found = kmeans(views[h % 2], self.number, self.options.rounds, seed=epoch * heads + h)
            self.prototypes[h], self.classes[self.bank.seen, h] = found
