"""Classes of colour: soft targets over bins of the ab plane, and the weights of rare colours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo import distributed
from ssl_zoo.nn import DeferredUpdate
from ssl_zoo.views.lab import ab_bins

GRAY = 5.0
"""An image is gray, and has no colours to learn, if all its |a| and |b| are below this."""


def has_colours(ab: Tensor) -> Tensor:
    """Return 1 for images with colours and 0 for gray ones, float [B], of their a and b [B, 2, H, W]."""
    return (ab.abs().flatten(1).amax(1) >= GRAY).float()


class ColourBins(DeferredUpdate):
    """The bins of the ab plane, and how frequent each is in the data so far.

    p ← m · p + (1 - m) · the mean of the soft targets that all processes noted in a step. The paper
    measures p before training, on all images.

    Attributes:
        centres: (a, b) of each bin, [Q, 2].
        frequency: p [Q], uniform at first.

    Args:
        momentum: m.
    """

    centres: Tensor
    frequency: Tensor

    def __init__(self, momentum: float = 0.99) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("centres", ab_bins().clone())
        self.register_buffer("frequency", torch.full((len(self),), 1 / len(self)))

    def __len__(self) -> int:
        return len(self.centres)

    def encode(self, ab: Tensor, neighbours: int = 10, deviation: float = 5.0) -> tuple[Tensor, Tensor]:
        """Return the nearest bins of colours, and Gaussian weights of their distance that sum to 1.

        Source: Zhang et al. 2016, section 2.1, with the 10 neighbours of the authors' code.

        Args:
            ab: colours [n, 2].
            neighbours: k, the number of bins.
            deviation: σ of the Gaussian, in units of Lab.

        Returns:
            The bins, the nearest first, int64 [n, k], and their weights [n, k].
        """
        distance, bins = torch.cdist(ab, self.centres.to(ab)).topk(neighbours, largest=False)
        return bins, torch.softmax(-distance.square() / (2 * deviation**2), 1)

    def weights(self, uniform: float) -> Tensor:
        """Return the weight w of each bin [Q], such that Σ p w = 1 (section 2.2, equation 4).

        w ∝ 1 / ((1 - λ) p + λ / Q), so that rare colours count.

        Args:
            uniform: λ, the share of the uniform distribution.
        """
        p = self.frequency
        w = 1 / ((1 - uniform) * p + uniform / len(self))
        return w / (p * w).sum()

    def cross_entropy(self, logits: Tensor, ab: Tensor, counts: Tensor, uniform: float) -> Tensor:
        """Return the cross entropy of colours, weighted by rarity, and note the colours.

        Args:
            logits: [B, Q, h, w] in float32.
            ab: the true colours [B, 2, h, w].
            counts: whether an image counts, 1 or 0, [B].
            uniform: λ of `weights`.

        Returns:
            The mean over all places of the images that count; 0 without any.
        """
        b, _, height, width = ab.shape
        bins, target = self.encode(ab.permute(0, 2, 3, 1).flatten(0, 2))  # [B·h·w, k]
        counts = counts.repeat_interleave(height * width, output_size=b * height * width)
        counted = (target * counts.unsqueeze(1)).flatten()
        self.note(target.new_zeros(len(self)).scatter_add_(0, bins.flatten(), counted))
        log_p = F.log_softmax(logits, 1).permute(0, 2, 3, 1).flatten(0, 2)  # [B·h·w, Q]
        entropy = -(target * log_p.gather(1, bins)).sum(1)
        # A place has the weight of its nearest bin, as in the authors' code.
        weighted = counts * self.weights(uniform)[bins[:, 0]] * entropy
        return weighted.sum() / distributed.nonzero(counts.sum())

    @torch.no_grad()
    def update(self) -> None:
        """Move the frequencies towards those of what was noted; stay if all of it counts 0."""
        if self._notes:
            total = distributed.sum(torch.stack([total for (total,) in self._notes]).sum(0))
            number = total.sum()
            now = torch.where(number > 0, total / distributed.nonzero(number), self.frequency)
            self.frequency.lerp_(now, 1 - self.momentum)
        self.clear()

    def mean(self, logits: Tensor, temperature: float = 0.38) -> Tensor:
        """Return the annealed mean of predicted colours [B, 2, h, w] (section 2.3, equation 5).

        Args:
            logits: [B, Q, h, w].
            temperature: T; 1 is the mean, which is dull, and towards 0 the mode.
        """
        p = torch.softmax(logits / temperature, 1)
        return torch.einsum("bqhw,qc->bchw", p, self.centres.to(p))
