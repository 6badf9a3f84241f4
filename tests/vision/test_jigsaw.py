"""The jigsaw task: the suite that every task passes, then the paper's puzzle, read literally."""

from __future__ import annotations

import itertools
import math
import random
import tracemalloc
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from ssl_zoo import ImageSpec, Rng, UserError
from ssl_zoo.backbones.create import create_backbone
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.testing import Check, parametrize_with_checks
from ssl_zoo.views.tiles import normalise_tiles
from ssl_zoo_vision.predictive.jigsaw import Jigsaw
from ssl_zoo_vision.predictive.permutations import permutations

TINY = BackboneConfig(name="resnet18", options={"channels": [8, 16, 32, 64], "layers": [1, 1, 1, 1]})


@parametrize_with_checks(Jigsaw, options={"permutations": 20, "tile": 8, "hidden": 64})
def test_conformance(check: Check) -> None:
    check()


def spec(size: int = 24, channels: int = 3, mirror: bool = True) -> ImageSpec:
    return ImageSpec(
        channels=channels, size=size, mean=(0.5,) * channels, std=(0.25,) * channels, mirror=mirror
    )


def build(data: ImageSpec | None = None, backbone: BackboneConfig = TINY, **options: Any) -> Jigsaw:
    torch.manual_seed(0)
    data = data or spec()
    given = {"permutations": 20, "hidden": 32, "tile": 8, **options}
    return Jigsaw(create_backbone(backbone, data), Jigsaw.Options(**given), data)


def noise(n: int, size: int, channels: int = 3) -> Tensor:
    """Images no two pixels of which are alike, uint8 [n, channels, size, size]."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (n, channels, size, size), generator=generator, dtype=torch.uint8)


def plain(**options: Any) -> Jigsaw:
    """Return a task that cuts tiles of 8 out of cells of 10, and changes nothing else."""
    unchanged = {"crop_scale": (1.0, 1.0), "flip": 0.0, "grayscale_p": 0.0, "channel_shift": 0}
    return build(**{"gap": 0.25, **unchanged, **options})


# --- the permutations ---


def hamming(p: tuple[int, ...], q: tuple[int, ...]) -> int:
    return sum(a != b for a, b in zip(p, q, strict=True))


def literal_greedy(number: int, tiles: int, first: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Again and again the permutation whose nearest chosen one is farthest, then by the mean."""
    chosen = [first]
    while len(chosen) < number:

        def key(p: tuple[int, ...]) -> tuple[int, int]:
            distances = [hamming(p, q) for q in chosen]
            return min(distances), sum(distances)

        # `max` takes the first of equals, which `itertools` gives in lexicographic order.
        chosen.append(max(itertools.permutations(range(tiles)), key=key))
    return chosen


@pytest.mark.parametrize(("number", "tiles"), [(6, 3), (24, 4), (10, 5), (45, 5), (12, 6)])
@pytest.mark.parametrize("seed", [0, 7])
def test_the_permutations_are_those_of_the_literal_greedy_choice(
    number: int, tiles: int, seed: int
) -> None:
    chosen = [tuple(p) for p in permutations(number, tiles, seed).tolist()]
    assert chosen == literal_greedy(number, tiles, chosen[0])


def test_a_hundred_permutations_of_nine_are_distinct_and_no_two_are_alike() -> None:
    chosen = permutations(100, 9)
    assert chosen.shape == (100, 9)
    assert chosen.sort(1).values.eq(torch.arange(9)).all()
    distance = (chosen.unsqueeze(0) != chosen.unsqueeze(1)).sum(2)  # [100, 100]
    apart = distance[~torch.eye(100, dtype=torch.bool)]
    assert apart.min() == 6  # by the mean alone, as in the paper's table, it would be 2
    assert apart.float().mean() > 8.07  # which is the paper's mean too
    # The first nine have no tile in the same place, and no further one can be like that.
    assert distance[:9, :9][~torch.eye(9, dtype=torch.bool)].eq(9).all()
    # What is farthest from more permutations is never farther.
    nearest = [int(distance[i, :i].min()) for i in range(1, 100)]
    assert nearest == sorted(nearest, reverse=True)


def test_each_of_a_hundred_permutations_is_the_farthest_that_was_left() -> None:
    chosen = permutations(100, 9)
    generator = random.Random(0)
    others = torch.tensor([generator.sample(range(9), 9) for _ in range(3000)])
    distance = (others.unsqueeze(1) != chosen).sum(2)  # [3000, 100]
    for i in range(1, 100):
        taken = (chosen[i] != chosen[:i]).sum(1).min()
        assert distance[:, :i].min(1).values.max() <= taken


def test_the_permutations_follow_from_the_seed_and_are_chosen_once() -> None:
    first = permutations(30, 9).clone()
    permutations.cache_clear()
    assert torch.equal(permutations(30, 9), first)
    assert permutations(30, 9) is permutations(30, 9)
    assert not torch.equal(permutations(30, 9, seed=1), first)
    build(permutations=30).permutations.zero_()
    assert torch.equal(permutations(30, 9), first)


def test_choosing_holds_no_table_of_all_distances() -> None:
    permutations.cache_clear()
    tracemalloc.start()
    permutations(200, 9)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 9 * 2 * math.factorial(9) + 20 * math.factorial(9) < 200 * math.factorial(9)


def test_more_permutations_than_there_are_is_an_error() -> None:
    assert len({tuple(p) for p in permutations(6, 3).tolist()}) == 6
    with pytest.raises(ValueError, match="3 tiles have 6 orders, fewer than 7"):
        permutations(7, 3)


# --- the tiles ---


def test_black_images_give_black_tiles() -> None:
    black = torch.zeros(2, 3, 30, 30, dtype=torch.uint8)
    assert build().views(black, Rng(0))[0].eq(0).all()


def test_each_place_holds_a_crop_of_the_cell_that_the_permutation_says() -> None:
    task = plain()
    raw = noise(5, 30)
    tiles, target = task.views(raw, Rng(0))
    assert tiles.shape == (5, 9, 3, 8, 8)
    x, seen = raw / 255, set()
    for i, place in itertools.product(range(5), range(9)):
        row, column = divmod(int(task.permutations[target[i], place]), 3)
        found = []
        for down, right in itertools.product(range(3), range(3)):
            top, left = row * 10 + down, column * 10 + right
            slice_ = normalise_tiles(x[i, :, top : top + 8, left : left + 8])
            if torch.allclose(tiles[i, place], slice_, atol=1e-4):
                found.append((down, right))
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) == 9  # tiles lie in their cells as they like


def test_every_permutation_is_drawn_and_about_as_often() -> None:
    task = build(permutations=20)
    target = task.views(torch.zeros(4000, 3, 24, 24, dtype=torch.uint8), Rng(0))[1]
    counts = target.bincount(minlength=20)
    assert len(counts) == 20
    assert ((counts - 200) ** 2 / 200).sum() < 43.8  # χ² of 19 degrees of freedom, p = 0.001


def test_a_solved_puzzle_is_the_image() -> None:
    task = plain(gap=0.0)
    raw = noise(3, 24)
    tiles, target = task.views(raw, Rng(0))
    cells = [(raw / 255)[:, :, 8 * r : 8 * r + 8, 8 * c : 8 * c + 8] for r in range(3) for c in range(3)]
    expected = normalise_tiles(torch.stack(cells, 1))
    torch.testing.assert_close(
        task.grid.place(tiles, task.permutations[target]), expected, atol=1e-4, rtol=1e-4
    )


def test_images_are_mirrored_where_that_may_be_and_nowhere_else() -> None:
    raw = noise(40, 24)

    def mirrored(task: Jigsaw) -> int:
        tiles, target = task.views(raw, Rng(0))
        solved = task.grid.place(tiles, task.permutations[target])
        right_way = normalise_tiles((raw / 255)[:, :, :8, :8])
        return int((solved[:, 0] - right_way).abs().amax((1, 2, 3)).gt(0.01).sum())

    options = {"gap": 0.0, "flip": None}
    assert mirrored(plain(data=spec(mirror=False), **options)) == 0
    assert 10 < mirrored(plain(**options)) < 30


def test_colour_is_lost_where_it_is_to_be() -> None:
    gray, _ = plain(grayscale_p=1.0).views(noise(4, 30), Rng(0))
    torch.testing.assert_close(gray[:, :, 0], gray[:, :, 1], atol=1e-4, rtol=1e-4)
    tiles, _ = plain(grayscale_p=0.5).views(noise(40, 30), Rng(0))
    lost = (tiles[:, :, 0] - tiles[:, :, 1]).abs().amax((2, 3)) < 1e-3  # [40, 9]
    assert torch.equal(lost.any(1), lost.all(1))  # all tiles of an image, or none
    assert 10 < lost.all(1).sum() < 30


@pytest.mark.parametrize(("size", "tile", "cell"), [(225, 64, 75), (224, 64, 75), (28, 16, 19)])
def test_tiles_are_the_papers_64_of_75_unless_images_are_small(size: int, tile: int, cell: int) -> None:
    task = build(spec(size), tile=None, gap=11 / 64)
    assert (task.grid.side, task.grid.step) == (tile, cell)


# --- the network ---


def test_the_loss_is_the_mean_over_images_of_the_literal_cross_entropy() -> None:
    task = build().eval()
    views = task.views(noise(4, 30), Rng(0))
    tiles, target = views
    total = right = 0.0
    for image, answer in zip(tiles, target.tolist(), strict=True):
        features = [task.fc6(task.encoder(tile.unsqueeze(0))) for tile in image]
        scores = task.fc78(torch.cat(features, 1))[0].tolist()
        total += math.log(sum(math.exp(s) for s in scores)) - scores[answer]
        right += max(scores) == scores[answer]
    losses = task.loss(views)
    assert losses.total.item() == pytest.approx(total / 4, rel=1e-5)
    assert losses.logs["accuracy"].item() == right / 4


def test_all_tiles_go_through_one_network_as_one_batch() -> None:
    task = build()
    seen: list[tuple[int, ...]] = []
    task.encoder.register_forward_hook(lambda module, inputs, y: seen.append(tuple(inputs[0].shape)))
    task.loss(task.views(noise(4, 30), Rng(0)))
    assert seen == [(36, 3, 8, 8)]


def test_a_tile_is_seen_without_its_neighbours() -> None:
    task = build().eval()
    tiles, _ = task.views(noise(1, 30), Rng(0))
    features = task.encoder(tiles.flatten(0, 1))
    tiles = tiles.clone()
    tiles[:, 4] = 0
    changed = (task.encoder(tiles.flatten(0, 1)) - features).abs().amax(1) > 1e-6
    assert changed.tolist() == [place == 4 for place in range(9)]


def vit(**options: Any) -> BackboneConfig:
    given = {"patch_size": 4, "depth": 1, "embed_dim": 48, "num_heads": 2, **options}
    return BackboneConfig(name="vit_tiny_patch16_224", options=given)


def test_a_backbone_for_one_size_of_image_is_refused_with_the_ways_out() -> None:
    with pytest.raises(UserError, match=r"task\.tile: the backbone cannot take 8×8 tiles") as refused:
        build(backbone=vit())
    assert "\n" not in str(refused.value)
    assert "set a larger one (24 will do)" in str(refused.value)
    assert "backbone.options.dynamic_img_size=true" in str(refused.value)


@pytest.mark.parametrize(
    ("tile", "more"), [(24, {}), (8, {"dynamic_img_size": True})], ids=["large", "dynamic"]
)
def test_each_of_the_ways_out_works(tile: int, more: dict[str, Any]) -> None:
    task = build(backbone=vit(**more), tile=tile)
    assert task.loss(task.views(noise(2, 30), Rng(0))).total.isfinite()


@pytest.mark.parametrize("scale", [(0.0, 1.0), (0.5, 1.5)])
def test_a_crop_that_is_none_is_refused(scale: tuple[float, float]) -> None:
    with pytest.raises(ValidationError, match="crop_scale"):
        Jigsaw.Options(crop_scale=scale)


# --- the pictures ---


def test_a_network_that_knows_the_answer_solves_the_puzzle(monkeypatch: pytest.MonkeyPatch) -> None:
    task = build()
    views = task.views(noise(3, 30), Rng(0))
    answer = F.one_hot(views[1], 20).float()
    monkeypatch.setattr(task, "logits", lambda tiles: answer)
    shown = {**task.gallery(views), **task.reconstructions(views)}
    assert torch.equal(shown["prediction"], shown["solved"])
    assert not torch.equal(shown["puzzle"], shown["solved"])
