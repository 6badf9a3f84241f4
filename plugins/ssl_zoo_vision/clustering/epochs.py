"""The base of DeepCluster and its second version: all images are clustered after each epoch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

from torch import Tensor

from ssl_zoo import distributed
from ssl_zoo.nn import MemoryBank
from ssl_zoo_vision.joint_embedding import JointEmbedding


class EpochClusters(JointEmbedding):
    """A task that clusters what it has computed of all images, before the first epoch and after each.

    Attributes:
        bank: what it has computed of each image when it last saw it; `loss` notes it.
        images: the number of images of all steps so far, an int64 buffer.
    """

    needs = ("index",)
    bank: MemoryBank
    images: Tensor

    @abstractmethod
    def remember(self, views: tuple[Tensor, ...]) -> None:
        """Note in the bank what `loss` would, of views and the index of their images."""

    @abstractmethod
    def cluster(self, epoch: int) -> None:
        """Cluster the images in the bank after an epoch; -1: before epoch 0."""

    def before_training(self, batches: Iterator[tuple[Tensor, ...]]) -> None:
        """Compute and cluster all images as the network is at first, as the authors' code does."""
        for views in batches:
            self.remember(views)
            self.bank.update()
        self.cluster(-1)

    def after_step(self, progress: float) -> None:
        """Write the bank, and cluster it anew once as many images were seen as there are."""
        images, epoch = self.bank.noted * distributed.world_size(), self.images // self.spec.samples
        self.bank.update()
        if self.images.add_(images) // self.spec.samples > epoch:
            self.cluster(int(epoch))
