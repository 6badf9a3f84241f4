"""Prototypes, the assignment of samples to them, and the cross entropy of assignments."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo import distributed
from ssl_zoo.nn.deferred import DeferredUpdate
from ssl_zoo.nn.parts import full_precision, sum_over_rows, unit


class Prototypes(nn.Module):
    """A layer of K unit vectors: it returns the cosine of an embedding with each, in float32.

    It is the last layer of SwAV (arXiv:2006.09882), MSN (arXiv:2204.07141) and, as a weight-normalised
    linear layer, of DINO's head (arXiv:2104.14294), which fixes the gain at 1. Rows are normalised as
    they are used, with gradient, so the length of `weight` does not matter.

        self.head = mlp([encoder.width, 2048, 128])
        self.prototypes = Prototypes(128, 3000)
        scores = self.prototypes(self.head(features), trained=self.progress >= 0.01)  # [B, 3000]

    Fixed prototypes are ``Prototypes(128, 3000).requires_grad_(False)``, with the centroids of k-means
    copied into `weight`.

    Attributes:
        weight: [K, width], of which only the directions count.
        gain: the factors of the scores [K]; None for 1.

    Args:
        width: the width of the embeddings.
        number: K.
        gain: whether to learn a factor for each prototype, as DINO does without ``norm_last_layer``.
    """

    def __init__(self, width: int, number: int, gain: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(number, width), dim=1))
        self.gain = nn.Parameter(torch.ones(number)) if gain else None

    def forward(self, z: Tensor, trained: bool = True) -> Tensor:
        """Return the scores [..., K] of embeddings [..., width] of any length.

        Args:
            z: the embeddings.
            trained: whether the prototypes get a gradient; without one they stay as they are, as in
                the first epoch of SwAV and DINO, and are not decayed either.
        """
        with torch.autocast(z.device.type, enabled=False):
            weight = full_precision(self.weight)
            gain = None if self.gain is None else full_precision(self.gain)
            if not trained:
                weight, gain = weight.detach(), None if gain is None else gain.detach()
            scores = unit(z) @ F.normalize(weight, dim=1).T
            return scores if gain is None else scores * gain


@torch.no_grad()
def sinkhorn(logits: Tensor, rounds: int = 3) -> Tensor:
    """Assign samples to prototypes so that all prototypes get about equally many (Sinkhorn-Knopp).

    Q = exp(logits); each round divides columns by their sum over the samples of all processes, then rows
    by theirs. It ends on rows, so each sample's shares sum to 1 exactly and each prototype's to about
    B / K. On logarithms, so nothing overflows. Source: SwAV, arXiv:2006.09882, section 3.1 and
    appendix A.

        q = sinkhorn(prototypes(z) / 0.05)  # [B, K]

    With features of a queue, give those of this process, and take the last rows:

        old = distributed.local_rows(queue.features)
        q = sinkhorn(prototypes(torch.cat([old, z])) / 0.05)[-len(z):]

    Args:
        logits: [B, K] of this process, scores over a temperature; B may differ between processes. The
            logarithm of probabilities balances these, as in MSN. With [B, N, K] each of N positions is
            balanced by itself, as in CAPI (arXiv:2502.08769).
        rounds: the number of rounds, at least 1.

    Returns:
        The shares, of the same shape, without gradient, in float32 for half precision.
    """
    q = full_precision(logits)
    for _ in range(rounds):
        columns = q.logsumexp(0, keepdim=True)  # [1, …, K]
        q = q - distributed.all_gather(columns).logsumexp(0, keepdim=True)
        q = q - q.logsumexp(-1, keepdim=True)
    return q.exp()


class Centre(DeferredUpdate):
    """The moving average of a teacher's outputs, subtracted from them against collapse (DINO).

    c ← m · c + (1 - m) · mean of the outputs that all processes noted in a step, after they were used.
    Source: arXiv:2104.14294, equation 4.

        target = F.softmax(self.centre(g) / 0.04, dim=-1)  # in loss; g [B, K]
        self.centre.note(g)                                # in loss
        self.centre.update()                               # in after_step

    Attributes:
        centre: c [width], 0 at first.

    Args:
        width: the width K of the outputs.
        momentum: m.
    """

    centre: Tensor

    def __init__(self, width: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("centre", torch.zeros(width))

    def forward(self, outputs: Tensor) -> Tensor:
        """Return outputs [..., width] without the centre, in float32 for half precision."""
        return full_precision(outputs) - self.centre

    def note(self, *outputs: Tensor) -> None:
        """Note outputs [..., width] of this process; all rows of a step count alike."""
        for rows in outputs:
            rows = full_precision(rows).flatten(0, -2)
            super().note(rows.sum(0), rows.new_tensor(len(rows)))

    @torch.no_grad()
    def update(self) -> None:
        """Move the centre towards the mean of what was noted; stay if no process noted a row."""
        if self._notes:
            total, count = (torch.stack(x).sum(0) for x in zip(*self._notes, strict=True))
            total, count = distributed.sum(total), distributed.sum(count)
            mean = torch.where(count > 0, total / count.clamp(min=1), self.centre)
            self.centre.lerp_(mean.to(self.centre.dtype), 1 - self.momentum)
        self.clear()


def soft_cross_entropy(
    targets: Tensor,
    predictions: Tensor,
    temperature: float = 1.0,
    scores: Callable[[Tensor], Tensor] | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the cross entropy with soft targets, H(q, p) = -Σ_k q_k log p_k.

    p = softmax(scores / τ), τ the temperature. It is computed in parts where there are many scores.

        loss = soft_cross_entropy(q, z, temperature=0.1, scores=self.prototypes)

    Args:
        targets: q [B, K], without gradient; rows may sum to other numbers than 1.
        predictions: the scores [B, K], or what `scores` makes them from, [B, ...].
        temperature: τ > 0.
        scores: the last layer, such as `Prototypes`, which maps rows of `predictions` to scores
            [rows, K]; only a part of all scores is then ever in memory. None if they are given.
        weights: the weight of each row [B], such as 1 over the number of hidden patches of its image.

    Returns:
        The mean over rows, 0 for none; with `weights` the weighted sum.
    """
    if weights is None:
        weights = targets.new_full((len(targets),), 1 / max(1, len(targets)))

    def loss(targets: Tensor, predictions: Tensor, weights: Tensor) -> Tensor:
        logits = predictions if scores is None else scores(predictions)
        with torch.autocast(logits.device.type, enabled=False):
            log_p = F.log_softmax(full_precision(logits) / temperature, dim=1)
            return -(weights * (full_precision(targets) * log_p).sum(1)).sum()

    return sum_over_rows(loss, targets, predictions, weights, columns=targets.shape[1])


def across(
    targets: Sequence[Tensor],
    predictions: Sequence[Tensor],
    temperature: float = 1.0,
    scores: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return the mean of H(targets[i], predictions[j]) over all pairs of different crops i ≠ j.

    Source: SwAV, arXiv:2006.09882, equation 6, and DINO, arXiv:2104.14294, equation 3.

        targets = [sinkhorn(g / 0.05) for g in large]                # of the 2 large crops
        loss = across(targets, student, 0.1, scores=self.prototypes)  # the large crops come first

    Args:
        targets: soft targets [B, K] of the first crops, without gradient.
        predictions: for all crops, in the same order, as for `soft_cross_entropy`.
        temperature: τ > 0 of the predictions.
        scores: as for `soft_cross_entropy`.

    Raises:
        ValueError: there is no pair, as with one crop alone.
    """
    losses, pairs = [], 0
    for j, prediction in enumerate(predictions):
        others = [q for i, q in enumerate(targets) if i != j]
        if others:
            # H is linear in the targets, so the scores of a crop are computed once.
            joint = torch.stack(others).sum(0) if len(others) > 1 else others[0]
            losses.append(soft_cross_entropy(joint, prediction, temperature, scores))
            pairs += len(others)
    if not losses:
        raise ValueError(f"{len(targets)} targets and {len(predictions)} predictions make no pair")
    return torch.stack(losses).sum() / pairs
