"""Self-distillation: the properties that the papers, and the authors' code, give each method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssl_zoo import Rng
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.task import Task
from ssl_zoo.testing import SyntheticImages
from ssl_zoo.testing.check_data import TINY
from ssl_zoo_vision.distillation.simsiam import SimSiam, negative_cosine

VIT = BackboneConfig(name="test_vit", options={"patch_size": 4})


def build(cls: type[Task], size: int = 16, backbone: BackboneConfig = TINY, **options: Any) -> Any:
    """Return a task in float64, on a tiny network."""
    torch.manual_seed(0)
    images = SyntheticImages(backbone, size, any_size=cls.any_size)
    return cls(images.encoder(), cls.Options(**options), images.spec).double()


def views(task: Any, n: int = 4, seed: int = 0) -> tuple[Tensor, ...]:
    """Return views of n images, in float64."""
    task.before_step(task.progress)
    drawn = task.views(SyntheticImages().batch(n, seed), Rng(seed))
    return tuple(x.double() if x.is_floating_point() else x for x in drawn)


# --- SimSiam ---


def test_simsiams_target_gets_no_gradient() -> None:
    task = build(SimSiam, out=32, hidden=16).eval()  # so that batch norm couples no images
    x1, x2 = (x.requires_grad_() for x in views(task))
    p1, z2 = task.predictor(task.projector(task.encoder(x1))), task.projector(task.encoder(x2))
    total = negative_cosine(p1, z2)
    of_x1, of_x2 = torch.autograd.grad(total, [x1, x2], allow_unused=True)
    assert of_x2 is None
    assert of_x1.abs().sum() > 0


def test_simsiam_of_a_constant_network_is_minus_1() -> None:
    task = build(SimSiam, out=32, hidden=16).eval()
    x = views(task)[0]
    task.predictor = nn.Identity()
    assert task.loss((x, x)).total.item() == pytest.approx(-1, abs=1e-12)


def test_simsiams_projector_and_predictor_are_the_papers() -> None:
    task = build(SimSiam, 65)
    linear = [m for m in task.projector if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(64, 64), (64, 64), (64, 2048)]
    assert all(m.bias is None for m in linear)
    assert not task.projector[-1].affine
    assert len([m for m in build(SimSiam).projector if isinstance(m, nn.Linear)]) == 2
    assert [type(m) for m in task.predictor] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert task.predictor[-1].bias is not None


def test_simsiams_predictor_alone_keeps_its_rate() -> None:
    task = build(SimSiam, out=32, hidden=16)
    constant = {name.split(".")[0] for name, _ in task.named_parameters() if task.lr_constant(name)}
    assert constant == {"predictor"}
