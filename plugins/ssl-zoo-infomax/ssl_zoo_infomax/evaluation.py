"""The mutual information of the features of two views of an image."""

from __future__ import annotations

import statistics

import torch

from ssl_zoo.evaluation import Metric, Protocol, Scores, Subject
from ssl_zoo.evaluation.linear import Axes
from ssl_zoo_infomax.mine import estimate

MAX_SAMPLES = 4096
"""The maximum number of samples used."""
MIN_SAMPLES = 50
"""The minimum number of samples; with fewer, a critic learns nothing measurable."""
COMPONENTS = 4
"""The number of principal components, few enough for MINE's estimate to be reliable."""
SPLITS = 3
"""The number of random splits into training and measuring samples that are averaged."""


def measure(subject: Subject) -> Scores:
    """Return MINE's estimate; no score for too few samples."""
    x, y = subject.two_views(MAX_SAMPLES)
    # Two identical views share infinite information, unless they are constant.
    if len(x) < MIN_SAMPLES or (torch.equal(x, y) and not torch.equal(x, x[:1].expand_as(x))):
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
            f"components: a critic trained for this, measured on held-out samples, the mean over "
            f"{SPLITS} random splits",
            None,
            2,
        )
    },
    labels=False,
)
