"""Colorization: Lab, bins and weights of colours, and a network that never sees a colour."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_zoo import Unsuitable
from ssl_zoo.testing import Check, parametrize_with_checks
from ssl_zoo.views.lab import ab_bins, from_lab, to_gray, to_lab
from ssl_zoo_vision.predictive.colorization import Colorization
from ssl_zoo_vision.predictive.colour_bins import ColourBins, has_colours
from tests.vision.small_tasks import TINY_VIT, build, photos, views

SMALL = {"hidden": 32}


@parametrize_with_checks(Colorization, options=SMALL)
def test_colorization(check: Check) -> None:
    check()


# --- Lab ---


def pixel(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
        ((1, 1, 1), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((0.5, 0.5, 0.5), (53.39, 0, 0)),
    ],
)
def test_lab_has_the_known_values_of_colours(rgb: Any, lab: Any) -> None:
    torch.testing.assert_close(to_lab(pixel(*rgb)), pixel(*lab), atol=0.01, rtol=0)


def test_lab_and_srgb_are_inverse_to_each_other() -> None:
    rgb = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(from_lab(to_lab(rgb)), rgb, atol=2e-5, rtol=0)
    dark = rgb / 50  # the linear parts of both curves
    torch.testing.assert_close(from_lab(to_lab(dark)), dark, atol=2e-5, rtol=0)


def test_colours_that_srgb_does_not_have_are_clipped() -> None:
    rgb = from_lab(torch.tensor([[50.0, 150.0, -150.0], [100.0, 80.0, 0.0]]).view(2, 3, 1, 1))
    assert rgb.isfinite().all()
    assert rgb.min() >= 0
    assert rgb.max() <= 1


def test_a_gray_image_has_the_lightness_of_the_coloured_one_and_no_colour() -> None:
    rgb = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    gray = to_lab(to_gray(rgb))
    torch.testing.assert_close(gray[:, 0], to_lab(rgb)[:, 0], atol=1e-3, rtol=0)
    assert gray[:, 1:].abs().max() < 1e-2


def test_bins_are_the_squares_of_the_plane_that_have_a_colour() -> None:
    bins = {(int(a), int(b)) for a, b in ab_bins().tolist()}
    assert 254 <= len(bins) == len(ab_bins()) <= 262
    assert all(a % 10 == b % 10 == 0 for a, b in bins)
    assert {(0, 0), (80, 70), (-90, 80), (80, -110)} <= bins  # gray, red, green and blue
    assert (-90, -100) not in bins


# --- classes of colour ---


def test_soft_targets_are_gaussian_weights_of_the_ten_nearest_bins() -> None:
    bins = ColourBins()
    ab = torch.tensor([[3.0, -4.0], [80.1, 67.2], [-86.2, 83.2]])
    nearest, weights = bins.encode(ab)
    assert nearest.shape == weights.shape == (3, 10)
    for i, colour in enumerate(ab.tolist()):
        distances = sorted((math.dist(c, colour), q) for q, c in enumerate(bins.centres.tolist()))[:10]
        gauss = [math.exp(-(d**2) / 50) for d, _ in distances]
        expected = [g / sum(gauss) for g in gauss]
        torch.testing.assert_close(weights[i], torch.tensor(expected), atol=1e-5, rtol=1e-3)
        assert nearest[i, 0] == distances[0][1]


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1.0])
def test_weights_are_1_on_average_and_larger_for_rare_colours(uniform: float) -> None:
    bins = ColourBins()
    assert torch.allclose(bins.weights(uniform), torch.ones(len(bins)))  # all alike at first
    p = torch.rand(len(bins), generator=torch.Generator().manual_seed(0)) + 0.01
    bins.frequency.copy_(p / p.sum())
    w = bins.weights(uniform)
    assert (bins.frequency * w).sum().item() == pytest.approx(1, abs=1e-5)
    common, rare = bins.frequency.argmax(), bins.frequency.argmin()
    if uniform == 1:
        assert torch.allclose(w, torch.ones(len(bins)))
    else:
        expected = ((1 - uniform) * bins.frequency[common] + uniform / len(bins)) / (
            (1 - uniform) * bins.frequency[rare] + uniform / len(bins)
        )
        assert (w[rare] / w[common]).item() == pytest.approx(expected.item(), rel=1e-4)
        assert w[rare] > 1 > w[common]


def test_frequencies_follow_the_soft_targets_of_coloured_images_alone() -> None:
    bins = ColourBins(momentum=0.75).train()
    red, gray = torch.tensor([80.0, 70.0]), torch.zeros(2)
    ab = torch.stack([red, gray])[:, :, None, None].expand(-1, -1, 2, 2)
    before = bins.frequency.clone()
    bins.cross_entropy(torch.zeros(2, len(bins), 2, 2), ab, has_colours(ab), 0.5)
    assert torch.equal(bins.frequency, before)
    bins.update()
    nearest, weights = bins.encode(red[None])
    expected = 0.75 * before + 0.25 * torch.zeros(len(bins)).scatter(0, nearest[0], weights[0])
    torch.testing.assert_close(bins.frequency, expected)
    bins.cross_entropy(torch.zeros(2, len(bins), 2, 2), 0 * ab, has_colours(0 * ab), 0.5)
    bins.update()
    torch.testing.assert_close(bins.frequency, expected)


# --- the task ---


def of_one_lightness(task: Any, where: Tensor) -> tuple[Tensor, Tensor]:
    """Return images [B, 3, H, W] with two colours, one each, where `where`; the same gray to the bit."""
    n = 100_000
    x = task.spec.normalise(torch.rand(n, 3, 1, 1, generator=torch.Generator().manual_seed(0)))
    order, index = task.gray(x)[:, :, 0, 0].unique(dim=0, return_inverse=True)[1].sort()
    same = (order[1:] == order[:-1]).nonzero().squeeze(1)
    pairs = torch.stack([x[index[same]], x[index[same + 1]]])  # [2, n, 3, 1, 1]
    for i in (pairs[0] - pairs[1]).square().sum((1, 2, 3)).argsort(descending=True).tolist():
        a, b = (torch.where(where, colour, 0.0) for colour in pairs[:, i])
        if torch.equal(task.gray(a), task.gray(b)):  # also where other instructions compute it
            return a, b
    raise AssertionError("no two colours have the same lightness")


def test_other_colours_of_the_same_lightness_change_the_loss_but_no_logit() -> None:
    task = build(Colorization, **SMALL).eval()
    where = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(1)) < 0.5
    x, y = of_one_lightness(task, where)
    assert (x - y).abs().max() > 0.5
    assert torch.equal(task.logits(x), task.logits(y))
    assert torch.equal(task.features(x), task.features(y))
    assert abs(task.loss((x,)).total - task.loss((y,)).total) > 1e-3


def test_the_loss_is_the_weighted_cross_entropy_of_each_place() -> None:
    task = build(Colorization, **SMALL, uniform=0.3, stride=4).eval()
    frequency = torch.rand(len(task.bins), generator=torch.Generator().manual_seed(2))
    task.bins.frequency.copy_(frequency / frequency.sum())
    (x,) = views(task, 3)
    log_p = task.logits(x).log_softmax(1)
    weights, losses = task.bins.weights(0.3), []
    assert log_p.shape == (3, len(task.bins), 4, 4)
    lab = to_lab(task.spec.denormalise(x))
    for n in range(3):
        for i in range(4):
            for j in range(4):
                bins, target = task.bins.encode(lab[n, 1:, 4 * i, 4 * j][None])
                entropy = -(target[0] * log_p[n, bins[0], i, j]).sum()
                losses.append(weights[bins[0, 0]] * entropy)
    torch.testing.assert_close(task.loss((x,)).total, torch.stack(losses).mean())


def test_gray_images_count_nothing() -> None:
    task = build(Colorization, **SMALL).eval()
    (x,) = views(task, 4)
    alone, mixed = task.loss((x[:2],)), task.loss((torch.cat([x[:2], task.gray(x[2:])]),))
    torch.testing.assert_close(alone.total, mixed.total)
    assert (alone.weight, mixed.weight) == (2, 2)
    nothing = task.loss((task.gray(x),))
    nothing.total.backward()
    assert (nothing.total, nothing.weight) == (0, 0)
    assert all(p.grad is None or (p.grad == 0).all() for p in task.parameters())


def test_features_are_those_of_the_gray_image_in_the_normalisation_of_colours() -> None:
    task = build(Colorization, **SMALL).eval()
    raw = photos(4, 16)
    gray = (to_gray(raw / 255) * 255).round().byte()
    x, y = task.spec.prepare(raw), task.spec.prepare(gray)
    torch.testing.assert_close(task.features(x), task.encoder(y), atol=0.02, rtol=0.02)


def test_the_annealed_mean_lies_between_the_mean_and_the_mode() -> None:
    bins = ColourBins()
    logits = torch.full((1, len(bins), 1, 1), -20.0)
    red, gray = bins.encode(torch.tensor([[80.0, 70.0], [0.0, 0.0]]))[0][:, 0]
    logits[:, red], logits[:, gray] = math.log(0.6), math.log(0.4)
    mean, annealed, mode = (bins.mean(logits, t)[0, 0].item() for t in (1.0, 0.38, 0.01))
    assert mean == pytest.approx(48, rel=1e-4)
    assert mean < annealed < mode == pytest.approx(80)


@pytest.mark.parametrize("channels", [1, 5])
def test_images_without_colours_are_refused(channels: int) -> None:
    with pytest.raises(
        Unsuitable, match=rf"^data\.channels: .*{channels} channels; give images in colour"
    ):
        build(Colorization, channels=channels)


def test_a_transformer_colours_images_of_any_size() -> None:
    task = build(Colorization, 28, backbone=TINY_VIT, **SMALL)
    x, *_ = views(task, 2)
    assert task.logits(x).shape == (2, len(task.bins), 14, 14)
    assert task.reconstructions((x,))["colours"].shape == x.shape
    assert build(Colorization, 66, **SMALL).stride == 4
