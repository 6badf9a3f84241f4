"""How much the features of two views of an image know of each other."""

from __future__ import annotations

import statistics

import torch

from ssl_zoo.evaluation import Metric, Protocol, Scores, Subject
from ssl_zoo.evaluation.linear import Axes
from ssl_zoo_infomax.mine import estimate

MOST = 4096
"""So many samples at most are looked at."""
FEWEST = 50
"""With fewer a critic learns nothing that could be measured."""
COMPONENTS = 4
"""So many principal components keep the information where MINE can be trusted."""
SPLITS = 3
"""So many random splits into what trains a critic and what measures are averaged."""


def measure(subject: Subject) -> Scores:
    """MINE's estimate; nothing of few samples."""
    x, y = subject.two_views(MOST)
    # Without any noise between them two views share infinitely much, unless they are constant.
    if len(x) < FEWEST or (torch.equal(x, y) and not torch.equal(x, x[:1].expand_as(x))):
        return {}
    axes = Axes.of(torch.cat([x, y]))
    x, y = (axes(z)[:, -COMPONENTS:] for z in (x, y))  # [M, COMPONENTS], the largest
    seeds = range(subject.seed, subject.seed + SPLITS)
    return {"mine": statistics.mean(estimate(x, y, seed=seed) for seed in seeds)}


VIEW_INFORMATION = Protocol(
    measure,
    {
        "mine": Metric(
            "MI of views (nats)",
            f"MINE's lower bound of the mutual information between the features of two slightly "
            f"different views of an image of the test split, in their first {COMPONENTS} principal "
            f"components: a critic of its own, on samples that it has not learnt from, the mean over "
            f"{SPLITS} random splits",
            None,
            2,
        )
    },
    labels=False,
)
