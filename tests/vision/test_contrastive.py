"""Contrastive tasks: the values that each paper's loss has where it can be computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo.backbones.create import create_backbone
from ssl_zoo.nn import nt_xent
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Task
from ssl_zoo.views import Rng
from ssl_zoo_vision.contrastive.supcon import SupCon
from tests.vision.small_tasks import TINY_RESNET, photos

N = 8


def build(cls: type[Task], backbone: Any = TINY_RESNET, size: int = 16, **options: Any) -> Any:
    torch.manual_seed(0)
    spec = ImageSpec(size=size, classes=2, samples=32)
    task = cls(create_backbone(backbone, spec), cls.Options(**options), spec).double()
    task.before_step(0.0)
    return task


def views(task: Any) -> tuple[Tensor, ...]:
    drawn = task.views(photos(N), Rng(0))
    needed = {"labels": torch.arange(N) % 2, "index": torch.arange(N)}
    images = (x.double() if x.is_floating_point() else x for x in drawn)
    return *images, *(needed[name] for name in task.needs)


def collapse(head: nn.Module) -> None:
    """Let a head's output be the same for every input."""
    last = [m for m in head.modules() if isinstance(m, nn.Linear)][-1]
    nn.init.zeros_(last.weight)
    last.bias = nn.Parameter(torch.ones(last.out_features, dtype=torch.float64))


# --- SupCon ---


def test_supcon_with_all_labels_different_is_nt_xent() -> None:
    task = build(SupCon, temperature=0.3)
    x1, x2, _ = views(task)
    z1, z2 = F.normalize(task.head(task.encoder(torch.cat([x1, x2]))), dim=1).chunk(2)
    loss = task.loss((x1, x2, torch.arange(N))).total
    torch.testing.assert_close(loss, nt_xent(z1, z2, 0.3), rtol=1e-12, atol=0)


def test_supcon_of_one_class_and_one_embedding_is_log_2b_minus_1_where_solo_learns_is_0() -> None:
    task = build(SupCon)
    collapse(task.head)
    x1, x2, _ = views(task)
    loss = task.loss((x1, x2, torch.zeros(N, dtype=torch.long))).total
    assert loss.item() == pytest.approx(math.log(2 * N - 1), rel=1e-12)
