"""The blocks that iBOT and DINOv2 hide: how many patches, and how small a block may be."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.testing import SyntheticImages
from ssl_zoo.views import Rng
from ssl_zoo.views.masks import block_places
from ssl_zoo_vision.distillation.dinov2 import DINOv2
from ssl_zoo_vision.distillation.ibot import IBOT

VIT = BackboneConfig(name="test_vit", options={"patch_size": 4})
SMALL = {"prototypes": 8, "hidden": 8, "out": 8, "jitter_p": 0, "grayscale_p": 0}
ASPECT = (0.3, 1 / 0.3)


def build(cls: type[IBOT], side: int = 14, **options: Any) -> IBOT:
    """Return a task whose feature map has side × side places."""
    images = SyntheticImages(VIT, 4 * side, any_size=True)
    return cls(images.encoder(), cls.Options(**{**SMALL, **options}), images.spec)


def masks_of(task: IBOT, n: int, rank: int = 0, processes: int = 1) -> Tensor:
    """Return the masks [2n, h, w] of a process's n images, after checking the indices beside them."""
    rng = Rng(0, "cpu", rank, processes)
    *_, masks, (hidden,) = task.views(SyntheticImages().batch(n), rng)
    assert torch.equal(hidden, masks.flatten().nonzero()[:, 0])
    return masks


def largest_blocks(masks: Tensor) -> Tensor:
    """Return the area of the largest rectangle in which all is hidden, int64 [n], of masks [n, h, w]."""
    sums = F.pad(masks.long(), (1, 0, 1, 0)).cumsum(1).cumsum(2)
    areas = torch.zeros(len(masks), dtype=torch.long)
    for i, j in itertools.product(range(1, sums.shape[1]), range(1, sums.shape[2])):
        within = sums[:, i:, j:] - sums[:, :-i, j:] - sums[:, i:, :-j] + sums[:, :-i, :-j]
        whole = (within == i * j).flatten(1).any(1)
        areas = torch.where(whole, areas.clamp(min=i * j), areas)
    return areas


def least_area(smallest: int) -> int:
    """Return the least number of places that a block of an area of at least `smallest` can have.

    Both sides are rounded, so that an area of 16 may become 2 × 6 places.
    """
    low, high = map(math.log, ASPECT)
    ratios = [math.exp(low + (high - low) * i / 1000) for i in range(1001)]
    areas = [smallest + i / 10 for i in range(100)]
    return min(round(math.sqrt(area * r)) * round(math.sqrt(area / r)) for area in areas for r in ratios)


@pytest.mark.parametrize("smallest", [4, 9, 16])
def test_a_mask_has_a_block_of_the_smallest_area_and_exactly_the_places_asked_for(smallest: int) -> None:
    hidden = torch.arange(smallest, 2 * smallest + 1).repeat_interleave(20)
    masks = block_places(len(hidden), (14, 14), hidden, Rng(0), smallest)
    assert torch.equal(masks.sum((1, 2)), hidden)
    areas = largest_blocks(masks)
    assert least_area(smallest) <= areas.min() <= smallest


@pytest.mark.parametrize(("aspect", "sides"), [(1.0, (4, 4)), (4.0, (8, 2)), (0.25, (2, 8))])
def test_aspect_is_a_blocks_height_over_its_width(aspect: float, sides: tuple[int, int]) -> None:
    masks = block_places(50, (14, 14), 16, Rng(0), 16, (aspect, aspect))
    assert (masks.any(2).sum(1) == sides[0]).all()
    assert (masks.any(1).sum(1) == sides[1]).all()


@pytest.mark.parametrize("cls", [IBOT, DINOv2])
@pytest.mark.parametrize(("low", "high"), [(0.1, 0.5), (0.3, 0.3), (0.5, 0.1), (0.0, 1.0)])
def test_half_of_the_joint_batchs_crops_hide_exactly_evenly_spread_shares(
    cls: type[IBOT], low: float, high: float
) -> None:
    task = build(cls, 8, mask_low=low, mask_high=high)
    places, images = 8 * 8, 6
    alone = masks_of(task, images)
    parts = [masks_of(task, images // 2, rank, 2) for rank in range(2)]
    shares = [min(low, high) + abs(high - low) * (i + 0.5) / images for i in range(images)]
    expected = [0] * images + [round(places * share) for share in shares]
    assert sorted(alone.sum((1, 2)).tolist()) == expected
    # From image by image in the joint batch to crop by crop in each process's.
    crops = [half for part in parts for half in part.chunk(2)]
    assert torch.equal(torch.cat([crops[0], crops[2], crops[1], crops[3]]), alone)


@pytest.mark.parametrize(
    ("cls", "side", "smallest"),
    [
        (IBOT, 14, 16),  # a third of the side, squared, as in BEiT: 16 of 196
        (IBOT, 12, 16),
        (IBOT, 8, 4),
        (IBOT, 4, 1),
        (DINOv2, 14, 4),
        (DINOv2, 8, 4),
        (DINOv2, 4, 4),
    ],
)
def test_the_smallest_block_is_a_ninth_of_the_map_in_ibot_and_four_patches_in_dinov2(
    cls: type[IBOT], side: int, smallest: int
) -> None:
    share = 1.5 * smallest / side**2
    masks = masks_of(build(cls, side, mask_low=share, mask_high=share), 120)
    areas = largest_blocks(masks[masks.any(2).any(1)])
    assert least_area(smallest) <= areas.min() <= smallest
