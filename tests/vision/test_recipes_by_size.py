"""The recipes of tasks on hidden patches, tiles and colours suit images of 32, 64 and 224 pixels."""

from __future__ import annotations

import pytest
import torch

from ssl_zoo.config.load import load_config
from ssl_zoo.runs.build import build_task
from ssl_zoo.spec import ImageSpec
from ssl_zoo.views import Rng
from tests.vision.tiny_tasks import ON_TOKENS

BY_PATCHES = {32: 64, 64: 256, 224: 196}
"""The number of patches by the side of the images."""


@pytest.mark.parametrize("size", BY_PATCHES)
@pytest.mark.parametrize("name", ON_TOKENS)
def test_a_recipe_cuts_images_of_any_usual_size_into_few_hundred_patches(name: str, size: int) -> None:
    spec = ImageSpec(channels=3, size=size, mean=(0.5,) * 3, std=(0.25,) * 3, samples=256)
    fewer = {"task.depth": 1} if name == "aim" else {}  # of the many layers of its head
    settings = {"task.name": name, "data.source": "cifar10", **fewer}  # the digits have recipes too
    task = build_task(load_config(None, settings), spec)
    task.train()
    images = torch.randint(256, (2, 3, size, size), dtype=torch.uint8)
    with torch.no_grad():
        assert task.loss(task.views(images, Rng(0))).total.isfinite()
    rows, columns = task.encoder.feature_map(spec.prepare(images[:1])).shape[2:]
    assert rows * columns == BY_PATCHES[size]


@pytest.mark.parametrize("size", BY_PATCHES)
@pytest.mark.parametrize(
    "name",
    [
        "augself",
        "autoencoder",
        "colorization",
        "cpc",
        "deepcluster",
        "essl",
        "inpainting",
        "jigsaw",
        "relative-patch",
        "rotation",
        "spark",
    ],
)
def test_a_recipe_of_other_tasks_suits_images_of_any_usual_size(name: str, size: int) -> None:
    spec = ImageSpec(channels=3, size=size, mean=(0.5,) * 3, std=(0.25,) * 3, samples=256)
    config = load_config(None, {"task.name": name, "data.source": "cifar10"})
    task = build_task(config, spec)
    images = torch.randint(256, (4, 3, size, size), dtype=torch.uint8)
    index = [torch.arange(4)] if task.needs else []  # of deepcluster
    losses = task.loss((*task.views(images, Rng(0)), *index))
    losses.total.backward()
    assert losses.total.isfinite()
