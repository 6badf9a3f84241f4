"""Samplers of hidden places, on the grid of a feature map.

Each draws for a batch at once from an `Rng`, on its device and without waiting for it, and hides an
exact number of places, so that shapes are the same in all steps and processes. A mask is bool [n, h, w],
true where an image is hidden, as `Encoder.feature_map` takes it; `places_in` turns it into indices,
which `Encoder.tokens` takes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ssl_zoo.views.rng import Rng

Grid = tuple[int, int]
"""The rows and columns of a grid of places."""
Range = tuple[float, float]


def random_places(n: int, places: int, hidden: int, rng: Rng) -> tuple[Tensor, Tensor]:
    """Divide the places of each image at random (MAE, arXiv:2111.06377).

    Args:
        n: the number of images.
        places: N, the number of places.
        hidden: the number of places to hide.
        rng: the source of random numbers.

    Returns:
        The indices of the visible places, int64 [n, N - hidden], and of the hidden ones, int64
        [n, hidden], both in random order.
    """
    _check(hidden, places)
    order = rng.uniform(n, places).argsort(1)
    return order[:, : places - hidden], order[:, places - hidden :]


def mask_of(places: Tensor, grid: Grid) -> Tensor:
    """Return the mask [..., h, w] that is true at the places with the indices [..., K]."""
    shape = (*places.shape[:-1], math.prod(grid))
    mask = torch.zeros(shape, dtype=torch.bool, device=places.device).scatter_(-1, places, True)
    return mask.view(*shape[:-1], *grid)


def places_in(mask: Tensor, count: int) -> Tensor:
    """Return the indices [..., count] of the places where masks [..., h, w] are true, in order.

    Each mask must have exactly `count` such places.
    """
    order = torch.argsort((~mask.flatten(-2)).byte(), stable=True)
    return order[..., :count]


def some_places(mask: Tensor, count: int, rng: Rng) -> Tensor:
    """Choose some of the places where each mask is true, at random.

    Args:
        mask: masks [n, ..., h, w].
        count: the number of places for each mask. Where a mask has fewer, others are added at random.
        rng: the source of random numbers.

    Returns:
        Their indices, int64 [n, ..., count], in ascending order.
    """
    flat = mask.flatten(-2)
    _check(count, flat.shape[-1])
    return _true_first(mask, rng)[..., :count].sort(-1).values


def _true_first(mask: Tensor, rng: Rng) -> Tensor:
    """Return the indices [n, ..., N] of all places, the true ones of masks first, in random order."""
    flat = mask.flatten(-2)
    return (rng.uniform(*flat.shape) + ~flat).argsort(-1)


def coarse_places(n: int, grid: Grid, hidden: int, rng: Rng, unit: int = 1) -> Tensor:
    """Draw masks [n, h, w] that hide random units of places (SimMIM, arXiv:2111.09886).

    Args:
        n: the number of masks.
        grid: h and w.
        hidden: the number of units to hide; each is unit × unit places.
        rng: the source of random numbers.
        unit: the side of a unit, in places.

    Raises:
        ValueError: units do not divide the grid, or there are fewer than `hidden`.
    """
    rows, columns = grid
    if rows % unit or columns % unit:
        raise ValueError(f"units of {unit} × {unit} places do not divide a grid of {rows} × {columns}")
    units = rows // unit, columns // unit
    mask = mask_of(random_places(n, math.prod(units), hidden, rng)[1], units)
    return mask.repeat_interleave(unit, 1).repeat_interleave(unit, 2)


def unit_places(n: int, grid: Grid, share: float, rng: Rng, unit: int) -> Tensor:
    """Draw places in random square units, of which those at the border may be cut off.

    Args:
        n: the number of masks.
        grid: h and w.
        share: the share of the units, rounded up; where units do not divide the grid, as many places as
            are the share of all places.
        rng: the source of random numbers.
        unit: the side of a unit, in places.

    Returns:
        The indices of the places, int64 [n, M], in ascending order.

    Raises:
        ValueError: they are all units.
    """
    whole = unit * math.ceil(grid[0] / unit), unit * math.ceil(grid[1] / unit)
    units = math.prod(whole) // unit**2
    hidden = math.ceil(round(share * units, 9))  # 0.28 · 25 is more than 7 in floating point
    if hidden == units:
        raise ValueError(f"all {units} units of {unit} × {unit} places are hidden")
    mask = coarse_places(n, whole, hidden, rng, unit)[:, : grid[0], : grid[1]]
    count = hidden * unit**2 if whole == grid else max(1, round(share * math.prod(grid)))
    return some_places(mask, count, rng)


MAX_BLOCKS = 24
"""The number of blocks that `block_places` tries for each image."""


def block_places(
    n: int,
    grid: Grid,
    hidden: int | Tensor,
    rng: Rng,
    smallest: int = 16,
    aspect: Range = (0.3, 1 / 0.3),
) -> Tensor:
    """Draw masks [n, h, w] that hide a union of random blocks (BEiT, arXiv:2106.08254, section 2.3).

    As in the authors' code, the area of a block is uniform between `smallest` and what is still to be
    hidden, and a block is taken if it fits into the grid and does not hide too much. They stop when ten
    blocks in a row were not taken, with fewer places hidden than asked for in a third of the images.
    Here the last places are drawn one by one.

    Args:
        n: the number of masks.
        grid: h and w.
        hidden: the number of places to hide, exactly; or a number for each image, int64 [n].
        rng: the source of random numbers.
        smallest: the area of the smallest blocks, in places; the paper's is 16 of 196.
        aspect: the range of a block's height over its width, whose logarithm is drawn uniformly.
    """
    if isinstance(hidden, int):
        _check(hidden, math.prod(grid))
    draws = rng.uniform(n, MAX_BLOCKS, 4)
    ratios = _log_uniform(draws[..., 1], aspect)
    mask = torch.zeros(n, *grid, dtype=torch.bool, device=draws.device)
    for draw, ratio in zip(draws.unbind(1), ratios.unbind(1), strict=True):
        left = hidden - mask.sum((1, 2))
        area = smallest + draw[:, 0] * (left - smallest)
        height, width = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        top, first = _position(draw[:, 2], height, grid[0]), _position(draw[:, 3], width, grid[1])
        new = _rectangle(top, first, height, width, grid) & ~mask
        more = new.sum((1, 2))
        taken = (height <= grid[0]) & (width <= grid[1]) & (more <= left)
        mask |= new & taken.view(-1, 1, 1)
    if isinstance(hidden, int):
        return mask_of(some_places(mask, hidden, rng), grid)
    rank = _true_first(mask, rng).argsort(-1)
    return (rank < hidden.view(-1, 1)).view_as(mask)


def inverse_block_places(
    n: int, grid: Grid, hidden: int, rng: Rng, aspect: Range = (0.5, 2.0)
) -> Tensor:
    """Draw masks [n, h, w] that hide all but one block, which may wrap around (CAPI, arXiv:2502.08769).

    The block lies anywhere on the grid closed to a torus, so each place is hidden equally often.

    Args:
        n: the number of masks.
        grid: h and w.
        hidden: the number of places to hide, exactly; what the block has too many is hidden at random.
        rng: the source of random numbers.
        aspect: the range of the block's height over its width, whose logarithm is drawn uniformly;
            blocks that would be longer than the grid are cut to its side.
    """
    rows, columns = grid
    visible = rows * columns - hidden
    _check(hidden, rows * columns)
    draws = rng.uniform(n, 3)
    height = (visible * _log_uniform(draws[:, 0], aspect)).sqrt().round()
    height = height.clamp(math.ceil(visible / columns), rows).clamp_(min=1)
    width = (visible / height).ceil()
    block = _cyclic(draws[:, 1], height, rows).unsqueeze(2) & _cyclic(
        draws[:, 2], width, columns
    ).unsqueeze(1)
    return ~mask_of(some_places(block, visible, rng), grid)


@dataclass(frozen=True)
class Rectangles:
    """Random rectangles of a grid, such as the blocks of I-JEPA (arXiv:2301.08243, section 3).

    Area and aspect are drawn independently of each other, for each rectangle. The authors' code takes
    one number for both, and never reaches the last row and column.

    Attributes:
        grid: h and w.
        area: the range of a rectangle's area, as a share of the grid's.
        aspect: the range of its height over its width, whose logarithm is drawn uniformly.
    """

    grid: Grid
    area: Range
    aspect: Range = (1.0, 1.0)

    _STEPS = 16

    @cached_property
    def sizes(self) -> Tensor:
        """The heights and widths, float32 [S, 2] in places, that are drawn with equal probability."""
        steps = (torch.arange(self._STEPS) + 0.5) / self._STEPS
        area = (self.area[0] + steps * (self.area[1] - self.area[0])) * math.prod(self.grid)
        ratio = _log_uniform(steps, self.aspect).unsqueeze(1)
        sizes = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], -1).flatten(0, 1)
        return sizes.round_().clamp_(min=1).minimum(torch.tensor(self.grid))

    @property
    def min_places(self) -> int:
        """The number of places of the smallest rectangle."""
        return int(self.sizes.prod(1).min())

    @property
    def max_places(self) -> int:
        """The number of places of the largest rectangle."""
        return int(self.sizes.prod(1).max())

    def __call__(self, n: int, rng: Rng, number: int = 1) -> Tensor:
        """Draw masks [n, number, h, w], each true in one rectangle."""
        draws = rng.uniform(n, number, 3)
        sizes = self.sizes.to(draws.device)
        height, width = sizes[(draws[..., 0] * len(sizes)).long()].unbind(-1)
        top = _position(draws[..., 1], height, self.grid[0])
        left = _position(draws[..., 2], width, self.grid[1])
        return _rectangle(top, left, height, width, self.grid)


MAX_TRIES = 8
"""The number of layouts that `context_and_targets` tries for each image."""


def context_and_targets(
    n: int, context: Rectangles, targets: Rectangles, number: int, visible: int, rng: Rng
) -> tuple[Tensor, Tensor]:
    """Draw what a network sees and what it is to predict (I-JEPA, arXiv:2301.08243, section 3).

    The context is a rectangle without the places of any target. As it has another size in each image, a
    random subset of fixed size is taken of it, and of each target; the authors' code cuts to the batch's
    smallest in raster order instead, so that the bottom of images is rarely seen. A layout with too
    small a context is drawn again; should all tries have one, all targets are the first.

    Args:
        n: the number of images.
        context: the rectangles of the context.
        targets: the rectangles of the targets.
        number: the number of targets of an image.
        visible: K, the number of places of the context that are seen.
        rng: the source of random numbers.

    Returns:
        The places seen, int64 [n, K], and those of each target, int64 [n, number, M], in ascending
        order; M is the size of the smallest target.

    Raises:
        ValueError: a context less one target may have fewer than `visible` places.
    """
    guaranteed = context.min_places - targets.max_places
    if visible > guaranteed:
        raise ValueError(
            f"{visible} visible places: a context of {context.min_places} places, without a target of "
            f"{targets.max_places}, may have {guaranteed}; choose at most {guaranteed}"
        )
    blocks = targets(n, rng, MAX_TRIES * number).unflatten(1, (MAX_TRIES, number))
    blocks[:, -1] = blocks[:, -1, :1]  # the last try always fits
    seen = context(n, rng, MAX_TRIES) & ~blocks.any(2)
    fits = seen.sum((2, 3)) >= visible
    first = fits.byte().argmax(1)
    rows = torch.arange(n, device=first.device)
    smallest = targets.min_places
    return some_places(seen[rows, first], visible, rng), some_places(blocks[rows, first], smallest, rng)


def _check(count: int, places: int) -> None:
    if not 0 <= count <= places:
        raise ValueError(f"{count} of {places} places cannot be chosen")


def _log_uniform(draw: Tensor, bounds: Range) -> Tensor:
    """Turn numbers in [0, 1) into ones in a range whose logarithm is uniform."""
    low, high = math.log(bounds[0]), math.log(bounds[1])
    return (low + draw * (high - low)).exp_()


def _position(draw: Tensor, length: Tensor, side: int) -> Tensor:
    """Turn numbers in [0, 1) into the first positions of intervals that end in 0..side at the latest."""
    return (draw * (side - length + 1).clamp(min=1)).floor_()


def _rectangle(top: Tensor, left: Tensor, height: Tensor, width: Tensor, grid: Grid) -> Tensor:
    """Return masks [..., h, w] that are true in the rectangles with these bounds [...]."""

    def within(first: Tensor, length: Tensor, side: int) -> Tensor:
        position = torch.arange(side, device=first.device) - first.unsqueeze(-1)
        return (position >= 0) & (position < length.unsqueeze(-1))

    return within(top, height, grid[0]).unsqueeze(-1) & within(left, width, grid[1]).unsqueeze(-2)


def _cyclic(draw: Tensor, length: Tensor, side: int) -> Tensor:
    """Return masks [n, side] that are true in intervals of this length which begin anywhere."""
    first = (draw * side).floor_().unsqueeze(1)
    return (torch.arange(side, device=draw.device) - first) % side < length.unsqueeze(1)
