"""Health: measures of a representation that need no labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.data.order import sample_indices
from ssl_zoo.evaluation import shares
from ssl_zoo.evaluation.protocol import Metric, Protocol, Scores
from ssl_zoo.evaluation.subject import MAX_TRAINED_ON, Subject
from ssl_zoo.nn import unit
from ssl_zoo.notices import Notice
from ssl_zoo.spec import Spec

MAX_PAIRED = 2048
"""The maximum number of samples for alignment and uniformity, whose cost grows with pairs."""
_TRAINED_ON = Notice(
    "health-of-train",
    f"Without a test split, health is measured on at most {MAX_TRAINED_ON:,} of the samples trained on.",
    "data.holdout, or a test folder",
)
_PAIRS = Notice(
    "health-sample",
    f"Alignment and uniformity are measured on at most {MAX_PAIRED:,} samples of the test split.",
    "it cannot be changed",
)
COLLAPSED_SPREAD = 0.01
"""Below this spread, all samples have nearly the same features."""
COLLAPSED_RANK = 1.2
"""Below this RankMe, all feature vectors lie nearly on one line."""


def rankme(features: Tensor) -> float:
    """Return the effective rank of features [N, D] (Garrido et al. 2023, arXiv:2210.02885, eq. 1).

    It is exp of the entropy of the normalised singular values, between 1 and min(N, D). Several
    processes give their shares of the features and get the rank of all.
    """
    x = features.cpu().double()
    _, samples = shares.place(x)
    # The eigenvalues of the smaller Gram matrix are the squares of the singular values.
    if samples > x.shape[1]:
        gram = shares.total(x.T @ x)
    else:
        x = shares.gather(x)  # at most D rows
        gram = x @ x.T
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    share = singular / singular.sum().clamp(min=1e-300) + 1e-7
    return float((-share * share.log()).sum().exp())


def alignment(x: Tensor, y: Tensor) -> float:
    """Return the mean squared distance of two views' unit features [N, D] (arXiv:2005.10242, §4.2)."""
    return float((F.normalize(x, dim=1) - F.normalize(y, dim=1)).pow(2).sum(1).mean())


def uniformity(x: Tensor) -> float:
    """Return the log of the mean of exp(-2 d²) over pairs of unit features [N, D] (arXiv:2005.10242).

    It lies between about -4 (spread evenly over the sphere) and 0 (all in one point).
    """
    d2 = torch.pdist(F.normalize(x, dim=1).cpu()).pow(2)  # not every device has a kernel for pdist
    return float(d2.mul(-2).exp().mean().log())


def deviation(features: Tensor) -> float:
    """Return `ssl_zoo.nn.spread` of features [N, D], of which several processes give their shares."""
    z = unit(features).cpu().double()  # not every device has float64
    _, samples = shares.place(z)
    centred = z - shares.total(z.sum(0)) / samples
    variance = shares.total(centred.square().sum(0)) / (samples - 1)
    return float(variance.sqrt().mean() * z.shape[1] ** 0.5)


def measure(subject: Subject) -> Scores:
    """Return all measures of the test split; for a single sample, only those that need no others."""
    trained_on = len(subject.data.train)
    if subject.data.test is None and trained_on > MAX_TRAINED_ON:
        _TRAINED_ON(f"health is measured on {MAX_TRAINED_ON:,} of {trained_on:,} samples trained on")
    x = subject.test_share
    with subject.together():
        scores = _of_samples(x)
    if subject.encoder is not None and type(subject.data.spec).vary is not Spec.vary:
        scores["alignment"] = alignment(*subject.two_views(MAX_PAIRED))
    return scores


def _of_samples(x: Tensor) -> dict[str, float]:
    """Return the measures that compare features [N, D] with each other, of which x is a share."""
    first, samples = shares.place(x)
    if samples < 2:
        return {}
    if samples > MAX_PAIRED:
        _PAIRS(f"alignment and uniformity are measured on {MAX_PAIRED:,} of {samples:,} samples")
    chosen = sample_indices(samples, MAX_PAIRED) - first
    own = chosen[(chosen >= 0) & (chosen < len(x))].to(x.device)
    few = shares.gather(x[own])
    return {"rankme": rankme(x), "uniformity": uniformity(few), "spread": deviation(x)}


def warning(scores: Scores) -> str | None:
    """Return a warning if the representation has collapsed."""
    flat, thin = scores.get("spread", 1.0), scores.get("rankme", 2.0)
    if flat >= COLLAPSED_SPREAD and thin >= COLLAPSED_RANK:
        return None
    return (
        f"the representation has collapsed: all samples have nearly the same features "
        f"(spread {flat:.3f} of 1, RankMe {thin:.1f})"
    )


HEALTH = Protocol(
    measure,
    {
        "rankme": Metric(
            "RankMe", "effective rank of the test split's features: exp of the entropy of their "
            "normalised singular values, at most their width", None, within_run="higher",
        ),
        "spread": Metric(
            "spread", "deviation of unit features relative to random directions; 0: collapsed", None, 2
        ),
        "alignment": Metric(
            "alignment", "mean squared distance of the unit features of two slightly different views "
            "of a sample, where its modality has any; with uniformity, both low is good", None, 2,
        ),
        "uniformity": Metric(
            "uniformity", "log of the mean of exp(-2 d²) over pairs of unit features", None, 2
        ),
    },
    labels=False,
    warning=warning,
    standard=True,
)  # fmt: skip
