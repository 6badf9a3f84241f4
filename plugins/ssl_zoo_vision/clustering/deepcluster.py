"""DeepCluster: images are classified into the clusters of their features of the last epoch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo import CropOptions, Encoder, Field, ImageSpec, Losses, Rng
from ssl_zoo.nn import MemoryBank, full_precision, kmeans, principal_components, unit
from ssl_zoo_vision.clustering.epochs import EpochClusters
from ssl_zoo_vision.clustering.options import PrototypeOptions


class DeepCluster(EpochClusters):
    """Images are classified into clusters, by a new classifier after each epoch.

    Unlike in the authors' code, features are those that training has computed of random crops in the
    last epoch, without a second pass. As a task does not choose which images are drawn, the loss weighs
    them so that clusters count alike. The momentum of the old classifier is left to the new one.
    There is no Sobel filter before the network, which would be exported without it.
    """

    name = "deepcluster"
    family = "clustering"
    paper = "Caron et al. 2018, Deep Clustering for Unsupervised Learning, arXiv:1807.05520"
    passes = 1
    recipe = {
        "train": {"optimizer": "momentum", "lr": 0.05, "weight_decay": 1e-5}
        | {"schedule": "constant", "warmup": 0.0}
    }
    classes: Tensor
    weights: Tensor

    class Options(PrototypeOptions, CropOptions):
        """DeepCluster's options."""

        prototypes: int | None = Field(
            None, ge=2, description="number K of clusters; none: 10000, or 512 up to 64 pixels"
        )
        components: int = Field(256, ge=1, description="principal components that are clustered")
        rounds: int = Field(20, ge=1, description="rounds of k-means")

    def __init__(self, encoder: Encoder, options: Options, spec: ImageSpec) -> None:
        super().__init__(encoder, options, spec)
        self.number, samples = options.clusters(spec, large=10_000)
        self.classifier = nn.Linear(encoder.width, self.number)
        self.bank = MemoryBank(samples, encoder.width, momentum=0, normalise=False)
        self.register_buffer("classes", torch.randint(self.number, (samples,)))
        self.register_buffer("weights", torch.ones(self.number))  # of the images of each cluster
        self.register_buffer("images", torch.zeros((), dtype=torch.long))  # of all steps so far
        self.augment = options.view(spec)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        """Return a crop [B, C, H, W] of each image."""
        return (self.augment(batch, rng),)

    def remember(self, views: tuple[Tensor, ...]) -> None:
        """Note the features of the crops."""
        x, index = views
        self.bank.note(self.encoder(x), index)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        """Return the cross entropy of clusters, which all have the same weight however large."""
        x, index = views
        y, classes = self.encoder(x), self.classes[index]  # [B, D], [B]
        self.bank.note(y, index)
        logits = full_precision(self.classifier(y))  # [B, K]
        total = F.cross_entropy(logits, classes, self.weights, reduction="sum")  # classes of -100: 0
        count = (classes >= 0).sum()
        hits = (logits.detach().argmax(1) == classes).sum()
        return Losses(total / count.clamp(min=1), {"accuracy": hits / count.clamp(min=1)}, count)

    @torch.no_grad()
    def cluster(self, epoch: int) -> None:
        """Find the clusters of the images seen so far, and begin with a new classifier (section 3)."""
        if (seen := self.bank.seen).sum() < self.number:
            return
        x = self.bank.features[seen]  # [n, D]
        z = unit(principal_components(x, min(self.options.components, *x.shape)))
        _, found = kmeans(z, self.number, self.options.rounds, epoch, spherical=False, relocate=True)
        self.classes.fill_(-100)  # none, for an image that was never seen
        self.classes[seen] = found
        sizes = found.bincount(minlength=self.number)
        # As often as images of one cluster would be drawn, if all clusters were drawn alike.
        self.weights.copy_(len(found) / (sizes.clamp(min=1) * (sizes > 0).sum()))
        # The numbers of clusters mean nothing from epoch to epoch.
        generator = torch.Generator().manual_seed(epoch)
        self.classifier.weight.copy_(
            0.01 * torch.randn(self.classifier.weight.shape, generator=generator)
        )
        self.classifier.bias.zero_()

    @property
    def chance_loss(self) -> float:
        """The log of the number of clusters."""
        return math.log(self.number)
