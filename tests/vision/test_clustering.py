"""The properties that tell a right clustering task from a nearly right one."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.backbones.create import create_backbone
from ssl_zoo_vision.clustering.deepcluster_v2 import DeepClusterV2
from ssl_zoo_vision.clustering.swav import SwAV
from tests.vision.small_tasks import TINY_RESNET, build, spec, views


def swav(**options: Any) -> Any:
    return build(SwAV, hidden=16, out=8, prototypes=5, **{"queue": 0, **options}).double()


def normal(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_swav_ignores_a_constant_added_to_all_scores_of_a_prototype() -> None:
    """Balanced assignments are blind to it; one added to a sample's scores is not undone at once."""
    task, scores = swav(), normal(6, 5)
    task.prototypes = torch.nn.Identity()
    q = task.assign(scores)
    torch.testing.assert_close(task.assign(scores + normal(1, 5, 1)), q, rtol=1e-9, atol=0)
    torch.testing.assert_close(q.sum(1), torch.ones(6, dtype=torch.float64))
    assert (task.assign(scores + normal(6, 1, 2)) - q).abs().max() > 1e-6


def test_swav_spreads_equal_samples_evenly_so_that_a_collapse_costs_log_k() -> None:
    task = swav()
    q = task.assign(torch.ones(6, 8, dtype=torch.float64))
    torch.testing.assert_close(q, torch.full_like(q, 1 / 5))
    # With one direction the prediction is uniform too where the prototypes are alike.
    with torch.no_grad():
        task.prototypes.weight.fill_(1)
    assert task.loss(tuple(x.double() for x in views(task))).total.item() == pytest.approx(math.log(5))


def test_swavs_prototypes_stay_as_they_are_in_their_first_share_of_training() -> None:
    task = swav(frozen=0.1)
    for progress, trained in ((0.0, False), (0.2, True)):
        task.before_step(progress)
        task.loss(tuple(x.double() for x in views(task))).total.backward()
        assert (task.prototypes.weight.grad is not None) == trained


def test_swav_punishes_a_collapse_less_with_a_queue_that_embeddings_have_left() -> None:
    """Balanced over the queue too, coinciding embeddings of today get prototypes of their own."""
    task = build(SwAV, hidden=16, out=32, prototypes=64, queue=0).double()
    batches = F.normalize(normal(16, 32), dim=1).repeat_interleave(8, 0)  # 16 batches, each collapsed
    alone, with_queue = task.assign(batches[-8:]), task.assign(batches)[-8:]
    entropies = [torch.special.entr(q).sum(1).mean().item() for q in (alone, with_queue)]
    assert entropies[0] == pytest.approx(math.log(64))  # the least loss, with which nothing is gained
    assert entropies[1] < math.log(64) - 0.5


@pytest.mark.parametrize(("fills", "steps"), [(1, 2), (3, 5)])
def test_swav_balances_the_queue_too_once_it_was_filled_often_enough(fills: int, steps: int) -> None:
    task = swav(queue=12, queue_from=0.0, queue_fills=fills)
    crops = tuple(x.double() for x in views(task))
    for used in (*[False] * steps, True):  # 8 images each
        task.before_step(0.5)
        assert task.queue_ready == used
        task.loss(crops)
        task.after_step(0.5)


def clusters(**options: Any) -> Any:
    """Return a task that has noted 24 images which lie on 3 of 8 axes, in both views."""
    torch.manual_seed(0)
    data = replace(spec(), samples=24)
    values = {"hidden": 16, "out": 8, "prototypes": 3, **options}
    task = DeepClusterV2(create_backbone(TINY_RESNET, data), DeepClusterV2.Options(**values), data)
    group = torch.arange(24) % 3
    axes = torch.eye(8)[group]
    task.bank.note(torch.cat([axes, axes], 1), torch.arange(24))
    return task


def test_deepcluster_finds_separated_clusters_and_permuting_images_permutes_their_classes() -> None:
    task = clusters(heads=2)
    task.after_step(0.1)
    group = torch.arange(24) % 3
    for h in range(2):
        same = task.classes[:, h, None] == task.classes[None, :, h]
        assert torch.equal(same, group[:, None] == group[None])
        torch.testing.assert_close(task.prototypes[h][task.classes[:, h]], torch.eye(8)[group])


def test_deepclusters_loss_of_embeddings_that_are_their_centroids_has_its_least_value() -> None:
    """It is log(1 + Σ e^(-1/τ)) over the other clusters, which are at right angles."""
    task = clusters(heads=2)
    task.after_step(0.1)
    task.encoder = torch.nn.Flatten()
    task.head = torch.nn.Identity()
    index = torch.arange(24)
    view = torch.eye(8)[index % 3].view(24, 8, 1, 1)
    loss = task.loss((view, view, index)).total.item()
    assert loss == pytest.approx(math.log(1 + 2 * math.exp(-1 / 0.1)), rel=1e-2)


def test_deepclusters_first_classes_are_the_clusters_of_what_the_untrained_network_embeds() -> None:
    task = clusters(heads=2)
    task.bank.clear()
    drawn, order = views(task, 24), torch.randperm(24)
    parts = [(*(x[rows] for x in drawn), rows) for rows in order.chunk(3)]
    task.before_training(iter(parts))
    assert task.bank.seen.all()
    for h in range(2):
        z = task.bank.features.chunk(2, 1)[h]
        assert torch.equal(task.classes[:, h], (z @ task.prototypes[h].T).argmax(1))
        for k in range(3):  # of the three clusters, a centroid is the mean direction of its members
            mean = F.normalize(F.normalize(z[task.classes[:, h] == k], dim=1).sum(0), dim=0)
            torch.testing.assert_close(task.prototypes[h, k], mean)


def test_deepcluster_leaves_out_images_that_were_never_seen() -> None:
    task = clusters(heads=2)
    task.bank.clear()
    axes = torch.eye(8)[torch.arange(12) % 3]
    for _ in range(2):
        task.bank.note(torch.cat([axes, axes], 1), torch.arange(12))
    task.after_step(0.1)
    assert (task.classes[:12] >= 0).all()
    assert (task.classes[12:] == -100).all()
    task.encoder, task.head = torch.nn.Flatten(), torch.nn.Identity()
    view = torch.randn(4, 8, 1, 1, requires_grad=True)
    losses = task.loss((view, view, torch.arange(12, 16)))
    losses.total.backward()
    assert losses.total.item() == 0
    assert losses.weight is not None
    assert losses.weight.item() == 0
