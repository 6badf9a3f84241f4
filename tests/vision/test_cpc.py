"""CPC v2 on images: what a context and a target see, the literal loss, and which networks it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.errors import Unsuitable
from ssl_zoo.testing import Check, parametrize_with_checks
from ssl_zoo.testing.check_data import TINY, SyntheticImages
from ssl_zoo.views import Rng
from ssl_zoo_vision.contrastive.cpc import CPC
from tests.vision.tiny_tasks import GROUP_NORM, VIT

SMALL = {"hidden": 16, "out": 16, "layers": 2}


@parametrize_with_checks(CPC, options=SMALL, backbone=GROUP_NORM)
def test_cpc(check: Check) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks(CPC, options={**SMALL, "directions": 4, "ahead": 3}, backbone=VIT)
def test_cpc_in_four_directions_of_a_transformer(check: Check) -> None:
    check()


def cpc(size: Any = 32, backbone: BackboneConfig = GROUP_NORM, **options: Any) -> CPC:
    torch.manual_seed(0)
    data = SyntheticImages(backbone, size, any_size=True)
    return CPC(data.encoder(), CPC.Options(**{**SMALL, **options}), data.spec).double().eval()


def noise(n: int, *size: int) -> Tensor:
    return torch.rand(n, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [32, (32, 64)])
def test_a_context_sees_no_pixel_below_its_row(size: Any) -> None:
    task = cpc(size, layers=5)
    predictor: Any = task.predict.predictors[0]
    height = 32
    x = noise(2, height, 64 if size != 32 else 32).requires_grad_()
    c = predictor.context(task.embed(task.grid.cut(x)))  # [B, D, R, C]
    for row in (0, 2, 5):
        for column in (0, 3, 6):
            (gradient,) = torch.autograd.grad(c[:, :, row, column].sum(), x, retain_graph=True)
            seen = gradient.abs().sum((0, 1, 3)) > 0  # [H]
            end = row * task.grid.step + task.grid.side
            assert not seen[end:].any()
            assert seen[:end].all()  # the row's own patches and all above


def test_a_target_shares_no_pixel_with_any_patch_that_its_context_sees() -> None:
    task = cpc()
    rows, columns = task.grid.rows, task.grid.columns
    assert (rows, columns) == (7, 7)
    z = task.embed(task.grid.cut(noise(2, 32, 32)))
    scored = list(task.predict(z))
    predictor: Any = task.predict.predictors[0]
    assert list(predictor.offsets) == [2, 3, 4, 5]
    for k, (predicted, number) in zip(predictor.offsets, scored, strict=True):
        assert predicted.shape == (2 * (rows - k) * columns, 16)
        image, place = number // (rows * columns), number % (rows * columns)
        assert image.view(2, -1).eq(torch.tensor([[0], [1]])).all()
        context_row = torch.arange(rows - k).repeat_interleave(columns).repeat(2)
        target_row = place // columns
        assert torch.equal(target_row - context_row, torch.full_like(place, k))
        end_of_context = context_row * task.grid.step + task.grid.side
        assert (target_row * task.grid.step >= end_of_context).all()
    # One row nearer, they would.
    assert task.grid.step < task.grid.side


@pytest.mark.parametrize("turn", range(4))
def test_each_direction_predicts_the_patches_that_lie_ahead_in_it(turn: int) -> None:
    task = cpc((32, 48), directions=4)
    rows, columns = task.grid.rows, task.grid.columns
    predictor: Any = task.predict.predictors[turn]
    z = torch.randn(1, task.encoder.width, rows, columns, dtype=torch.float64, requires_grad=True)
    number = torch.arange(rows * columns).view(1, rows, columns)
    ahead = (1, 0), (0, -1), (-1, 0), (0, 1)  # down, left, up, right
    down, right = ahead[turn]
    for k, (predicted, own) in zip(
        predictor.offsets, predictor(z.rot90(turn, (2, 3)), number.rot90(turn, (1, 2))), strict=True
    ):
        for i in (0, len(own) // 2, len(own) - 1):
            (gradient,) = torch.autograd.grad(predicted[i].sum(), z, retain_graph=True)
            seen = (gradient[0].abs().sum(0) > 0).nonzero()  # [n, 2]
            target = torch.tensor(divmod(int(own[i]), columns))
            distance = ((target - seen) * torch.tensor([down, right])).sum(1)
            assert distance.min() == k


def test_the_loss_is_the_sum_of_the_literal_cross_entropies_among_all_patches() -> None:
    task = cpc(16, directions=2, ahead=4, temperature=0.7)
    views = tuple(v.double() for v in task.views(noise(3, 20, 20).float(), Rng(0)))
    (patches,) = views
    rows, columns = task.grid.rows, task.grid.columns
    z = torch.stack([task.encoder(one) for one in patches]).view(3, rows, columns, -1)
    targets = task.target(z)  # [B, R, C, out]
    total = torch.zeros((), dtype=torch.float64)
    for turn, predictor in enumerate(task.predict.predictors):
        turned = z.rot90(turn, (1, 2)).permute(0, 3, 1, 2)
        right = targets.rot90(turn, (1, 2))
        c = predictor.context(turned)
        for k, w in zip(range(2, 5), predictor.steps, strict=True):
            terms = []
            for b in range(3):
                for i in range(c.shape[2] - k):
                    for j in range(c.shape[3]):
                        guess = w.weight[:, :, 0, 0] @ c[b, :, i, j] + w.bias
                        scores = (targets.flatten(0, 2) @ guess) / 0.7
                        own = (right[b, i + k, j] @ guess) / 0.7
                        terms.append(scores.logsumexp(0) - own)
            total = total + torch.stack(terms).mean()
    losses = task.loss(views)
    torch.testing.assert_close(losses.total, total, rtol=1e-9, atol=0)
    bound = math.log(3 * rows * columns) - total.item() / 6
    assert losses.logs["mi_bound"].item() == pytest.approx(bound)


def test_features_are_the_mean_over_the_patches_that_training_would_cut() -> None:
    task = cpc()
    x = noise(2, 32, 32)
    tops = [4 * i for i in range(7)]
    z = [task.encoder(x[:, :, t : t + 8, s : s + 8]) for t in tops for s in tops]
    torch.testing.assert_close(task.features(x), torch.stack(z).mean(0))


def test_patches_lose_channels_each_by_itself() -> None:
    task = cpc(channel_drop_p=0.5, crop_scale=(1.0, 1.0))
    (patches,) = task.views(noise(20, 32, 32).float(), Rng(0))
    flat = patches.std((-2, -1)) < 1e-6  # [B, N, 3]
    assert set(flat.sum(2).unique().tolist()) == {0, 2}
    assert flat.any(2).float().mean().item() == pytest.approx(0.5, abs=0.06)
    assert (flat.any(2).float().mean(1) - 0.5).abs().max() < 0.3  # in every image, about half of them


def test_networks_by_which_a_patch_knows_others_are_refused_and_so_are_too_large_patches() -> None:
    with pytest.raises(
        Unsuitable, match=r"^backbone\.options\.norm_layer: batch norm .*groupnorm1"
    ) as no:
        cpc(backbone=TINY)
    assert "\n" not in str(no.value)
    with pytest.raises(Unsuitable, match=r"^task\.tile: of 32×32 pixels no tiles of 24 .*at most 16"):
        cpc(tile=24)
    assert cpc(tile=16).grid.rows == 3
    with pytest.raises(Unsuitable, match=r"^task\.tile: the backbone cannot .*\(16 will do\)"):
        cpc(backbone=VIT, tile=6)


def test_the_patches_that_are_taken_for_others_are_shown_in_their_places() -> None:
    task = cpc()
    (patches,) = views = tuple(v.double() for v in task.views(noise(2, 32, 32).float(), Rng(0)))
    shown = {**task.gallery(views), **task.reconstructions(views)}
    rows = 2 * 9  # the picture's, of two rows of patches and their lines
    assert torch.equal(shown["context"][:, :, : 5 * 9 - 1], shown["patches"][:, :, : 5 * 9 - 1])
    assert torch.equal(shown["prediction"][:, :, :rows], shown["patches"][:, :, :rows])
    known = {tuple(p.flatten().tolist()) for p in patches.flatten(0, 1)}
    taken = shown["prediction"][:, :, rows:].unfold(2, 8, 9).unfold(3, 8, 9)  # [B, C, 5, 7, 8, 8]
    for one in taken.permute(0, 2, 3, 1, 4, 5).flatten(0, 2):
        assert tuple(one.flatten().tolist()) in known
