"""Contrastive losses: one InfoNCE of anchors, candidates, positives and exclusions, and its uses.

Embeddings are unit rows. Losses are computed in float32 with autocast off, and in parts where the matrix
of scores is large. With several processes they are means over a process's own anchors, against the
candidates of all processes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo import distributed
from ssl_zoo.nn.parts import full_precision, sum_over_rows


def contrastive_loss(
    anchors: Tensor,
    candidates: Tensor,
    positive: Tensor,
    temperature: float,
    *,
    labels: Tensor | None = None,
    excluded: Tensor | None = None,
    own: Tensor | None = None,
    decoupled: bool = False,
) -> Tensor:
    """Return InfoNCE, the cross entropy of each anchor's positives among its candidates.

    For an anchor i with positives P(i) among its candidates A(i), and s_ij = a_i·c_j / τ:
    -(1/|P(i)|) Σ_{p ∈ P(i)} (s_ip - log Σ_{j ∈ D(i)} e^{s_ij}), where D(i) = A(i), or A(i) without P(i)
    if `decoupled`. Sources: arXiv:1807.03748 (InfoNCE), arXiv:2004.11362, equation 2 (several
    positives), arXiv:2110.06848, equation 6 (decoupled).

    Instance discrimination, with a bank of all samples as candidates:

        loss = contrastive_loss(z, bank.features, index, temperature=0.1)

    Args:
        anchors: [A, D].
        candidates: [C, D], candidates of every anchor; nothing is gathered.
        positive: the column of each anchor's only positive, int64 [A]; with `labels`, its label.
        temperature: τ > 0.
        labels: the labels of the candidates, int64 [C]: all of an anchor's label are positives.
        excluded: columns that are no candidates of an anchor, int64 [A, E], such as itself.
        own: a candidate of each anchor alone [A, D], as column 0; the columns of the others go up by 1.
            It cannot be combined with `labels`.
        decoupled: whether positives are left out of the denominator.

    Returns:
        The mean over the A anchors; one without positives counts as 0.
    """
    candidates = candidates.to(full_precision(anchors).dtype)
    empty = positive.new_empty(len(anchors), 0)
    excluded = empty if excluded is None else excluded
    keys = empty if own is None else full_precision(own)

    def loss(anchors: Tensor, positive: Tensor, excluded: Tensor, keys: Tensor) -> Tensor:
        with torch.autocast(anchors.device.type, enabled=False):
            scores = anchors @ candidates.T  # [rows, C]
            if own is not None:
                scores = torch.cat([(anchors * keys).sum(1, keepdim=True), scores], 1)
            logits = scores / temperature
            if excluded.shape[1]:
                logits = logits.scatter(1, excluded, -torch.inf)
            if labels is not None:
                return _of_labels(logits, positive.unsqueeze(1) == labels, decoupled)
            if not decoupled:
                return F.cross_entropy(logits, positive, reduction="sum")
            column = positive.unsqueeze(1)
            others = logits.scatter(1, column, -torch.inf).logsumexp(1)
            return (others - logits.gather(1, column).squeeze(1)).sum()

    rows = (full_precision(anchors), positive, excluded, keys)
    columns = len(candidates) + (own is not None)
    return sum_over_rows(loss, *rows, columns=columns) / max(1, len(anchors))


def _of_labels(logits: Tensor, same: Tensor, decoupled: bool) -> Tensor:
    """Return the sum over anchors of the mean loss of their positives, which have the same label."""
    positive = same & (logits > -torch.inf)  # without what is excluded
    counted = logits.masked_fill(positive, -torch.inf) if decoupled else logits
    log_p = logits - counted.logsumexp(1, keepdim=True)
    count = positive.sum(1)
    per_anchor = -log_p.masked_fill(~positive, 0).sum(1) / count.clamp(min=1)
    return per_anchor.sum()


def info_nce(q: Tensor, k: Tensor, queue: Tensor | None, temperature: float) -> Tensor:
    """Return InfoNCE of queries and their keys, with a queue or the other keys as negatives.

    -log e^{q·k/τ} / (e^{q·k/τ} + Σ_n e^{q·n/τ}), the sum over negatives n. Sources: MoCo,
    arXiv:1911.05722, equation 1 (a queue), and MoCo v3, arXiv:2104.02057 (the joint batch).

        loss = info_nce(q, k, self.queue.features, 0.2)

    Args:
        q: queries [B, D], unit rows.
        k: their keys [B, D], unit rows, of which a gradient is taken if they have one.
        queue: negatives [K, D], unit rows, the same for all queries; None for the keys of the other
            images of the joint batch, which are gathered.
        temperature: τ > 0.

    Returns:
        The mean over the B queries of the cross entropy of the key among 1 + K candidates, or among the
        keys of the joint batch.
    """
    if queue is not None:
        first = torch.zeros(len(q), dtype=torch.long, device=q.device)
        return contrastive_loss(q, queue, first, temperature, own=k)
    return contrastive_loss(q, distributed.all_gather(full_precision(k)), _numbers(q), temperature)


def nt_xent(z1: Tensor, z2: Tensor, temperature: float, decoupled: bool = False) -> Tensor:
    """Return the normalised temperature-scaled cross entropy (Chen et al. 2020, equation 1).

    Each of the 2N embeddings is an anchor, and the other view of its image is the positive. The
    denominator has the positive and the 2(N - 1) embeddings of other images, but not the anchor.

        z1, z2 = F.normalize(head(encoder(torch.cat(views))), dim=1).chunk(2)
        loss = nt_xent(z1, z2, temperature=0.5)

    Args:
        z1: embeddings of the first views [B, D], unit rows.
        z2: embeddings of the second views [B, D], unit rows, in the same order.
        temperature: τ > 0.
        decoupled: whether the positive is left out of the denominator (DCL, arXiv:2110.06848); a joint
            batch of one image then has no negatives, and an infinite loss.

    Returns:
        The mean over this process's 2B anchors, against the embeddings of all N = world_size · B
        images; if all embeddings coincide, log(2N - 1), or log(2N - 2) if decoupled.
    """
    z1, z2 = full_precision(z1), full_precision(z2)
    candidates = torch.cat([distributed.all_gather(z1), distributed.all_gather(z2)])  # [2N, D]
    first, n = _numbers(z1), len(candidates) // 2
    return contrastive_loss(
        torch.cat([z1, z2]),
        candidates,
        torch.cat([first + n, first]),
        temperature,
        excluded=torch.cat([first, first + n]).unsqueeze(1),
        decoupled=decoupled,
    )


def sup_con(views: Sequence[Tensor], labels: Tensor, temperature: float) -> Tensor:
    """Return the supervised contrastive loss L_out (Khosla et al. 2020, arXiv:2004.11362, equation 2).

    The positives of an anchor are all other embeddings of its class, of any view. With all labels
    different it is NT-Xent. The authors' code multiplies it by τ / 0.07.

        loss = sup_con([z1, z2], labels, temperature=0.1)

    Args:
        views: embeddings [B, D] of each view, unit rows, all in the same order.
        labels: the classes of the images, int64 [B].
        temperature: τ > 0.

    Returns:
        The mean over this process's anchors; one without positives counts as 0.
    """
    z = [full_precision(x) for x in views]
    candidates = torch.cat([distributed.all_gather(x) for x in z])
    n = len(candidates) // len(z)
    itself = torch.cat([_numbers(x) + i * n for i, x in enumerate(z)])
    return contrastive_loss(
        torch.cat(z),
        candidates,
        labels.repeat(len(z)),
        temperature,
        labels=distributed.all_gather(labels).repeat(len(z)),
        excluded=itself.unsqueeze(1),
    )


def _numbers(z: Tensor) -> Tensor:
    """Return the numbers of this process's rows in the joint batch, int64 [B]."""
    return distributed.rank() * len(z) + torch.arange(len(z), device=z.device)
