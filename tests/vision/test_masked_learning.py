"""Masked tasks: what training can and cannot reach, their schedules, masks and pictures."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo import Rng
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.nn import layer_normalised, sinkhorn
from ssl_zoo_vision.generative.aim import AIM
from ssl_zoo_vision.masked import capi
from ssl_zoo_vision.masked.capi import CAPI
from ssl_zoo_vision.masked.data2vec import Data2Vec
from ssl_zoo_vision.masked.i_jepa import IJEPA
from ssl_zoo_vision.masked.simmim import SimMIM
from ssl_zoo_vision.masked.spark import SparK
from ssl_zoo_vision.patches import take
from tests.vision.small_tasks import TINY_VIT, build, photos, views

TOKENS = {"patch_size": 4, "depth": 1, "class_token": False, "global_pool": "avg"}
ONE_BLOCK = BackboneConfig(name="test_vit", options=TOKENS)
CONVNEXT = BackboneConfig(
    name="test_convnext", options={"patch_size": 1, "depths": [1] * 4, "dims": [8, 16, 24, 32]}
)

# --- I-JEPA ---


def losses_on_noise(leak: bool, steps: int, stop_below: float = 0.0) -> tuple[list[float], float]:
    """Train I-JEPA on images of pure noise, of which each is seen once, beside a fixed teacher.

    Args:
        leak: whether the places to be predicted are also seen.
        steps: the largest number of steps.
        stop_below: stop once the loss of a step is below this.

    Returns:
        The losses of all steps, then of 512 other images; and the loss that is reached by each place's
        mean target, which is nearly the best constant.
    """
    task = build(IJEPA, backbone=ONE_BLOCK, predictor_width=64, predictor_depth=1)
    trained = [p for p in task.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=6e-3, betas=(0.9, 0.95), weight_decay=0.0)
    n = 16

    def noise(number: int, seed: int) -> tuple[Tensor, ...]:
        x, visible, asked = task.views(torch.zeros(number, 3, 16, 16, dtype=torch.uint8), Rng(seed))
        if leak:
            visible = torch.cat([visible, asked.flatten(1)], 1)
        return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)), visible, asked

    losses: list[float] = []
    for batch in zip(*(view.split(n) for view in noise(n * steps, 0)), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = 6e-3 * min(1.0, (len(losses) + 1) / 20)
        loss = task.loss(batch).total
        losses.append(loss.item())
        if losses[-1] < stop_below:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        others = noise(32 * n, 1)
        losses.append(task.loss(others).total.item())
        y = layer_normalised(task.teacher_places(others[0]))
        asked = task.asked_places(others)
        constant = F.smooth_l1_loss(take(y.mean(0).expand_as(y), asked), take(y, asked))
    return losses, constant.item()


def test_i_jepa_learns_nothing_from_noise_unless_the_context_shows_what_is_asked_for() -> None:
    _, constant = losses_on_noise(leak=False, steps=1)
    leaking, _ = losses_on_noise(leak=True, steps=250, stop_below=0.7 * constant)
    assert leaking[-1] < 0.75 * constant  # and further down, if it went on
    honest, _ = losses_on_noise(leak=False, steps=len(leaking))
    assert 0.99 < honest[-1] / constant < 1.05


# --- schedules ---

COARSE = {16: TINY_VIT, 68: BackboneConfig(name="test_vit", options={"patch_size": 17})}
"""Networks of 4 × 4 patches, for a size that counts as small and one that does not."""


@pytest.mark.parametrize(
    ("cls", "size", "options", "expected"),
    [
        (Data2Vec, 16, {}, {0.0: 0.99, 0.15: 0.9945, 0.3: 0.999, 0.65: 0.999, 1.0: 0.999}),
        (Data2Vec, 68, {}, {0.0: 0.999, 0.15: 0.9994, 0.3: 0.9998, 1.0: 0.9998}),
        (Data2Vec, 16, {"momentum": (0.5, 0.9)}, {0.0: 0.5, 0.15: 0.7, 0.3: 0.9, 1.0: 0.9}),
        (IJEPA, 16, {}, {0.0: 0.99, 0.3: 0.993, 0.5: 0.995, 1.0: 1.0}),
        (IJEPA, 68, {}, {0.0: 0.996, 0.25: 0.997, 0.5: 0.998, 1.0: 1.0}),
        (
            CAPI,
            16,
            {"clusters": 5, "width": 32, "depth": 1},
            {0.0: 0.99, 0.3: 0.993, 0.5: 0.995, 1.0: 1.0},
        ),
        (
            CAPI,
            68,
            {"clusters": 5, "width": 32, "depth": 1},
            {0.0: 0.999, 0.3: 0.9993, 0.5: 0.9995, 1.0: 1.0},
        ),
        (CAPI, 16, {"clusters": 5, "width": 32, "momentum": 0.5}, {0.0: 0.5, 0.5: 0.75, 1.0: 1.0}),
    ],
)
def test_a_step_moves_the_teacher_by_a_momentum_on_a_line(
    cls: type[Any], size: int, options: dict[str, Any], expected: dict[float, float]
) -> None:
    """data2vec: to 0.9998 (fairseq); I-JEPA: 0.996 to 1; CAPI: 0.999 to 1."""
    task = build(cls, size, backbone=COARSE[size], **options).double()
    student, teacher = (next(network.parameters()) for network in (task.encoder, task.teacher))
    for progress, momentum in expected.items():
        torch.nn.init.zeros_(teacher)
        torch.nn.init.ones_(student)
        task.after_step(progress)
        torch.testing.assert_close(teacher, torch.full_like(teacher, 1 - momentum))


# --- SimMIM ---


def test_simmim_rounds_the_number_of_hidden_units_up() -> None:
    task = build(SimMIM, 56, backbone=TINY_VIT)
    assert (task.grid.shape, task.hidden) == ((14, 14), 120)
    _, hidden = task.views(photos(8), Rng(0))
    assert hidden.shape == (8, 120)  # 30 of 49 units of 4 places, though 0.6 · 49 = 29.4
    units = torch.zeros(8, 196).scatter_(1, hidden, 1.0).view(8, 7, 2, 7, 2).sum((2, 4))
    assert ((units == 0) | (units == 4)).all()


# --- CAPI ---


@pytest.mark.parametrize("favour", [0.0, 1.0, 3.0])
def test_capis_assignments_use_all_clusters_at_each_position(
    favour: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three rounds suffice for 64 clusters of unit length, 256 images and the assignments' 0.06.

    Args:
        favour: the length of what the features of a position share, in deviations of the rest.
        monkeypatch: pytest's.
    """
    task = build(CAPI, backbone=TINY_VIT, clusters=64, width=32, depth=1)
    y = torch.randn(256, 16, 64) + favour * torch.randn(16, 64)
    monkeypatch.setattr(task, "teacher_places", lambda x: y)
    task.clusters.weight.data = F.normalize(task.clusters.weight.data, dim=1)
    assigned = []

    def recorded(logits: Tensor, *args: Any) -> Tensor:
        assigned.append(sinkhorn(logits, *args))
        return assigned[-1]

    monkeypatch.setattr(capi, "sinkhorn", recorded)
    x, visible, asked = views(task, 256, size=16)
    task.loss((x, visible, asked))
    (q,) = assigned
    torch.testing.assert_close(q.sum(2), torch.ones(256, 16))
    use = 64 * q.mean(0)  # [N, K], 1 where a cluster has its share of a position
    assert (use - 1).abs().max() < 0.15
    assert (use - 1).abs().mean(1).max() < 0.02
    if favour:
        plain = 64 * (task.scores(x) / 0.06).softmax(2).mean(0)
        assert plain.max() > 10
        assert plain.min() < 0.05
    else:
        assert (64 * sinkhorn(task.scores(x) / 0.06, 1).mean(0) - 1).abs().max() > 0.3  # one is too few
        assert q.max() > 0.9  # even use is not had by assigning each image to all clusters


# --- FCMAE ---


def literal_block(task: Any, feature_map: Tensor, hidden: Tensor) -> Tensor:
    """Return FCMAE's output [N, P] for one image's map [d, h, w] and its hidden cells [M]."""
    decoder, (height, width) = task.decoder, task.grid.shape
    project = decoder.project.weight[:, :, 0, 0]
    cells = {}
    for n in range(height * width):
        here = feature_map[:, n // width, n % width]
        seen = project @ here + decoder.project.bias
        cells[divmod(n, width)] = decoder.token if n in hidden.tolist() else seen
    block = decoder.block
    filters = block.conv_dw.weight[:, 0]  # [D, 7, 7]
    wide = []
    for row, column in cells:
        z = block.conv_dw.bias.clone()
        for (i, j), cell in cells.items():
            if max(abs(i - row), abs(j - column)) <= 3:
                z = z + filters[:, 3 + i - row, 3 + j - column] * cell
        z = (z - z.mean()) / (z.var(correction=0) + 1e-6).sqrt()
        z = block.mlp.fc1.weight @ (z * block.norm.weight + block.norm.bias) + block.mlp.fc1.bias
        wide.append(z * (1 + torch.erf(z / math.sqrt(2))) / 2)
    grn, length = block.mlp.grn, torch.stack(wide).square().sum(0).sqrt()  # of a channel, over cells
    response = length / (length.mean() + 1e-6)
    outputs = []
    for cell, z in zip(cells.values(), wide, strict=True):
        z = z + grn.weight * z * response + grn.bias
        z = cell + block.mlp.fc2.weight @ z + block.mlp.fc2.bias
        patch = torch.einsum("d,dcpq->cpq", z, decoder.out.weight) + decoder.out.bias.view(-1, 1, 1)
        outputs.append(patch.flatten())
    return torch.stack(outputs)


def test_fcmaes_loss_is_that_of_one_convnext_block_on_the_last_map() -> None:
    task = build(SparK, 32, backbone=CONVNEXT, decoder="block", width=32).double().eval()
    for p in task.decoder.parameters():
        p.data = p.data + 0.3 * torch.randn_like(p)  # GRN and biases begin at 0
    x, hidden = task.views(photos(3), Rng(0))
    x = x.double()
    n, rows = task.grid.places, task.grid.rows
    assert task.stages == (-1,)
    assert hidden.shape == (3, round(0.6 * n))
    mask = torch.zeros(3, n).scatter_(1, hidden, 1.0).bool().view(3, rows, rows)
    ((feature_map,), side) = task.encoder.stages(x, [-1], mask)[1], 32 // rows
    errors = []
    for image in range(3):
        output = literal_block(task, feature_map[image], hidden[image])
        for place in hidden[image].tolist():
            i, j = (side * k for k in divmod(place, rows))
            pixels = x[image, :, i : i + side, j : j + side].flatten()
            deviation = ((pixels - pixels.mean()).square().sum() / (len(pixels) - 1) + 1e-6).sqrt()
            errors.append((output[place] - (pixels - pixels.mean()) / deviation).square().mean())
    torch.testing.assert_close(task.loss((x, hidden)).total, sum(errors) / len(errors))


# --- pictures ---


def as_asked(task: Any, x: Tensor, asked: Tensor, new: Tensor, normalised: bool) -> Tensor:
    """Return images [B, 3, 16·, 16·] with a patch [P] at asked places, bool [B, N], by loops.

    Args:
        task: the task.
        x: the images.
        asked: where.
        new: the patch.
        normalised: whether it is in deviations of the true patch from its mean.
    """
    painted, (height, width) = x.clone(), task.grid.patch
    for image, place in asked.nonzero().tolist():
        row, column = divmod(place, task.grid.columns)
        rows, columns = (
            slice(height * row, height * (row + 1)),
            slice(width * column, width * (column + 1)),
        )
        patch, value = x[image, :, rows, columns], new.view(-1, height, width)
        if normalised:
            value = value * (patch.var() + 1e-6).sqrt() + patch.mean()
        painted[image, :, rows, columns] = value
    return painted


def test_aims_picture_has_the_predictions_after_the_prefix_and_the_image_before() -> None:
    task = build(AIM, backbone=TINY_VIT, width=16, depth=1)
    new = torch.randn(48)
    torch.nn.init.zeros_(task.head[-1].weight)
    task.head[-1].bias.data = new
    x, _ = views(task, 4)
    prefix = torch.tensor([1, 5, 11, 15])
    later = torch.arange(16) >= prefix.view(-1, 1)
    assert later.sum(1).tolist() == [15, 11, 5, 1]
    (painted,) = task.reconstructions((x, prefix)).values()
    torch.testing.assert_close(painted, as_asked(task, x, later, new, normalised=True))
    shown = task.gallery((x, prefix))
    assert torch.equal(shown["image"], x)
    assert torch.equal(shown["prefix"], as_asked(task, x, later, torch.zeros(48), normalised=False))
    before = as_asked(task, torch.ones_like(x), later, torch.zeros(48), normalised=False).bool()
    assert torch.equal(painted[before], x[before])


def test_each_patch_of_aims_picture_is_predicted_from_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = build(AIM, backbone=TINY_VIT, width=16, depth=1)
    x, prefix = views(task, 4)
    patches = task.grid.patches(x)[:, 1:]
    right = (patches - patches.mean(2, True)) / (patches.var(2, keepdim=True) + 1e-6).sqrt()
    monkeypatch.setattr(task, "predict", lambda x, prefix: right)
    torch.testing.assert_close(task.reconstructions((x, prefix))["painted"], x)
    assert task.loss((x, prefix)).total < 1e-10


@pytest.mark.parametrize("cls", [SimMIM, SparK])
def test_pictures_have_the_predicted_pixels_at_hidden_places_alone(cls: type[Any]) -> None:
    task: Any
    if cls is SimMIM:
        task = build(SimMIM, backbone=TINY_VIT)
        layer, new = task.head, torch.randn(48)
        layer.bias.data = new
    else:
        task = build(SparK, 32, backbone=CONVNEXT, width=32, decoder="block")
        layer, colour = task.decoder.out, torch.randn(3)
        layer.bias.data, new = colour, colour.repeat_interleave(task.grid.values // 3)
    torch.nn.init.zeros_(layer.weight)
    x, hidden = task.views(photos(4), Rng(0))
    mask = torch.zeros(4, task.grid.places).scatter_(1, hidden, 1.0).bool()
    (painted,) = task.reconstructions((x, hidden)).values()
    expected = as_asked(task, x, mask, new, normalised=cls is SparK)
    torch.testing.assert_close(painted, expected)
