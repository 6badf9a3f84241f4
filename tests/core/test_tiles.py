"""Tiles of images: what is cut from where, how it is normalised, and the pictures of it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from ssl_zoo.spec import ImageSpec
from ssl_zoo.views import RandomChannelShift, Rng
from ssl_zoo.views.tiles import TileGrid, normalise_tiles


def test_tiles_are_slices_of_their_cells() -> None:
    grid, b = TileGrid(rows=2, columns=4, step=7, side=5), 4
    assert grid.size == (14, 28)
    x = torch.rand(b, 3, *grid.size)
    cells = torch.stack([torch.randperm(8)[:6] for _ in range(b)])
    shifts = torch.randint(3, (b, 6, 2))
    tiles = grid.cut(x, cells, shifts)
    assert tiles.shape == (b, 6, 3, 5, 5)
    for i, place in itertools.product(range(b), range(6)):
        row, column = divmod(int(cells[i, place]), 4)
        down, right = shifts[i, place].tolist()
        top, left = row * 7 + down, column * 7 + right
        assert torch.equal(tiles[i, place], x[i, :, top : top + 5, left : left + 5])


def test_tiles_that_are_larger_than_their_distance_overlap() -> None:
    grid = TileGrid(rows=3, columns=2, step=2, side=4)
    assert grid.size == (8, 6)
    x = torch.rand(2, 1, *grid.size)
    tiles = grid.cut(x)
    assert torch.equal(tiles[:, 3], x[:, :, 2:6, 2:6])  # the second row's second
    windows = x.unfold(2, 4, 2).unfold(3, 4, 2)  # [B, 1, 3, 2, 4, 4]
    assert torch.equal(tiles[:, :, 0], windows.flatten(1, 3))


@pytest.mark.parametrize(("gap", "largest"), [(0, 3), (2, 1), (3, 0)])
def test_shifts_are_all_that_leave_the_gap(gap: int, largest: int) -> None:
    grid = TileGrid(3, 3, step=8, side=5)
    shifts = grid.random_shifts(200, 2, Rng(0), gap)
    assert shifts.shape == (200, 2, 2)
    assert shifts.unique().tolist() == list(range(largest + 1))
    # A tile at its cell's end and the next one at its cell's beginning are that far apart.
    assert 8 - (largest + 5) == gap


def test_each_tile_has_mean_0_and_deviation_1_in_each_channel() -> None:
    tiles = torch.rand(2, 9, 3, 6, 6)
    normal = normalise_tiles(tiles)
    for i, place, c in itertools.product(range(2), range(9), range(3)):
        values = tiles[i, place, c].flatten().tolist()
        mean = sum(values) / 36
        std = math.sqrt(sum((v - mean) ** 2 for v in values) / 36)
        expected = torch.tensor([(v - mean) / std for v in values])
        torch.testing.assert_close(normal[i, place, c].flatten(), expected, atol=1e-5, rtol=1e-4)


def test_light_and_contrast_of_a_tile_tell_nothing() -> None:
    tiles = torch.rand(2, 9, 3, 6, 6)
    light, contrast = torch.rand(2, 9, 3, 1, 1), 0.5 + torch.rand(2, 9, 3, 1, 1)
    torch.testing.assert_close(
        normalise_tiles(contrast * tiles + light), normalise_tiles(tiles), atol=1e-4, rtol=1e-4
    )


def test_flat_tiles_stay_flat() -> None:
    tiles = torch.full((1, 9, 1, 4, 4), 0.3)
    tiles[0, 1] += 1e-6 * torch.randn(1, 4, 4)
    normal = normalise_tiles(tiles)
    assert normal[0, 0].abs().max() < 1e-4
    assert normal[0, 1].abs().max() < 0.01  # rounding is not blown up


def test_the_picture_shows_each_tile_in_its_place_between_white_lines() -> None:
    spec = ImageSpec(channels=3, size=24, mean=(0.5,) * 3, std=(0.25,) * 3)
    tiles = torch.rand(2, 6, 3, 4, 4)
    picture = spec.denormalise(TileGrid(2, 3, step=5, side=4).picture(tiles, gap=2))
    assert picture.shape == (2, 3, 10, 16)
    white = torch.ones(10, 16, dtype=torch.bool)
    for place in range(6):
        top, left = (6 * k for k in divmod(place, 3))
        shown = picture[:, :, top : top + 4, left : left + 4]
        assert torch.equal(shown, spec.denormalise(tiles[:, place]))
        white[top : top + 4, left : left + 4] = False
    assert picture[:, :, white].eq(1).all()


def test_tiles_are_put_into_their_cells_and_the_others_are_empty() -> None:
    tiles = torch.rand(2, 2, 3, 4, 4)
    placed = TileGrid(2, 3, step=5, side=4).place(tiles, torch.tensor([[4, 0], [5, 3]]))
    assert placed.shape == (2, 6, 3, 4, 4)
    assert torch.equal(placed[0, [4, 0]], tiles[0])
    assert torch.equal(placed[1, [5, 3]], tiles[1])
    assert placed.count_nonzero() == tiles.count_nonzero()


def test_channels_are_shifted_by_whole_pixels_each_by_its_own() -> None:
    x = torch.rand(50, 3, 12, 12)
    shifted = RandomChannelShift(2)(x, Rng(0))
    places = torch.arange(12)
    seen = set()
    for i, c in itertools.product(range(50), range(3)):
        found = [
            (down, right)
            for down, right in itertools.product(range(-2, 3), range(-2, 3))
            if torch.equal(
                shifted[i, c],
                x[i, c][(places + down).clamp(0, 11)][:, (places + right).clamp(0, 11)],
            )
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) == 25
    assert torch.equal(RandomChannelShift(2)(x[:, :1], Rng(0)), x[:, :1])  # one channel has no other
    assert torch.equal(RandomChannelShift(0)(x, Rng(0)), x)
