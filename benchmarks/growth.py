"""Growth of cost with the data, the batch, the image, the installed tasks and the compared cells.

    python benchmarks/growth.py -o growth.png --json growth.json      # under six minutes on two cores
    python benchmarks/growth.py -o growth.png --quick                 # small sizes only

Images are random, gray, 16×16 pixels unless stated otherwise, and in memory as from a plugin's source;
the task is SimCLR with timm's `test_resnet` and batches of 256. Four panels:

- **Data**, 1,000 to 1,000,000 images, time per image: setting up the data set (labels read, mean and
  deviation measured), an epoch's order and batches without a network, training, a checkpoint, and the
  kNN evaluation of 1,000 queries of width 64 (per image of the bank).
- **Batch**, 32 to 4,096: time per image of a training step, and of its views alone.
- **Image**, 16 to 224 pixels, batches of 32: likewise. Beyond 64 pixels the network has its own stem,
  which reduces the resolution before anything else happens, and the views are blurred.
- **Catalogue**: ``ssl-zoo tasks``, the whole command, against the number of installed distributions that
  bring a task each; and the bookkeeping of a comparison per cell: opening it, reading the progress,
  checking and writing its files, and its table.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch

mpl.use("agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ssl_zoo.comparison.api import open_sweep
from ssl_zoo.comparison.outcomes import sweep_table
from ssl_zoo.config.load import dump_config, load_config
from ssl_zoo.config.schema import DataConfig, RunConfig
from ssl_zoo.data import ArraySplit, DataSet
from ssl_zoo.data.assemble import assemble
from ssl_zoo.evaluation import Features
from ssl_zoo.evaluation.knn import knn_accuracy
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.device import Device
from ssl_zoo.training import Trainer
from ssl_zoo.training.batch import Batch
from ssl_zoo.views import Rng

CPU = torch.device("cpu")
CLASSES = 10
QUERIES, WIDTH = 1000, 64

Curve = dict[int, float]
"""Seconds by size."""
Panel = dict[str, Curve]


# ---- measuring


def seconds(work: Callable[[], object], max_repeats: int = 7, enough: float = 2.0) -> float:
    """Return the median time of some work, repeated until it has taken `enough` seconds in all."""
    times: list[float] = []
    while len(times) < max_repeats and sum(times) < enough:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def note(panel: Panel, name: str, size: int, value: float) -> None:
    """Record and print a figure."""
    panel.setdefault(name, {})[size] = value
    print(f"  {size:>9,}  {name}: {value:.3g} s", flush=True)


def part(count: int, side: int) -> ArraySplit:
    """Make `count` random images with random labels."""
    images = torch.randint(256, (count, 1, side, side), dtype=torch.uint8)
    return ArraySplit(images, torch.randint(CLASSES, (count,)))


def data_set(train: ArraySplit, side: int) -> DataSet:
    """Make a data set of its parts, as a source does."""
    config = DataConfig(source="random", image_size=side)
    return assemble("random", config, CPU, size=side, train=train, test=part(QUERIES, side))


def config_of(batch_size: int, side: int) -> RunConfig:
    """Return the configuration of SimCLR with a small backbone."""
    return load_config(
        overrides={
            "task.name": "simclr",
            "data.source": "random",
            "data.image_size": side,
            "backbone.name": "test_resnet",
            "train.batch_size": batch_size,
            "train.device": "cpu",
        }
    )


def trainer_of(data: DataSet, batch_size: int, side: int) -> Trainer:
    config = config_of(batch_size, side)
    trainer = Trainer(config, data, Device.choose(config.train))
    trainer.task.train()
    return trainer


def step_seconds(trainer: Trainer) -> float:
    """Return the time of a training step, including gathering its batch from the whole data.

    The order of an epoch is drawn once per epoch, and is measured separately.
    """
    train, generator = trainer.data.train, torch.Generator().manual_seed(0)

    def step() -> None:
        numbers = torch.randint(len(train), (trainer.config.train.batch_size,), generator=generator)
        trainer.train_step([Batch(train.batch(numbers), numbers)])

    step()
    return seconds(step)


def views_seconds(trainer: Trainer) -> float:
    """Return the time of the views of one batch."""
    size = trainer.config.train.batch_size
    batch = trainer.data.train.batch(torch.arange(size))
    return seconds(lambda: trainer.task.views(batch, Rng(0)), enough=1.0)


# ---- the four panels


def against_data(sizes: Iterable[int], side: int = 16, batch_size: int = 256) -> tuple[Panel, Curve]:
    """Measure seconds per image by the number of images, and the bytes of a checkpoint."""
    panel: Panel = {}
    written: Curve = {}
    for size in sizes:
        train = part(size, side)
        note(panel, "set-up", size, seconds(partial(data_set, train, side)) / size)
        trainer = trainer_of(data_set(train, side), batch_size, side)
        note(panel, "order and batches", size, seconds(partial(_drain, trainer)) / size)
        note(panel, "training", size, step_seconds(trainer) / batch_size)
        with tempfile.TemporaryDirectory() as folder:
            run = Run(folder)

            def save(run: Run = run, trainer: Trainer = trainer) -> None:
                run.checkpoints.save({**trainer.state_dict(), "metrics_bytes": 0})

            note(panel, "checkpoint", size, seconds(save) / size)
            written[size] = run.checkpoints.file.stat().st_size
        del trainer, train
        features = random_features(size)
        taken = seconds(partial(knn_accuracy, features), max_repeats=3)
        note(panel, "kNN of 1,000", size, taken / size)
    return panel, written


def _drain(trainer: Trainer) -> None:
    for _ in trainer.epoch_batches():
        pass


def random_features(bank: int) -> Features:
    """Make random features; the cost of kNN does not depend on their values."""
    labels = [torch.randint(CLASSES, (n,)) for n in (bank, QUERIES)]
    bank_features, queries = torch.randn(bank, WIDTH), torch.randn(QUERIES, WIDTH)
    return Features(bank_features, labels[0], queries, labels[1], CLASSES)


def note_step(panel: Panel, at: int, batch_size: int, side: int) -> None:
    """Record the seconds per image of a step, and of its views."""
    trainer = trainer_of(data_set(part(2 * batch_size, side), side), batch_size, side)
    note(panel, "training", at, step_seconds(trainer) / batch_size)
    note(panel, "views", at, views_seconds(trainer) / batch_size)


def against_batch(sizes: Iterable[int], side: int = 16) -> Panel:
    """Measure seconds per image by the size of the batch."""
    panel: Panel = {}
    for size in sizes:
        note_step(panel, size, size, side)
    return panel


def against_side(sides: Iterable[int], batch_size: int = 32) -> Panel:
    """Measure seconds per image by the side of the image."""
    panel: Panel = {}
    for side in sides:
        note_step(panel, side, batch_size, side)
    return panel


def against_number(numbers: Iterable[int]) -> Panel:
    """Measure `ssl-zoo tasks` by installed tasks, and a comparison's bookkeeping by cells."""
    panel: Panel = {}
    for number in numbers:
        with tempfile.TemporaryDirectory() as folder:
            install_tasks(Path(folder), number)
            note(panel, "ssl-zoo tasks", number, seconds(partial(list_tasks, folder), max_repeats=3))
        with tempfile.TemporaryDirectory() as folder:
            pretend_done(Path(folder), number)
            taken = seconds(partial(keep_books, Path(folder), number), max_repeats=3)
            note(panel, "comparison, a cell", number, taken / number)
    return panel


def install_tasks(folder: Path, number: int) -> None:
    """Put distributions into a folder, as pip leaves them, each with its own task."""
    for i in range(number):
        name = f"zoo_of_{i:04}"
        about = folder / f"{name}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[ssl_zoo]\ntask-{i:04} = {name}:Guess\n")
        (folder / f"{name}.py").write_text(TASK.format(i=i))


TASK = '''"""A task."""

import torch
from torch import nn

from ssl_zoo.task import Losses, Task


class Guess(Task):
    """A task that guesses the number {i}."""

    name = "task-{i:04}"
    paper = "nobody 2020"

    def __init__(self, encoder, options, spec):
        super().__init__(encoder, options, spec)
        self.head = nn.Linear(encoder.width, 1)

    def views(self, batch, rng):
        return (self.spec.prepare(batch),)

    def loss(self, views):
        return Losses((self.head(self.encoder(views[0])) - {i}).square().mean())
'''


def list_tasks(folder: str) -> None:
    """Run ``ssl-zoo tasks`` where a folder's distributions are installed too."""
    command = [sys.executable, "-m", "ssl_zoo", "tasks"]
    path = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.DEVNULL, check=True
    )


def comparison(folder: Path, cells: int) -> Any:
    """Open a comparison of one task with `cells` seeds."""
    return open_sweep(
        out=folder, tasks=["simclr"], seeds=cells, baselines=[], protocols=["knn"], train={"epochs": 1}
    )


def pretend_done(folder: Path, cells: int) -> None:
    """Write into each cell's folder the files that a finished one has."""
    for cell in comparison(folder, cells).cells:
        cell.path.mkdir()
        run = Run(cell.path)
        run.config_file.write_text(dump_config(cell.config))
        results = {
            "cell": {"row": cell.row, "seed": cell.seed, "protocols": ["knn"], "seconds": 1.0},
            "scores": {cell.row: {"knn": 80 + cell.seed % 7}},
            "steps": 100,
            "images": 25600,
            "seconds": 60.0,
            "images_per_second": 400.0,
            "needs_labels": False,
            "device": "cpu",
            "precision": "fp32",
        }
        run.results_file.write_text(json.dumps(results))


def keep_books(folder: Path, cells: int) -> None:
    """Do the work of a comparison except that of its cells."""
    sweep = comparison(folder, cells)
    sweep.write()
    assert not sweep.todo()
    sweep_table(sweep)


# ---- the figure

INK, GRID = "#333333", "#e4e4e4"
COLOURS = ("#1f5fa8", "#c8553d", "#3a8f5c", "#8a6fb0", "#b08a1e")


def draw(panels: dict[str, Panel], checkpoint_bytes: Curve, file: Path) -> None:
    """Draw four panels, each line with its name at its end."""
    megabytes = max(checkpoint_bytes.values()) / 1e6
    called = {"checkpoint": f"checkpoint, {megabytes:.1f} MB"}
    data = {called.get(name, name): curve for name, curve in panels["data"].items()}
    side = "side of the image [pixels]; full resolution within up to 64"
    settings: dict[Any, Any] = {
        "font.size": 9,
        "axes.edgecolor": "#999999",
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    with plt.rc_context(settings):
        figure, axes = plt.subplots(
            2, 2, figsize=(10, 7.2), layout=ConstrainedLayoutEngine(h_pad=0.15, w_pad=0.1)
        )
        per_image = "time per image [µs]"
        _panel(axes[0, 0], data, "Data", "images in the data set", per_image, 1e6)
        _panel(axes[0, 1], panels["batch"], "Batch", "images in a batch", per_image, 1e6)
        _panel(axes[1, 0], panels["image"], "Image", side, per_image, 1e6)
        _panel(axes[1, 1], panels["number"], "Catalogue", "tasks installed, or cells", "time [s]", 1)
        figure.savefig(file, dpi=150)
        plt.close(figure)


def _panel(axes: Axes, panel: Panel, title: str, x: str, y: str, scale: float) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title(title, loc="left", fontweight="bold", color=INK)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    sizes = sorted({size for curve in panel.values() for size in curve})
    for curve, colour in zip(panel.values(), COLOURS, strict=False):
        values = [value * scale for value in curve.values()]
        axes.plot(list(curve), values, color=colour, linewidth=1.6, marker="o", markersize=3.5)
    axes.set_xlim(sizes[0] / 1.2, sizes[-1] * 1.2)
    axes.set_xticks(sizes, [_short(size) for size in sizes])
    axes.minorticks_off()
    _room(axes, panel, scale)
    _names(axes, panel, scale)


def _room(axes: Axes, panel: Panel, scale: float) -> None:
    """Set the limits to whole decades, at least two, so that small growth looks small."""
    values = [value * scale for curve in panel.values() for value in curve.values()]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    axes.set_ylim(10.0 ** min(low, high - 2), 10.0**high)


def _names(axes: Axes, panel: Panel, scale: float) -> None:
    """Write each line's name beside its right end, moved apart where two would meet."""
    bottom, top = map(math.log10, axes.get_ylim())
    ends = []
    for (name, curve), colour in zip(panel.items(), COLOURS, strict=False):
        ends.append((math.log10(list(curve.values())[-1] * scale), name, colour))
    place = bottom
    for height, name, colour in sorted(ends):
        place = max(place, height)
        axes.annotate(
            name,
            (1, (place - bottom) / (top - bottom)),
            xycoords="axes fraction",
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            annotation_clip=False,
        )
        place += 0.06 * (top - bottom)


def _short(size: int) -> str:
    if size >= 1_000_000:
        return f"{size // 1_000_000} M"
    return f"{size // 1000} k" if size >= 10_000 or size % 1000 == 0 else f"{size}"


# ---- all together


def measure(quick: bool) -> tuple[dict[str, Panel], Curve]:
    """Measure every panel, and the bytes of a checkpoint by the size of the data."""
    torch.manual_seed(0)
    parts: dict[str, Panel] = {}
    print("data")
    sizes = (1_000, 10_000) if quick else (1_000, 10_000, 100_000, 1_000_000)
    parts["data"], written = against_data(sizes)
    print("batch")
    parts["batch"] = against_batch((32, 128) if quick else (32, 128, 512, 1024, 2048, 4096))
    print("image")
    parts["image"] = against_side((16, 32) if quick else (16, 32, 64, 128, 224))
    print("number")
    parts["number"] = against_number((1, 10) if quick else (1, 10, 100, 1000))
    return parts, written


def main() -> None:
    parser = argparse.ArgumentParser(description="How cost grows with sizes and numbers.")
    parser.add_argument("-o", "--out", type=Path, default=Path("growth.png"), help="the figure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures as numbers")
    parser.add_argument("--quick", action="store_true", help="small sizes only")
    args = parser.parse_args()
    start = time.perf_counter()
    panels, written = measure(args.quick)
    draw(panels, written, args.out)
    if args.json is not None:
        results = {
            "seconds": panels,
            "checkpoint_bytes": written,
            "threads": torch.get_num_threads(),
            "versions": {name: metadata.version(name) for name in ("ssl-zoo", "torch", "timm")},
        }
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    print(f"{args.out}, after {(time.perf_counter() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
