"""Features of earlier batches: a queue of the latest ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FeatureQueue(nn.Module):
    """A queue of the latest `size` feature vectors, normalised; it starts with random ones.

    Attributes:
        features: [size, width], unit rows.
        place: the row of the oldest vector, which is overwritten next.
    """

    features: Tensor
    place: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("features", F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, features: Tensor) -> None:
        """Replace the oldest rows by `features` [B, width]; of more than `size`, keep the last."""
        size = len(self.features)
        self.place += max(0, len(features) - size)
        features = features[-size:]
        rows = (self.place + torch.arange(len(features), device=features.device)) % size
        self.features[rows] = features.to(self.features.dtype)
        self.place.add_(len(features)).remainder_(size)
