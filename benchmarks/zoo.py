"""Draw the pictures of docs/zoo.md, and measure the memory that each shipped task needs.

    python -m benchmarks.zoo [NAME ...]

The pictures are what `ssl-zoo views` draws of parts of two photographs of scikit-learn, for networks at
64 pixels. Tasks that answer learn these parts first: for 60 steps those that ask which views are of one
image, and for 200 the others. They know little more than these parts then.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from sklearn.datasets import load_sample_images

from ssl_zoo.backbones.build import create_encoder
from ssl_zoo.config.load import load_config
from ssl_zoo.config.schema import BackboneConfig
from ssl_zoo.errors import Unsuitable
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Task
from ssl_zoo.tools import views
from ssl_zoo.training import train
from ssl_zoo_vision.joint_embedding import JointEmbedding
from ssl_zoo_vision.predictive.on_top import OnTop
from tests.zoo import DOCS, shipped

FOLDER = DOCS / "zoo"
ROWS, SIDE = 3, 213
NETWORKS = (
    BackboneConfig(name="resnet50"),
    BackboneConfig(name="vit_small_patch16_224"),
    BackboneConfig(name="resnet50", options={"norm_layer": "groupnorm1"}),
)
"""The networks whose tasks' memory is measured; the first that suits a task."""

COMPARING_STEPS, ANSWERING_STEPS = 60, 200
TRAINED = {
    "train.batch_size": 10,
    "train.optimizer": "adamw",
    "train.lr": 1e-3,
    "train.lr_scaling": "none",
    "train.warmup": 0.0,
}
SMALLER: dict[str, dict[str, Any]] = {
    "w-mse": {"task.slice": 10, "task.out": 4},
    "deepcluster": {"task.prototypes": 4},
    "deepcluster-v2": {"task.prototypes": 4},
    "aim": {"task.width": 256, "task.depth": 2},
}
"""The options of tasks whose defaults need more images than there are parts, or take long."""


def main(names: list[str]) -> None:
    """Draw and measure the tasks with these names, or all."""
    FOLDER.mkdir(exist_ok=True)
    file = FOLDER / "memory.json"
    memory = json.loads(file.read_text()) if file.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        parts, runs = Path(folder, "parts"), Path(folder, "runs")
        cut_photographs(parts)
        for name, task in shipped().items():
            if names and name not in names:
                continue
            draw(name, task, parts, runs)
            memory[name] = round(megabytes_beside(task), 1)
            print(f"{name}: {memory[name]:,} MB beside the network", flush=True)
    file.write_text(json.dumps(dict(sorted(memory.items())), indent=1) + "\n")


def cut_photographs(folder: Path) -> None:
    """Write parts of the photographs by photograph, for tasks that need labels."""
    for label, photo in zip(("china", "flower"), load_sample_images().images, strict=True):
        (folder / label).mkdir(parents=True)
        for row in range(0, photo.shape[0] - SIDE + 1, SIDE):
            for column in range(0, photo.shape[1] - SIDE + 1, SIDE):
                part = Image.fromarray(photo[row : row + SIDE, column : column + SIDE])
                part.save(folder / label / f"{row:03}-{column:03}.png")


def draw(name: str, task: type[Task], parts: Path, runs: Path) -> None:
    """Draw the views of a task, and its answers after a short training."""
    settings = {"task.name": name, "data.source": str(parts), "data.image_size": 64}
    config, run = load_config(None, settings), None
    compares = issubclass(task, JointEmbedding | OnTop)
    if compares or task.reconstructions is not Task.reconstructions:
        steps = {"train.epochs": COMPARING_STEPS if compares else ANSWERING_STEPS}  # of one step
        config = load_config(None, {**settings, **TRAINED, **steps, **SMALLER.get(name, {})})
        run = train(config, out=runs / name, protocol=(), with_baselines=False).path
    views.save(views.views(config, run, rows=ROWS, seed=1), FOLDER / f"{name}.png")


def megabytes_beside(task: type[Task]) -> float:
    """Return the size of a task's parameters and buffers but for the encoder's, in MB of float32."""
    spec = ImageSpec(
        channels=3, size=224, mean=(0.5,) * 3, std=(0.25,) * 3, samples=100_000, classes=1000
    )
    for network in NETWORKS:
        encoder = create_encoder(network, spec, any_size=task.any_size)
        try:
            built = task(encoder, task.Options(), spec)
        except Unsuitable:
            continue
        own = {id(t) for t in (*encoder.parameters(), *encoder.buffers())}
        states = (*built.parameters(), *built.buffers())
        return sum(t.numel() * t.element_size() for t in states if id(t) not in own) / 1e6
    raise Unsuitable(f"{task.name} suits none of {[network.name for network in NETWORKS]}")


if __name__ == "__main__":
    main(sys.argv[1:])
