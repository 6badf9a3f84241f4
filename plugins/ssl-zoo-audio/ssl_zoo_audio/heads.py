"""Scores by which tasks compare places."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo.nn import product, unit


class CodePredictor(nn.Module):
    """The logits of clusters, cos(A o_t, e_c) / τ with learnt embeddings e_c (HuBERT, equation 3).

    Args:
        width: the size of an output o_t.
        clusters: the number of clusters.
        out: the size of an embedding.
        temperature: τ.
    """

    def __init__(self, width: int, clusters: int, out: int, temperature: float = 0.1) -> None:
        super().__init__()
        self.project = nn.Linear(width, out)
        self.codes = nn.Parameter(torch.randn(clusters, out))
        self.temperature = temperature

    def forward(self, output: Tensor) -> Tensor:
        """Return the logits [M, clusters] of outputs [M, d]."""
        return product(unit(self.project(output)), unit(self.codes).mT) / self.temperature

    @torch.no_grad()
    def restart(self, seed: int) -> None:
        """Draw the embeddings and the projection anew, for other clusters; the same in every process."""
        generator = torch.Generator().manual_seed(seed)
        for weight, scale in ((self.codes, 1.0), (self.project.weight, self.project.in_features**-0.5)):
            weight.copy_(scale * torch.randn(weight.shape, generator=generator))
        self.project.bias.zero_()


def contrastive_scores(c: Tensor, q: Tensor, codes: Tensor, others: Tensor) -> Tensor:
    """Return cosines of each place's output with its own target, then those of others, [B, T, 1 + K].

    Others with the same code as the target are no negatives: their score is -∞, as in fairseq.

    Args:
        c: projected outputs [B, T, D].
        q: quantised features [B, T, D].
        codes: their codes, int64 [B, T].
        others: the places of the K others, int64 [B, T, K].
    """
    cosine = product(unit(c), unit(q).mT)  # [B, T, T]
    negative = cosine.gather(2, others)
    theirs = codes[:, None].expand(-1, codes.shape[1], -1).gather(2, others)
    negative = negative.masked_fill(theirs == codes[..., None], -torch.inf)
    return torch.cat([cosine.diagonal(dim1=1, dim2=2)[..., None], negative], 2)


def future_scores(
    prediction: Tensor, z: Tensor, negatives: Tensor, excluded: Tensor, step: int
) -> Tensor:
    """Return the scores of z[t + step], then of K negatives, from c[t], [B, T - step, 1 + K].

    They are products divided by √D, which W_k could make up for.

    Args:
        prediction: W_k c, [B, T, D].
        z: local features [B, T, D].
        negatives: local features to tell each place from, [B, T, K, D]; with 1 for B or T those of all
            clips or places.
        excluded: which negatives of a place do not count, bool [B, T, K]; their score is -∞.
        step: k, at least 1 and at most T, which leaves no row.
    """
    with torch.autocast(z.device.type, enabled=False):
        prediction = prediction[:, :-step] / z.shape[2] ** 0.5
        positive = (prediction * z[:, step:]).sum(2, keepdim=True)
        at_place = negatives if negatives.shape[1] == 1 else negatives[:, step:]
        negative = torch.einsum("btd,btkd->btk", prediction, at_place)
        negative = negative.masked_fill(excluded[:, step:], -torch.inf)
    return torch.cat([positive, negative], 2)


def first_wins(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return cross entropy and accuracy of the first of several scores, means over rows.

    A row is right if the first score is above all others. Without rows both are 0.

    Args:
        logits: scores [M, 1 + K]; -∞ for one that does not count.
    """
    count = max(1, len(logits))
    loss = -F.log_softmax(logits, dim=1)[:, 0].sum() / count
    return loss, (logits[:, :1] > logits[:, 1:]).all(1).sum() / count
