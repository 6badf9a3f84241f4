"""Inpainting: what is hidden, the reconstruction and adversarial losses, and the pictures."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo_vision.masked.context import reconstruction_loss, weights
from ssl_zoo_vision.masked.inpainting import Inpainting
from tests.vision.small_tasks import (
    TINY_RESNET,
    TINY_VIT,
    build,
    views,
)


@pytest.mark.parametrize("backbone", [TINY_RESNET, TINY_VIT], ids=["resnet", "vit"])
@pytest.mark.parametrize("region", ["centre", "random"])
def test_hidden_pixels_never_reach_the_network(backbone: BackboneConfig, region: str) -> None:
    task = build(Inpainting, backbone=backbone, region=region)
    x, hidden = views(task)
    painted = task.paint(x, hidden)
    assert torch.equal(task.paint(torch.where(hidden, torch.randn_like(x), x), hidden), painted)
    x = x.requires_grad_()
    task.paint(x, hidden).square().sum().backward()
    assert x.grad is not None
    assert (x.grad.masked_select(hidden.expand_as(x)) == 0).all()
    assert (x.grad.masked_select(~hidden.expand_as(x)) != 0).any()


@pytest.mark.parametrize("size", [16, 17, 28])
def test_the_centre_block_is_a_centred_square_of_half_the_side(size: int) -> None:
    task = build(Inpainting, size, region="centre")
    hidden = views(task)[1]
    rows = hidden[0, 0].any(1).nonzero().squeeze(1)
    assert len(rows) == size // 2
    assert abs(int(rows[0]) - (size - 1 - int(rows[-1]))) <= 1
    expected = torch.zeros(size, size, dtype=torch.bool)
    expected[rows[0] : rows[-1] + 1, rows[0] : rows[-1] + 1] = True
    assert (hidden == expected).all()


def test_random_blocks_differ_by_image_and_hide_about_a_quarter() -> None:
    task = build(Inpainting, 32)
    hidden = views(task, 256)[1]
    assert hidden.dtype == torch.bool
    share = hidden.float().mean((1, 2, 3))
    assert share.min() > 0
    assert 0.2 < share.mean() < 0.3
    assert not torch.equal(hidden[0], hidden[1])


@pytest.mark.parametrize(
    ("size", "backbone", "side"),
    [
        (16, TINY_RESNET, 2),
        (28, TINY_RESNET, 4),
        (17, TINY_RESNET, 3),
        (32, BackboneConfig(name="test_convnext"), 1),
        (28, TINY_VIT, 7),
        (28, BackboneConfig(name="test_vit3", options={"patch_size": 7}), 4),
        (24, BackboneConfig(name="test_vit_relpos", options={"patch_size": 8}), 3),
        (32, BackboneConfig(name="test_vit"), 2),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_whole_images_are_painted_from_convolutions_and_transformers_alike(
    size: int, backbone: BackboneConfig, side: int, channels: int
) -> None:
    task = build(Inpainting, size, channels, backbone)
    assert task.decoder.channel_wise.shape[-1] == side * side
    x, hidden = views(task, 3)
    assert task.paint(x, hidden).shape == (3, channels, size, size)
    task.loss((x, hidden)).total.backward()
    assert task.decoder.channel_wise.grad.abs().sum() > 0


def test_inpainting_is_the_weighted_loss_of_what_was_painted() -> None:
    task = build(Inpainting, 32, overlap_weight=4.0).eval()
    x, hidden = views(task)
    assert task.overlap == 1
    weight = weights(hidden, 1, 4.0)
    expected = reconstruction_loss(x, task.paint(x, hidden), weight)
    losses = task.loss((x, hidden))
    torch.testing.assert_close(losses.total, expected)
    assert set(weight.unique().tolist()) == {0.0, 1.0, 4.0}
    unweighted = build(Inpainting, 32, overlap=0).eval()
    assert unweighted.loss((x, hidden)).total != losses.total


def test_each_of_painter_and_critic_gets_the_gradient_of_its_own_loss_alone() -> None:
    share = 0.25
    task = build(Inpainting, adversarial=share)
    x, hidden = views(task)
    reference = copy.deepcopy(task)

    task.loss((x, hidden)).total.backward()

    weight = weights(hidden, reference.overlap, 10.0)
    region = weight > 0
    painted = reference.paint(x, hidden)

    def bce(images: Tensor, real: float) -> Tensor:
        logit = reference.critic(images * region)
        return F.binary_cross_entropy_with_logits(logit, torch.full_like(logit, real))

    painters = {n: p for n, p in reference.named_parameters() if not n.startswith("critic.")}
    critics = {n: p for n, p in reference.named_parameters() if n.startswith("critic.")}
    telling = 0.5 * (bce(x, 1.0) + bce(painted.detach(), 0.0))
    fooling = bce(painted, 1.0)
    painting = (1 - share) * reconstruction_loss(x, painted, weight) + share * fooling
    expected = dict(
        zip(critics, torch.autograd.grad(telling, list(critics.values())), strict=True)
    ) | dict(
        zip(
            painters,
            torch.autograd.grad(painting, list(painters.values()), allow_unused=True),
            strict=True,
        )
    )
    assert critics
    for name, p in task.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], atol=1e-6, rtol=1e-4, msg=name)


def test_fooling_the_critic_moves_the_painter() -> None:
    gradients = []
    for share in (1e-6, 0.5):
        task = build(Inpainting, adversarial=share)
        task.loss(views(task)).total.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in task.decoder.parameters()]))
    assert F.cosine_similarity(*gradients, dim=0) < 0.99


def test_the_painter_learns_ten_times_faster_than_the_critic() -> None:
    task = build(Inpainting, adversarial=0.001)
    scales = {name: task.lr_scale(name) for name, _ in task.named_parameters()}
    assert {s for n, s in scales.items() if n.startswith("critic.")} == {0.1}
    assert {s for n, s in scales.items() if not n.startswith("critic.")} == {1.0}
    assert task.recipe["train"]["lr"] * 0.1 == pytest.approx(2e-4)


def test_without_the_adversarial_term_there_is_no_critic() -> None:
    task = build(Inpainting)
    assert not [n for n, _ in task.named_parameters() if n.startswith("critic")]
    assert task.loss(views(task)).logs.keys() == {"reconstruction"}


def test_reconstructions_show_the_painting_in_the_hole_and_the_image_around_it() -> None:
    task = build(Inpainting).eval()
    x, hidden = views(task)
    columns = task.gallery((x, hidden))
    assert torch.equal(columns["image"], x)
    assert (columns["input"].masked_select(hidden.expand_as(x)) == 0).all()
    painted = task.reconstructions((x, hidden))["painted"]
    visible = ~hidden.expand_as(x)
    assert torch.equal(painted[visible], x[visible])
    assert torch.equal(painted[~visible], task.paint(x, hidden)[~visible])
