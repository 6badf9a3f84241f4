"""The weighted nearest-neighbour classifier."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ssl_zoo.evaluation.features import Features
from ssl_zoo.evaluation.protocol import Metric, Protocol

MAX_SIMILARITIES = 2**26
"""The maximum number of similarities in memory (256 MiB in float32); limits the queries per chunk."""


@torch.no_grad()
def knn_accuracy(features: Features, k: int = 20, temperature: float = 0.07) -> float:
    """Return the accuracy of weighted kNN on cosine similarity, in percent.

    Each of the k nearest samples of the bank votes for its class with exp(similarity / temperature)
    (Wu et al. 2018, arXiv:1805.01978, section 3.4).

    Args:
        features: the bank and the test split.
        k: the number of neighbours; at most the bank's size is used.
        temperature: τ > 0.
    """
    bank = F.normalize(features.bank, dim=1)
    # A query has a similarity to each sample of the bank and a vote for each class.
    chunk = max(1, MAX_SIMILARITIES // max(len(bank), features.classes))
    correct = 0
    for queries, labels in zip(
        features.test.split(chunk), features.test_labels.split(chunk), strict=True
    ):
        similarity = F.normalize(queries, dim=1) @ bank.T
        nearest, index = similarity.topk(min(k, len(bank)), dim=1)
        votes = torch.zeros(len(queries), features.classes, device=bank.device)
        # Shifted by the largest similarity, to keep exp in range.
        weight = ((nearest - nearest[:, :1]) / temperature).exp()
        votes.scatter_add_(1, features.bank_labels[index], weight)
        correct += int((votes.argmax(1) == labels).sum())
    return 100 * correct / len(features.test)


KNN = Protocol(
    lambda subject: {"knn": knn_accuracy(subject.features)},
    {
        "knn": Metric(
            "kNN %", "cosine similarity, 20 neighbours in the train split, votes weighted with "
            "temperature 0.07; accuracy on the test split",
        )
    },
)  # fmt: skip
