"""The weighted nearest-neighbour classifier."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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
    return accuracy(knn_predictions(features, k, temperature), features.test_labels)


@torch.no_grad()
def knn_predictions(features: Features, k: int = 20, temperature: float = 0.07) -> Tensor:
    """Return the class of each sample of the test split, int64 [M], by weighted kNN.

    Each of the k nearest samples of the bank votes for its class with exp(similarity / temperature)
    (Wu et al. 2018, arXiv:1805.01978, section 3.4).

    Args:
        features: the bank and the test split.
        k: the number of neighbours; at most the bank's size is used.
        temperature: τ > 0.
    """
    if k > len(features.bank):
        _FEW_NEIGHBOURS(f"kNN: {len(features.bank)} neighbours instead of {k}, all that there are")
    bank = F.normalize(features.bank, dim=1)
    # A query has a similarity to each sample of the bank and a vote for each class.
    chunk = max(1, MAX_SIMILARITIES // max(len(bank), features.classes))
    predicted = []
    for queries in features.test.split(chunk):
        similarity = F.normalize(queries, dim=1) @ bank.T
        nearest, index = similarity.topk(min(k, len(bank)), dim=1)
        votes = torch.zeros(len(queries), features.classes, device=bank.device)
        # Shifted by the largest similarity, to keep exp in range.
        weight = ((nearest - nearest[:, :1]) / temperature).exp()
        votes.scatter_add_(1, features.bank_labels[index], weight)
        predicted.append(votes.argmax(1))
    return torch.cat(predicted)


def measure(subject: Subject) -> Scores:
    """Return the accuracies of `knn_predictions` on the test split, in percent."""
    return accuracies("knn", subject.once(_predicted), subject.features.test_labels)


def correctness(subject: Subject) -> dict[str, Correctness]:
    """Return which samples of the test split kNN classifies correctly."""
    return {"knn": Correctness.of(subject.once(_predicted), subject.features.test_labels)}


def _predicted(subject: Subject) -> Tensor:
    return knn_predictions(subject.features)


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
