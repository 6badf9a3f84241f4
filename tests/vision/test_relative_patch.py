"""Relative patch position: where patches lie, what a label says of them, and the literal loss."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_zoo.errors import Unsuitable
from ssl_zoo.testing import Check, parametrize_with_checks
from ssl_zoo.testing.check_data import SyntheticImages
from ssl_zoo.views import Rng
from ssl_zoo_vision.predictive.relative_patch import RelativePatch
from tests.vision.small_tasks import build
from tests.vision.tiny_tasks import VIT

SMALL = {"tile": 8, "width": 64}
PLAIN = {"crop_scale": (1.0, 1.0), "flip": 0.0, "grayscale_p": 0.0}


@parametrize_with_checks(RelativePatch, options=SMALL)
def test_relative_patch(check: Check) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks(
    RelativePatch, options={**SMALL, "both": True, "neighbours": 2, "channel_drop_p": 0.8}
)
def test_relative_patch_in_both_directions_with_lost_channels(check: Check) -> None:
    check()


def small(size: int = 32, **options: Any) -> Any:
    return build(RelativePatch, size, **{"width": 16, **options})


def coordinates(n: int, side: int) -> Tensor:
    """Images whose pixels tell their row, their column and nothing else, float [n, 3, side, side]."""
    rows = torch.arange(side).view(1, -1, 1).expand(1, side, side)
    return torch.cat([rows, rows.mT, 0 * rows]).div(255).expand(n, -1, -1, -1)


def corners(task: Any, n: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor]:
    """Return the first row and column of patches, int64 [n, 9, 2], and the labels [n, 8]."""
    module = "ssl_zoo_vision.predictive.relative_patch.normalise_tiles"
    monkeypatch.setattr(module, lambda tiles: tiles)
    patches, label = task.views(coordinates(n, task.grid.size[0]), Rng(0))
    return (patches[:, :, :2, 0, 0] * 255).round().long(), label


@pytest.mark.parametrize(("size", "tile", "cell"), [(32, 8, 10), (64, 16, 21), (224, 56, 74)])
def test_no_two_patches_share_a_pixel_or_a_border(
    size: int, tile: int, cell: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = small(size, **PLAIN)
    assert (task.grid.side, task.grid.step) == (tile, cell)
    corner, _ = corners(task, 100, monkeypatch)
    distances = []
    for a, b in itertools.combinations(range(9), 2):
        apart = (corner[:, a] - corner[:, b]).abs() - tile  # free pixels between, down and right
        distances.append(apart.amax(1))
    assert torch.stack(distances).min() == (cell - tile) - (cell - tile) // 2 >= 1
    # They jitter: all offsets in a cell that keep the distance are drawn.
    assert (corner % cell).unique().tolist() == list(range((cell - tile) // 2 + 1))


def test_a_label_says_where_a_neighbour_lies_and_exchanged_it_is_7_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = small(**PLAIN)
    corner, label = corners(task, 50, monkeypatch)
    cell = corner // task.grid.step  # [B, 9, 2]
    offset = cell[:, 1:] - cell[:, :1]  # [B, 8, 2], of neighbours from the centre
    ring = [o for o in itertools.product((-1, 0, 1), repeat=2) if o != (0, 0)]
    place = {o: i for i, o in enumerate(ring)}
    for i, n in itertools.product(range(50), range(8)):
        down, right = offset[i, n].tolist()
        assert label[i, n] == place[down, right]
        assert 7 - label[i, n] == place[-down, -right]
    assert label.sort(1).values.eq(torch.arange(8)).all()


@pytest.mark.parametrize("both", [False, True])
def test_the_loss_is_the_mean_of_the_literal_cross_entropies(both: bool) -> None:
    task = small(both=both, neighbours=3).eval()
    patches, label = views = task.views(torch.rand(4, 3, 40, 40), Rng(0))
    assert patches.shape == (4, 4, 3, 8, 8)
    terms, right = [], []

    def add(a: Tensor, b: Tensor, answer: int) -> None:
        z = [task.fc6(task.encoder(patch.unsqueeze(0))) for patch in (a, b)]
        scores = task.fc789(torch.cat(z, 1))[0].tolist()
        terms.append(math.log(sum(math.exp(s) for s in scores)) - scores[answer])
        right.append(max(scores) == scores[answer])

    for i, n in itertools.product(range(4), range(3)):
        centre, other, answer = patches[i, 0], patches[i, n + 1], int(label[i, n])
        add(centre, other, answer)
        if both:
            add(other, centre, 7 - answer)
    losses = task.loss(views)
    assert losses.total.item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    assert losses.logs["accuracy"].item() == pytest.approx(sum(right) / len(right))


def test_a_patch_keeps_one_channel_of_its_own_and_noise_of_a_hundredth_in_the_others() -> None:
    task = small(channel_drop_p=1.0, **PLAIN)
    patches, _ = task.views(torch.rand(100, 3, 40, 40), Rng(0))
    deviation = patches.std((-2, -1), correction=0)  # [B, 9, 3]
    kept = deviation > 0.5
    assert kept.sum(2).eq(1).all()
    assert kept.float().mean((0, 1)).sub(1 / 3).abs().max() < 0.06
    assert not torch.equal(kept[:, 0], kept[:, 1])
    assert deviation[~kept].mean().item() == pytest.approx(0.01, rel=0.05)
    gray = build(RelativePatch, 32, 1, width=16, channel_drop_p=1.0)
    assert gray.views(torch.rand(4, 1, 40, 40), Rng(0))[0].std((-2, -1)).min() > 0.5


def test_heads_are_the_papers_for_large_images_and_narrower_for_small_ones() -> None:
    for size, width in ((64, 512), (65, 4096)):
        task = build(RelativePatch, size)
        assert task.fc6[0].out_features == width
        linear = [m for m in task.fc789 if isinstance(m, torch.nn.Linear)]
        assert [m.out_features for m in linear] == [width, width, 8]
    assert build(RelativePatch, 32).chance_loss == math.log(8)


def test_the_pictures_show_the_patches_in_place_and_those_that_the_network_places_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = small(neighbours=2).eval()
    patches, label = views = task.views(torch.rand(5, 3, 40, 40), Rng(0))
    (asked,) = task.gallery(views).values()
    wrong = torch.arange(5) % 2  # of the first neighbours, every second one is misplaced
    answers = torch.stack([(label[:, 0] + wrong) % 8, label[:, 1]], 1)
    logits = torch.nn.functional.one_hot(answers.flatten(), 8).float()
    monkeypatch.setattr(task.fc789, "forward", lambda pairs: logits)
    (answered,) = task.reconstructions(views).values()
    for i in range(5):
        for n, number in enumerate((None, 0, 1)):
            cell = 4 if number is None else int(label[i, number]) + int(label[i, number] >= 4)
            top, left = (9 * k for k in divmod(cell, 3))
            place = (i, slice(None), slice(top, top + 8), slice(left, left + 8))
            assert torch.equal(asked[place], patches[i, n])
            expected = torch.zeros(3, 8, 8) if number == 0 and wrong[i] else patches[i, n]
            assert torch.equal(answered[place], expected)


def test_a_transformer_whose_patches_do_not_cover_a_tile_is_refused() -> None:

    data = SyntheticImages(VIT, 32, any_size=True)
    with pytest.raises(Unsuitable, match=r"task\.tile: the backbone cannot take 10×10 tiles .*4×4 pat"):
        RelativePatch(data.encoder(), RelativePatch.Options(tile=10), data.spec)
    assert RelativePatch(data.encoder(), RelativePatch.Options(tile=12), data.spec).grid.side == 12
