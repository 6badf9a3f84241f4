"""Samplers of hidden places: exact counts, even coverage, one joint batch over processes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ssl_zoo.views import Rng
from ssl_zoo.views.masks import (
    Grid,
    Rectangles,
    block_places,
    coarse_places,
    context_and_targets,
    inverse_block_places,
    mask_of,
    places_in,
    random_places,
    some_places,
    unit_places,
)

Sampler = Callable[[int, Grid, int, Rng], Tensor]


def anywhere(n: int, grid: Grid, hidden: int, rng: Rng) -> Tensor:
    return mask_of(random_places(n, math.prod(grid), hidden, rng)[1], grid)


def small_blocks(n: int, grid: Grid, hidden: int, rng: Rng) -> Tensor:
    return block_places(n, grid, hidden, rng, smallest=5)


EXACT: dict[str, Sampler] = {
    "random": anywhere,
    "units": coarse_places,
    "blocks": small_blocks,
    "inverse block": inverse_block_places,
}
by_sampler = pytest.mark.parametrize("sampler", EXACT.values(), ids=EXACT)


@by_sampler
@pytest.mark.parametrize("grid", [(8, 8), (14, 14), (4, 6), (1, 9)], ids=str)
def test_each_image_hides_exactly_what_was_asked_for(sampler: Sampler, grid: Grid) -> None:
    places = math.prod(grid)
    for hidden in {0, 1, round(0.4 * places), round(0.75 * places), places - 1, places}:
        mask = sampler(200, grid, hidden, Rng(0))
        assert mask.shape == (200, *grid)
        assert mask.dtype == torch.bool
        assert (mask.sum((1, 2)) == hidden).all()
    with pytest.raises(ValueError, match=f"{places + 1} of {places} places"):
        sampler(2, grid, places + 1, Rng(0))


def test_each_image_may_hide_a_number_of_places_of_its_own() -> None:
    hidden = torch.tensor([0, 1, 30, 64] * 50)
    mask = block_places(200, (8, 8), hidden, Rng(0), smallest=4)
    assert mask.sum((1, 2)).equal(hidden)
    assert mask[2::4].equal(block_places(200, (8, 8), 30, Rng(0), smallest=4)[2::4])


def within_chance(mask: Tensor, share: float) -> bool:
    """Return whether each place is true in this share of masks [n, h, w], within five deviations."""
    bound = 5 * math.sqrt(share * (1 - share) / len(mask))
    return bool(((mask.float().mean(0) - share).abs() < bound).all())


@pytest.mark.parametrize("sampler", [anywhere, coarse_places, inverse_block_places])
def test_every_place_is_hidden_equally_often(sampler: Sampler) -> None:
    assert within_chance(sampler(10_000, (6, 8), 20, Rng(1)), 20 / 48)


def test_blocks_and_rectangles_reach_the_last_row_and_column_as_often_as_the_first() -> None:
    rectangles = Rectangles((8, 8), (0.15, 0.2), (0.75, 1.5))
    for mask in (small_blocks(10_000, (8, 8), 25, Rng(2)), rectangles(10_000, Rng(2))[:, 0]):
        often = mask.float().mean(0)
        assert often.min() > 0.02
        bound = 5 * math.sqrt(2 * 0.25 / 10_000)
        assert (often - often.flip(0)).abs().max() < bound
        assert (often - often.flip(1)).abs().max() < bound


@by_sampler
def test_masks_follow_from_the_seed_and_two_processes_share_the_joint_batch(sampler: Sampler) -> None:
    joint = sampler(8, (8, 8), 24, Rng(3))
    assert torch.equal(joint, sampler(8, (8, 8), 24, Rng(3)))
    assert not torch.equal(joint, sampler(8, (8, 8), 24, Rng(4)))
    parts = [sampler(4, (8, 8), 24, Rng(3, "cpu", rank, 2)) for rank in (0, 1)]
    assert torch.equal(joint, torch.cat(parts))


def test_units_of_simmim_are_hidden_as_wholes() -> None:
    mask = coarse_places(500, (14, 14), 30, Rng(0), unit=2)
    assert (mask.sum((1, 2)) == 120).all()
    units = mask.unflatten(1, (7, 2)).unflatten(3, (7, 2)).float().mean((2, 4))
    assert ((units == 0) | (units == 1)).all()
    assert within_chance(units, 30 / 49)
    with pytest.raises(ValueError, match="units of 4 × 4 places do not divide a grid of 14 × 14"):
        coarse_places(2, (14, 14), 3, Rng(0), unit=4)


def test_units_at_the_border_are_cut_off_and_the_count_is_exact() -> None:
    mask = mask_of(unit_places(500, (5, 4), 0.5, Rng(0), unit=2), (5, 4))
    assert (mask.sum((1, 2)) == 10).all()  # of 20 places; 3 of 6 units, two of which are halves
    assert (mask[:, 4, ::2] == mask[:, 4, 1::2]).float().mean() > 0.9
    with pytest.raises(ValueError, match="all 6 units of 2 × 2 places are hidden"):
        unit_places(2, (5, 3), 0.9, Rng(0), unit=2)


@pytest.mark.parametrize(
    ("grid", "unit", "share", "units"),
    [
        ((14, 14), 2, 0.6, 30),  # SimMIM's; 0.6 · 49 = 29.4
        ((8, 8), 2, 0.6, 10),
        ((14, 14), 2, 1e-6, 1),
        ((6, 8), 1, 0.5, 24),
        ((12, 12), 4, 8 / 9, 8),
        ((10, 10), 2, 0.28, 7),  # in floating point 0.28 · 25 is more than 7
    ],
)
def test_the_number_of_units_is_rounded_up_and_they_are_whole_and_evenly_spread(
    grid: Grid, unit: int, share: float, units: int
) -> None:
    places = unit_places(2000, grid, share, Rng(0), unit)
    assert places.shape == (2000, units * unit**2)
    assert (places.diff(dim=1) > 0).all()  # in ascending order, none twice
    rows, columns = (side // unit for side in grid)
    mask = mask_of(places, grid).unflatten(1, (rows, unit)).unflatten(3, (columns, unit))
    assert mask.all(4).all(2).sum((1, 2)).eq(units).all()
    assert within_chance(mask.any(4).any(2), units / (rows * columns))


def test_visible_and_hidden_places_are_all_places() -> None:
    visible, hidden = random_places(50, 16, 12, Rng(0))
    assert (visible.shape, hidden.shape) == ((50, 4), (50, 12))
    both = torch.cat([visible, hidden], 1).sort(1).values
    assert torch.equal(both, torch.arange(16).expand(50, -1))
    mask = mask_of(hidden, (4, 4))
    assert torch.equal(places_in(mask, 12), hidden.sort(1).values)
    assert torch.equal(places_in(~mask, 4), visible.sort(1).values)


def test_some_places_of_a_mask_are_a_random_subset() -> None:
    mask = Rectangles((8, 8), (0.3, 0.3))(1, Rng(0)).expand(6000, 1, 8, 8)
    some = mask_of(some_places(mask, 6, Rng(1)), (8, 8))
    assert (some.sum((2, 3)) == 6).all()
    assert not (some & ~mask).any()
    assert within_chance(some.flatten(0, 1).flatten(1)[:, mask[0].flatten()], 6 / int(mask[0].sum()))
    # Where there are too few, all of them and others.
    more = mask_of(some_places(mask, 40, Rng(1)), (8, 8))
    assert (more.sum((2, 3)) == 40).all()
    assert (more | ~mask).all()


def test_beit_blocks_are_blocks_with_few_places_drawn_singly() -> None:
    # In a union of blocks most hidden places have a hidden neighbour on the right; at random 38 % do.
    mask = block_places(500, (14, 14), 75, Rng(0))
    share = (mask[:, :, :-1] & mask[:, :, 1:]).sum() / mask[:, :, :-1].sum()
    assert share > 0.75


def test_the_inverse_block_is_one_block_that_wraps_around() -> None:
    # 24 places, of aspect 2/3: exactly 4 rows of 6.
    mask = inverse_block_places(2000, (8, 8), 40, Rng(0), aspect=(2 / 3, 2 / 3))
    rows, columns = (~mask).any(2).sum(1), (~mask).any(1).sum(1)
    assert (rows == 4).all()
    assert (columns == 6).all()
    assert (~mask)[:, 0].logical_and((~mask)[:, -1]).any()


@pytest.mark.parametrize("grid", [(8, 8), (14, 14), (6, 10)], ids=str)
def test_rectangles_are_rectangles_of_the_area_and_aspect_asked_for(grid: Grid) -> None:
    rectangles = Rectangles(grid, (0.15, 0.2), (0.75, 1.5))
    mask = rectangles(1000, Rng(0), 4)
    assert mask.shape == (1000, 4, *grid)
    height, width, area = mask.any(3).sum(2), mask.any(2).sum(2), mask.sum((2, 3))
    assert torch.equal(area, height * width)
    assert (area.min(), area.max()) == (rectangles.min_places, rectangles.max_places)
    assert area.float().mean() / math.prod(grid) == pytest.approx(0.175, abs=0.025)
    # Area and aspect do not follow from one number, nor targets from each other.
    assert len({(int(h), int(w)) for h, w in zip(height.flatten(), width.flatten(), strict=True)}) > 2
    assert (mask[:, 0] != mask[:, 1]).any((1, 2)).float().mean() > 0.8


def test_the_context_of_ijepa_has_no_place_of_a_target_and_a_fixed_size() -> None:
    context = Rectangles((8, 8), (0.85, 1.0))
    targets = Rectangles((8, 8), (0.15, 0.2), (0.75, 1.5))
    seen, wanted = context_and_targets(2000, context, targets, 4, 16, Rng(0))
    assert (seen.shape, wanted.shape) == ((2000, 16), (2000, 4, targets.min_places))
    visible, hidden = mask_of(seen, (8, 8)), mask_of(wanted, (8, 8))
    assert (visible.sum((1, 2)) == 16).all()
    assert (hidden.sum((2, 3)) == targets.min_places).all()
    assert not (visible.unsqueeze(1) & hidden).any()
    often = visible.float().mean(0)
    assert (often - often.flip(0)).abs().max() < 0.06  # the bottom is seen as often as the top
    parts = [
        context_and_targets(1000, context, targets, 4, 16, Rng(0, "cpu", rank, 2)) for rank in (0, 1)
    ]
    assert torch.equal(torch.cat([part[0] for part in parts]), seen)
    assert torch.equal(torch.cat([part[1] for part in parts]), wanted)


def test_a_context_that_is_often_too_small_still_never_shows_a_target() -> None:
    context, targets = Rectangles((6, 6), (0.85, 1.0)), Rectangles((6, 6), (0.2, 0.3))
    visible = context.min_places - targets.max_places
    seen, wanted = context_and_targets(500, context, targets, 8, visible, Rng(0))
    masks = mask_of(seen, (6, 6)), mask_of(wanted, (6, 6)).any(1)
    assert (masks[0].sum((1, 2)) == visible).all()
    assert not (masks[0] & masks[1]).any()
    with pytest.raises(ValueError, match=f"choose at most {visible}"):
        context_and_targets(2, context, targets, 8, visible + 1, Rng(0))


def test_normal_numbers_are_the_rows_of_the_joint_batch() -> None:
    joint = Rng(5).normal(4000, 3)
    parts = [Rng(5, "cpu", rank, 2).normal(2000, 3) for rank in (0, 1)]
    assert torch.equal(torch.cat(parts), joint)
    assert joint.mean().abs() < 0.05
    assert joint.std().item() == pytest.approx(1, abs=0.05)


def test_shared_numbers_are_the_same_in_every_process_and_ranks_stay_in_step() -> None:
    ranks = [Rng(5, "cpu", rank, 2) for rank in (0, 1)]
    directions = [rng.shared.normal(7, 3) for rng in ranks]
    assert torch.equal(*directions)
    assert torch.equal(*(rng.shared.uniform(7) for rng in ranks))
    assert not torch.equal(directions[0], ranks[0].shared.normal(7, 3))  # it moves on
    ranks[1].shared.normal(7, 3)
    alone = Rng(5)
    alone.shared.normal(7, 3), alone.shared.uniform(7), alone.shared.normal(7, 3)
    assert torch.equal(torch.cat([rng.uniform(4) for rng in ranks]), alone.uniform(8))
