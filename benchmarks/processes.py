"""The cost of several processes apart from the network: a table of times.

    python benchmarks/processes.py                                    # one, for comparison
    torchrun --nproc-per-node 2 benchmarks/processes.py               # two on this machine, over gloo

Every part is ssl-zoo's own code, called as in training, on the CPU, with random gray images of 28×28
pixels and a joint batch that the processes share. The times are medians over `--repeats` of the slowest
process, with a common start:

- `gather`: `distributed.all_gather` of the embeddings of the share, and its gradient.
- `order`: an epoch's order and this process's batches (`Trainer.epoch_batches`), without a network; per
  step.
- `shuffle`: MoCo's shuffling of keys (`MoCo.keys`) with a key encoder that does nothing: the views of
  all processes are gathered, and the keys are gathered and put back in order.
- `views`: SimCLR's two views of the share; per image of the share. The random numbers are drawn for the
  joint batch, so their cost grows with the number of processes.
- `checkpoint`: one written by the first process, for which the others wait.
- `gradient`: the gradients of a network of 1.2 M parameters (the narrow ResNet-10) and of one of 11.2 M
  (ResNet-18) summed over processes, in the buckets of `DistributedDataParallel`, with no backward pass
  to hide behind.

A single process does not communicate: `gather` and `shuffle` then measure the work on the tensors only,
and `gradient` measures nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ssl_zoo import distributed
from ssl_zoo.config.load import load_config
from ssl_zoo.config.schema import RunConfig
from ssl_zoo.data import ArraySplit, DataSet
from ssl_zoo.errors import UserError
from ssl_zoo.runs.build import build_task
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.device import Device
from ssl_zoo.spec import ImageSpec
from ssl_zoo.training import Trainer
from ssl_zoo.views import Rng

SIDE, WIDTH = 28, 128
NETWORKS = {"1.2 M": 1_240_064, "11.2 M": 11_176_512}
"""Parameters of the default network, the narrow ResNet-10, and of ResNet-18."""
BUCKET = 25 * 2**20 // 4
"""Floats in a bucket of `DistributedDataParallel`."""


@dataclass(frozen=True)
class Row:
    """A part and its time.

    Attributes:
        part: the name of the part.
        what: a description of the work.
        seconds: the time.
        unit: the unit of work that the time is for.
    """

    part: str
    what: str
    seconds: float
    unit: str


class Keys(nn.Module):
    """A stand-in for a key encoder: pixels as keys, so that no network is measured."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, WIDTH]."""
        return x.flatten(1)[:, :WIDTH]


def slowest(work: Callable[[], object], repeats: int) -> float:
    """Return the median over repeats of the slowest process's time, with a common start."""
    times: list[float] = []
    for number in range(repeats + 1):
        distributed.barrier()
        start = time.perf_counter()
        work()
        (slowest_time,) = distributed.all_reduce_max(time.perf_counter() - start)
        if number:  # the first one meets cold caches
            times.append(slowest_time)
    return statistics.median(times)


def random_data(count: int) -> DataSet:
    """Random images in memory, the same in every process."""
    images = torch.randint(256, (count, 1, SIDE, SIDE), dtype=torch.uint8)
    split = ArraySplit(images, None)
    spec = ImageSpec(channels=1, size=SIDE, mean=(0.5,), std=(0.29,))
    return DataSet("random", spec, split, None, split)


def config_of(task: str, batch_size: int) -> RunConfig:
    return load_config(
        overrides={
            "task.name": task,
            "data.source": "random",
            "train.batch_size": batch_size,
            "train.device": "cpu",
        }
    )


def measure(batch_size: int, images: int, repeats: int) -> list[Row]:
    """Every part in order; all processes take part in all of them."""
    torch.manual_seed(0)
    world, rank = distributed.world_size(), distributed.rank()
    share = batch_size // world
    data = random_data(images)
    config = config_of("simclr", batch_size)
    trainer = Trainer(config, data, Device.choose(config.train))
    raw = data.train.batch(torch.arange(share))
    trainer.train_step(next(trainer.epoch_batches()))  # so that the optimiser has a state to be saved

    rows = [gather(share, repeats), order(trainer, repeats), shuffle(batch_size, data, repeats)]

    def views() -> None:
        trainer.task.views(raw, Rng(0, "cpu", rank, world))

    taken = slowest(views, repeats) / share
    rows.append(Row("views", f"two of each of the share's {share} images", taken, "image"))
    rows.append(checkpoint(trainer, repeats))
    rows += [gradient(name, count, repeats) for name, count in NETWORKS.items()]
    return rows


def gather(share: int, repeats: int) -> Row:
    """Gather the embeddings of all processes."""
    z = torch.randn(share, WIDTH, requires_grad=True)

    def both_ways() -> None:
        z.grad = None
        distributed.all_gather(z).square().sum().backward()

    what = f"embeddings [{share}, {WIDTH}], and their gradient"
    return Row("gather", what, slowest(both_ways, repeats), "step")


def order(trainer: Trainer, repeats: int) -> Row:
    """Draw an epoch's order and read its batches."""

    def epoch() -> None:
        for _ in trainer.epoch_batches():
            pass

    steps = trainer.budget.steps_per_epoch
    what = f"order and batches of {len(trainer.data.train):,} images"
    return Row("order", what, slowest(epoch, min(repeats, 5)) / steps, "step")


def shuffle(batch_size: int, data: DataSet, repeats: int) -> Row:
    """MoCo's shuffling, without its network."""
    moco: Any = build_task(config_of("moco", batch_size), data.spec)
    moco.key_encoder = Keys()
    share = batch_size // distributed.world_size()
    view = torch.randn(share, 1, SIDE, SIDE)
    permutation = torch.randperm(batch_size, generator=torch.Generator().manual_seed(0))
    taken = slowest(lambda: moco.keys(view, permutation), repeats)
    return Row("shuffle", f"MoCo's keys, views {list(view.shape)}", taken, "step")


def checkpoint(trainer: Trainer, repeats: int) -> Row:
    """Save a checkpoint in the first process."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(folder)

        def save() -> None:
            if distributed.rank() == 0:
                run.checkpoints.save(trainer.state_dict())
            distributed.barrier()

        taken = slowest(save, min(repeats, 5))
        # Each process has made a folder, and the first one's alone is written to.
        written = run.checkpoints.file.stat().st_size if distributed.rank() == 0 else 0
    return Row("checkpoint", f"{written / 1e6:.1f} MB, synced to the disk", taken, "checkpoint")


def gradient(name: str, parameters: int, repeats: int) -> Row:
    """Reduce the gradients of a network, bucket by bucket."""
    buckets = torch.zeros(parameters).split(BUCKET)

    def exchange() -> None:
        if distributed.world_size() > 1:
            pending = [dist.all_reduce(bucket, async_op=True) for bucket in buckets]
            for work in pending:
                work.wait()

    taken = slowest(exchange, repeats)
    return Row("gradient", f"{name} parameters summed, {4e-6 * parameters:.1f} MB", taken, "step")


def show(rows: list[Row]) -> str:
    """Return the table as plain text."""
    width = max(len(row.what) for row in rows)
    lines = [f"{'part':<11} {'what':<{width}} {'time':>12}"]
    for row in rows:
        lines.append(f"{row.part:<11} {row.what:<{width}} {1e6 * row.seconds:>9,.1f} µs / {row.unit}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of several processes apart from the network.")
    parser.add_argument("--batch-size", type=int, default=256, help="over all processes")
    parser.add_argument("--images", type=int, default=60_000, help="in the data set")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="FILE", help="the table as data")
    args = parser.parse_args()
    with distributed.processes("cpu"):
        try:
            rows = measure(args.batch_size, args.images, args.repeats)
        except UserError as error:  # a batch that cannot be shared evenly
            raise SystemExit(f"error: {error}") from error
        if distributed.rank() == 0:
            world, threads = distributed.world_size(), torch.get_num_threads()
            print(f"processes {world}, threads of each {threads}, joint batch {args.batch_size}\n")
            print(show(rows))
            if args.json is not None:
                results = {"processes": world, "threads": threads, "rows": [asdict(row) for row in rows]}
                args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
