"""Each shipped task takes a step at an input that is not square, or says in one line why not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.errors import Unsuitable
from ssl_zoo.plugins.registry import registry
from ssl_zoo.testing.case import Case
from ssl_zoo.testing.check_data import TINY, SyntheticImages
from ssl_zoo_vision.masked.mae import MAE
from ssl_zoo_vision.predictive.rotation import Rotation
from tests.vision.tiny_tasks import GROUP_NORM

VIT = BackboneConfig(name="test_vit", options={"patch_size": 4})
SIZE = 32, 64
OPTIONS: dict[str, dict[str, Any]] = {
    "inpainting": {"hidden": 32, "region": "centre"},
    "jigsaw": {"tile": 16},
}
"""Options of single tasks; two small crops are taken beside large views wherever there are such."""


def case(name: str) -> Case:
    """Return a task with a tiny network for images of SIZE, a transformer if it needs one."""
    cls = registry.load_task(name)
    backbone = VIT if "ViT" in cls.prerequisites else TINY
    if "group or layer norm" in cls.prerequisites:
        backbone = GROUP_NORM
    classes = 2 if "labels" in cls.needs else None
    data = SyntheticImages(backbone, SIZE, 3, 48, 80, classes, cls.any_size)
    options = {**OPTIONS.get(name, {}), **({"local": 2} if "local" in cls.Options.model_fields else {})}
    return Case(cls, options, [data])


@pytest.mark.parametrize("name", sorted(registry.tasks().keys() - {"rotation"}))
def test_a_task_takes_a_step(name: str) -> None:
    given = case(name)
    task = given.construct(given.data)
    losses = task.loss(given.views(task, 4))
    losses.total.backward()
    gradients = [p.grad.abs().max() for p in task.encoder.parameters() if p.grad is not None]
    assert gradients
    assert torch.isfinite(torch.stack([losses.total, *gradients])).all()
    assert len(task.eval().features(task.spec.prepare(given.data.batch(2)))) == 2


def test_rotation_needs_a_square() -> None:
    given = case(Rotation.name)
    with pytest.raises(Unsuitable, match=r"^data\.image_size: .*32×64.*--image-size 32$"):
        given.construct(given.data)


def test_mae_hides_and_paints_patches_on_their_own_grid() -> None:
    given = case(MAE.name)
    task: Any = given.construct(given.data)
    views = given.views(task, 2)
    assert task.decoder.positions.shape[0] == 8 * 16
    assert task.reconstructions(views)["painted"].shape == (2, 3, *SIZE)
