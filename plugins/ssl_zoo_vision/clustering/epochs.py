"""The base of DeepCluster and its second version: all images are clustered after each epoch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

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
    _counted: int | None = None
    """The value of `images`, for which the device would have to be waited for; None: not known yet."""

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
        before = int(self.images) if self._counted is None else self._counted  # waits once in a run
        self._counted = before + self.bank.noted * distributed.world_size()
        self.images.fill_(self._counted)
        self.bank.update()
        epoch = before // self.spec.samples
        if self._counted // self.spec.samples > epoch:
            self.cluster(epoch)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self._counted = None
        super()._load_from_state_dict(*arguments)
