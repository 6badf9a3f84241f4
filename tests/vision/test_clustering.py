"""The properties that tell a right clustering task from a nearly right one."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_zoo.backbones.create import create_backbone
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


def test_swav_balances_the_queue_with_the_batch_once_it_is_full() -> None:
    task = swav(queue=12, queue_from=0.0)
    crops = tuple(x.double() for x in views(task))
    for used in (False, False, True):  # 8 images each
        task.before_step(0.5)
        assert task.queue_ready == used
        task.loss(crops)
        task.after_step(0.5)
