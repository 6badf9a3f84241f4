"""Samples from few parts that are read whole, such as row groups, with many of the classes."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_zoo.data.order import sample_indices
from ssl_zoo.notices import Notice

MIN_PARTS = 16
"""The minimum number of parts that a sample is taken from, if there are as many."""
MAX_PARTS = 1024
"""The maximum number of parts to which some are added for their classes."""
COVERED = 0.95
"""The share of the classes of a random sample that suffices."""
_FEW_CLASSES = Notice(
    "few-classes",
    "Of streamed data evaluation during training, and measurements, read samples of few row groups. In "
    f"data sorted by class {MAX_PARTS:,} of them may have fewer classes than a random sample.",
    "write the data set anew, shuffled",
)


def sample_of_parts(counts: Tensor, limit: int, labels: Tensor | None = None) -> Tensor:
    """Return the rising indices of at most `limit` samples of few parts, always the same ones, int64.

    Parts are drawn at random: as many as have `limit` samples, and at least `MIN_PARTS`. Where these
    have fewer classes than a random sample of the split, as in data sorted by class, parts with other
    classes are added; a notice says if `MAX_PARTS` are too few. The samples are drawn at random from
    those of the parts.

    Args:
        counts: the number of samples in each part, int64 [P].
        limit: the maximum number of samples.
        labels: the class of each sample, int64 [N]; None where classes are unknown.
    """
    filled = counts.nonzero().flatten()
    drawn = filled[torch.randperm(len(filled), generator=torch.Generator().manual_seed(0))]
    enough = int(torch.searchsorted(counts[drawn].cumsum(0), limit)) + 1
    number, begins = max(enough, MIN_PARTS), counts.cumsum(0) - counts
    chosen = drawn[:number].tolist()
    if labels is not None and number < len(drawn):
        parts = labels.split(counts.tolist())
        chosen = _cover_classes(parts, chosen, drawn[number:].tolist(), limit, labels)
    ranges = [torch.arange(int(begins[i]), int(begins[i] + counts[i])) for i in sorted(chosen)]
    indices = torch.cat([torch.arange(0), *ranges])
    return indices[sample_indices(len(indices), limit)]


def _cover_classes(
    parts: tuple[Tensor, ...], chosen: list[int], others: list[int], limit: int, labels: Tensor
) -> list[int]:
    """Return the chosen parts, and others with further classes if a sample would lack many.

    Args:
        parts: the class of each sample of each part.
        chosen: the parts that are chosen already.
        others: further parts, in random order.
        limit: the number of samples that will be drawn from all chosen parts.
        labels: the class of each sample of the split, int64 [N].
    """
    chosen, left = [*chosen], iter(others)
    total = torch.bincount(labels)
    wanted = COVERED * _expected_classes(total, limit)
    found = torch.bincount(torch.cat([parts[i] for i in chosen]), minlength=len(total))
    while _expected_classes(found, limit) < wanted:
        part = next((i for i in left if bool((found[parts[i]] == 0).any())), None)
        if part is None:  # all classes are there
            break
        if len(chosen) >= MAX_PARTS:
            known, of_all = (int((number > 0).sum()) for number in (found, total))
            _FEW_CLASSES(
                f"a sample of {limit:,} from {len(chosen):,} row groups has {known:,} of {of_all:,} "
                "classes, as these lie together; accuracies during training are of those classes alone"
            )
            break
        found += torch.bincount(parts[part], minlength=len(total))
        chosen.append(part)
    return chosen


def _expected_classes(counts: Tensor, number: int) -> float:
    """Return how many classes a random sample has on average, of a class each `counts` [C] samples."""
    share = min(1.0, number / int(counts.sum()))
    return float((1 - (1 - share) ** counts.double()).sum())
