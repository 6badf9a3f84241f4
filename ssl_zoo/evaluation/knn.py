"""The weighted nearest-neighbour classifier."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo import distributed
from ssl_zoo.evaluation import shares
from ssl_zoo.evaluation.accuracy import accuracies, accuracy, balanced_metric
from ssl_zoo.evaluation.correctness import Correctness
from ssl_zoo.evaluation.features import Features
from ssl_zoo.evaluation.protocol import Metric, Protocol, Scores
from ssl_zoo.evaluation.subject import Subject
from ssl_zoo.notices import Notice

MAX_SIMILARITIES = 2**26
"""The maximum number of similarities in memory (256 MiB in float32); limits the queries per chunk."""

_FEW_NEIGHBOURS = Notice(
    "few-neighbours",
    "With fewer than 20 labelled samples, kNN uses all of them as neighbours.",
    "more labelled samples",
)


def knn_accuracy(features: Features, k: int = 20, temperature: float = 0.07) -> float:
    """Return the accuracy of `knn_predictions` on the test split, in percent."""
    predicted = shares.gather(knn_predictions(features, k, temperature))
    return accuracy(predicted, shares.gather(features.test_labels))


@torch.no_grad()
def knn_predictions(features: Features, k: int = 20, temperature: float = 0.07) -> Tensor:
    """Return the class of each sample of the test split, int64 [m], by weighted kNN.

    Each of the k nearest samples of the bank votes for its class with exp(similarity / temperature)
    (Wu et al. 2018, arXiv:1805.01978, section 3.4). Of samples that are equally near, those of lower
    index are taken.

    Several processes send each other their queries, block by block. Each finds the k nearest of its
    share of the bank, and the nearest of all are among these. So no process holds more of the bank than
    its share, nor more than one block of the queries of the others.

    Args:
        features: this process's shares of the bank and of the test split; all of them in a single one.
        k: the number of neighbours; at most the bank's size is used.
        temperature: τ > 0.
    """
    bank = F.normalize(features.bank, dim=1)
    _, samples = shares.place(bank)
    if k > samples:
        _FEW_NEIGHBOURS(f"kNN: {samples} neighbours instead of {k}, all that there are")
    # A query has a similarity to each sample of the bank and a vote for each class.
    widest = max(distributed.exchange(max(len(bank), features.classes)))
    chunk = max(1, MAX_SIMILARITIES // widest // distributed.world_size())
    blocks = max(distributed.exchange(-(-len(features.test) // chunk)))
    predicted = []
    for block in range(blocks):
        own = F.normalize(features.test[block * chunk :][:chunk], dim=1)
        first, _ = shares.place(own)
        queries = shares.gather(own)
        similarity, index = nearest(queries @ bank.T, k)
        labels = features.bank_labels[index]
        # The candidates [Q, K] of all shares follow each other, so equal ones are in order of index.
        similarity, labels = (shares.gather(x.T.contiguous()).T for x in (similarity, labels))
        similarity, labels = (x[first : first + len(own)] for x in (similarity, labels))
        similarity, order = similarity.sort(dim=1, descending=True, stable=True)
        similarity, labels = similarity[:, :k], labels.gather(1, order)[:, :k]
        votes = torch.zeros(len(own), features.classes, device=bank.device)
        # Shifted by the largest similarity, to keep exp in range.
        weight = ((similarity - similarity[:, :1]) / temperature).exp()
        predicted.append(votes.scatter_add_(1, labels, weight).argmax(1))
    return torch.cat(predicted)


def nearest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest similarities of each query, and their indices, [Q, K] with K = min(k, N).

    They fall; equal ones are in order of index, and of those that tie for the last places the lowest
    indices are taken, where `topk` takes any.

    Args:
        similarity: of Q queries to N samples, [Q, N].
        k: ≥ 1.
    """
    k = min(k, similarity.shape[1])
    values, index = similarity.topk(min(k + 1, similarity.shape[1]))
    last, index = values[:, k - 1 : k], index[:, :k]
    tied = (values[:, k:] == last).any(1)  # more than k may stand in the last places
    if tied.any():
        rows, last = similarity[tied], last[tied]
        larger, equal = rows > last, rows == last
        places = k - larger.sum(1, keepdim=True)
        chosen = larger | (equal & (equal.cumsum(1, dtype=torch.int32) <= places))
        index[tied] = chosen.nonzero()[:, 1].view(-1, k)
    index = index.sort(1).values
    values, order = similarity.gather(1, index).sort(dim=1, descending=True, stable=True)
    return values, index.gather(1, order)


def measure(subject: Subject) -> Scores:
    """Return the accuracies of `knn_predictions` on the test split, in percent."""
    return accuracies("knn", subject.once(_predicted), subject.test_labels)


def correctness(subject: Subject) -> dict[str, Correctness]:
    """Return which samples of the test split kNN classifies correctly."""
    return {"knn": Correctness.of(subject.once(_predicted), subject.test_labels)}


def _predicted(subject: Subject) -> Tensor:
    share = subject.share
    with subject.together():
        return shares.gather(knn_predictions(share))


KNN = Protocol(
    measure,
    {
        "knn": Metric(
            "kNN %", "cosine similarity, 20 neighbours in the train split, votes weighted with "
            "temperature 0.07; accuracy on the test split",
        ),
        **balanced_metric("knn", "kNN"),
    },
    correctness=correctness,
    standard=True,
)  # fmt: skip
