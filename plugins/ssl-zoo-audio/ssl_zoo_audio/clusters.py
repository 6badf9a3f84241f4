"""Clusters of the features of places, fitted to what training has seen."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import model_validator
from torch import Tensor

from ssl_zoo import Field, TaskOptions, distributed
from ssl_zoo.nn import DeferredUpdate, kmeans

ROUNDS = 20
"""The number of rounds of k-means."""


class ClusterOptions(TaskOptions):
    """The options of clusters that are fitted to a sample of features."""

    clusters: int = Field(50, ge=2, description="number of clusters; the paper has 100, then 500")
    sample: int = Field(4096, ge=2, description="features that clusters are fitted to")

    @model_validator(mode="after")
    def _enough_features(self) -> ClusterOptions:
        if self.sample < self.clusters:
            raise ValueError(
                f"sample is below the number of clusters, {self.clusters} ({self.sample}); raise it"
            )
        return self


class PlaceClusters(DeferredUpdate):
    """Clusters of features of places, fitted once a sample of these was seen.

    Until then the centroids are random directions, as in BEST-RQ (arXiv:2202.01855). Features are
    standardised by the mean and deviation of the sample, the same for all clips, as in HuBERT. It is
    the same in all processes.

        clusters.note_places(features, valid, 16)  # in loss
        targets = clusters.assign(features)
        clusters.update()                          # in after_step

    Attributes:
        centroids: [K, D].
        mean: the mean of the sample [D].
        deviation: its standard deviation [D].
        sample: the features that were seen [rows, D].
        filled: the number of these; -1 before `begin`.

    Args:
        number: K, the number of clusters.
        width: D, the size of a feature vector.
        rows: the number of features to fit to.
        begun: whether to take features in at once, without `begin`.
    """

    centroids: Tensor
    mean: Tensor
    deviation: Tensor
    sample: Tensor
    filled: Tensor

    def __init__(self, number: int, width: int, rows: int, begun: bool = True) -> None:
        super().__init__()
        self.register_buffer("centroids", torch.randn(number, width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.register_buffer("sample", torch.zeros(rows, width))
        self._filled = 0 if begun else -1  # read without waiting for the device
        self.register_buffer("filled", torch.tensor(self._filled))

    @property
    def begun(self) -> bool:
        """True once features are taken in."""
        return self._filled >= 0

    @property
    def fitted(self) -> bool:
        """True once the clusters are those of the sample."""
        return self._filled == len(self.sample)

    def begin(self) -> None:
        """Begin to take in features."""
        self._set(0)

    def assign(self, x: Tensor) -> Tensor:
        """Return the nearest cluster of each place [B, T] by its features [B, T, D], int64."""
        with torch.autocast(x.device.type, enabled=False):
            standardised = (x.float() - self.mean) / self.deviation
            return torch.cdist(standardised.flatten(0, 1), self.centroids).argmin(1).view(x.shape[:2])

    def note_places(self, x: Tensor, valid: Tensor, number: int = 16) -> None:
        """Keep the features of evenly spread places of each clip for the sample.

        Args:
            x: features of places [B, T, D].
            valid: which places are real, bool [B, T].
            number: how many to keep of each clip, as many in every process.
        """
        if self.begun and not self.fitted:
            share = (torch.arange(number, device=x.device) + 0.5) / number
            place = (share * valid.sum(1, keepdim=True)).long()  # [B, number]
            rows = x.gather(1, place[..., None].expand(-1, -1, x.shape[2]))
            self.note(rows.flatten(0, 1).float())

    @torch.no_grad()
    def update(self) -> None:
        """Take in what was noted in all processes, and fit the clusters when the sample is full."""
        notes = [distributed.all_gather(features) for (features,) in self._notes]
        self.clear()
        first, missing = self._filled, len(self.sample) - self._filled
        if not notes or first < 0 or not missing:
            return
        rows = torch.cat(notes)[:missing]
        self.sample[first : first + len(rows)] = rows
        self._set(first + len(rows))
        if len(rows) == missing:
            self.mean.copy_(self.sample.mean(0))
            self.deviation.copy_(self.sample.std(0).clamp(min=1e-5))
            standardised = (self.sample - self.mean) / self.deviation
            number = len(self.centroids)
            found, _ = kmeans(standardised, number, ROUNDS, spherical=False, relocate=True)
            self.centroids.copy_(found)

    def _set(self, filled: int) -> None:
        self._filled = filled
        self.filled.fill_(filled)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._filled = int(self.filled)
