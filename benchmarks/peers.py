"""Speed and time to accuracy of SimCLR in ssl-zoo, lightly and torchvision.

    pip install 'ssl-zoo[bench]'
    python benchmarks/peers.py                       # Fashion-MNIST; --data digits for a quick try

All contestants have the same data, initial weights, batch size, widths of the head, temperature,
strengths of the augmentation, optimiser (timm's), learning-rate schedule, threads and cores:

- **ssl-zoo**: `Trainer` as ``ssl-zoo train`` runs it: views of the whole batch at once on the device,
  the precision that follows from the hardware, channels last, one pass of both views.
- **lightly** as its documentation shows SimCLR: `SimCLRTransform` on PIL images in a `DataLoader` of two
  workers, `SimCLRProjectionHead`, `NTXentLoss`, one pass for each view, float32.
- **lightly, bf16**: the same under autocast to bfloat16, with channels last.
- **torchvision**: transforms v2 in a `DataLoader` of two workers, NT-Xent in five lines, a plain loop.
- **torchvision, bf16**: likewise.

These differences remain, some to a peer's advantage:

- ssl-zoo normalises a batch of both views together, lightly each view alone, as its example does.
- Gray images go to lightly as PIL images of mode "L", which all its steps take; transforms v2 get what
  is faster for them, tensors for gray and PIL images for colour.
- Labels are not loaded. The workers stay alive, and their start is not counted; and for the time to
  accuracy, the batches that they have made by then are not counted either.
- ssl-zoo checks each loss and reads the metrics every `log_every` steps, which the peers' loops do not.

**Throughput**: contestants in turn, in another order each round. **Time to accuracy**: each trains
`--epochs`, and its encoder is evaluated (weighted kNN on the test split). Then ssl-zoo trains again,
with its schedule spread over the minutes of the slowest peer, until it has reached the accuracy of every
peer; it is evaluated at every tenth of an epoch. As it stops early, its learning rate has not decreased
as far as the peers'. In return it is evaluated several times, which favours it if the test split is
small. The time of evaluation is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.optim import create_optimizer_v2, get_optimizer_class
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from ssl_zoo.backbones.build import build_encoder
from ssl_zoo.config.load import SettingsSource, load_config
from ssl_zoo.config.schema import RunConfig
from ssl_zoo.config.yaml import read_yaml
from ssl_zoo.data import DataSet
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation import Subject, score
from ssl_zoo.nn import mlp
from ssl_zoo.runs.build import build_data
from ssl_zoo.runtime.device import Device
from ssl_zoo.task import Encoder
from ssl_zoo.training import Trainer
from ssl_zoo.training.budget import Budget
from ssl_zoo.training.optimizer import FUSED, Schedules, learning_rate
from ssl_zoo.views import ColorJitter, GaussianBlur, RandomGrayscale, RandomResizedCrop
from ssl_zoo.views.functional import default_kernel_size

OURS = "ssl-zoo"
LIGHTLY, LIGHTLY_BF16 = "lightly", "lightly, bf16"
TORCHVISION, TORCHVISION_BF16 = "torchvision", "torchvision, bf16"
PEERS = (LIGHTLY, LIGHTLY_BF16, TORCHVISION, TORCHVISION_BF16)

WORKERS = 2
AHEAD = 2
"""Batches that each worker makes ahead, as is `DataLoader`'s default."""

Transform = Callable[[Any], Sequence[Tensor]]
"""An image to its two views."""


DEFAULTS = {"train": {"optimizer": "sgd", "lr": 0.06, "momentum": 0.9, "weight_decay": 1e-4}}
"""The rate is that of lightly's example, and of ssl-zoo where a task has no recipe."""


# ---- shared settings


@dataclass(frozen=True)
class Views:
    """SimCLR's augmentation in numbers, as ssl-zoo's task has resolved it for the data."""

    size: int
    scale: tuple[float, float]
    flip: float
    jitter: tuple[float, float, float, float]
    jitter_p: float
    grayscale_p: float
    blur_p: float
    sigma: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, task: Any) -> Views:
        """Return the augmentation of a SimCLR task."""
        ((_, view),) = task.pair.crops
        parts = {type(part): part for part in view.transforms}
        crop, jitter = parts[RandomResizedCrop], parts[ColorJitter]
        blur, spec = parts[GaussianBlur], task.spec
        return cls(
            size=crop.size,
            scale=crop.scale,
            flip=crop.flip,
            jitter=(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue),
            jitter_p=jitter.p,
            grayscale_p=parts[RandomGrayscale].p,
            blur_p=blur.p,
            sigma=blur.sigma,
            mean=spec.mean,
            std=spec.std,
        )


@dataclass(frozen=True)
class Setting:
    """The settings that the contestants share.

    Attributes:
        config: the settings of ssl-zoo's run.
        data: the data.
        device: the device and the precision of ssl-zoo.
        views: the augmentation.
        temperature: τ.
        widths: the widths of the head, including its input.
    """

    config: RunConfig
    data: DataSet
    device: Device
    views: Views
    temperature: float
    widths: tuple[int, int, int]

    @classmethod
    def of(cls, config: RunConfig) -> Setting:
        """Load the data, and read off the rest from the task that ssl-zoo builds for it."""
        device = Device.choose(config.train)
        trainer = Trainer(config, build_data(config, device.device), device)
        task: Any = trainer.task
        widths = (task.encoder.width, task.options.hidden or task.encoder.width, task.options.out)
        return cls(config, trainer.data, device, Views.of(task), task.temperature, widths)

    def lasting(self, **budget: float) -> RunConfig:
        """Return the settings with another budget, such as ``minutes=2``."""
        budgets = {"epochs": None, "samples": None, "minutes": None, **budget}
        return self.config.model_copy(update={"train": self.config.train.model_copy(update=budgets)})


class Contestant(Protocol):
    """One way to train."""

    encoder: Encoder

    def step(self) -> None:
        """One optimiser step on the next batch."""


class SslZoo:
    """ssl-zoo's own trainer."""

    def __init__(self, setting: Setting, config: RunConfig) -> None:
        self.trainer = Trainer(config, setting.data, setting.device)
        self.trainer.task.train()
        self.encoder = self.trainer.task.encoder
        self.steps = self.trainer.budget.steps or 0  # of a budget in minutes not known
        self._endless = self._batches()

    def _batches(self) -> Iterator[None]:
        while True:
            for batches in self.trainer.epoch_batches():
                losses = self.trainer.train_step(batches)
                if self.trainer.step % self.trainer.config.train.log_every == 0:
                    self.trainer.metrics(losses)
                yield

    def step(self) -> None:
        """Make one optimiser step, with the handling of losses in `ssl_zoo.train`."""
        next(self._endless)


# ---- the peers


class Pictures(Dataset[Sequence[Tensor]]):
    """Views of PIL images, made one by one from images in memory."""

    def __init__(self, images: Tensor, transform: Transform) -> None:
        # [N, H, W] for gray ones, which PIL then has as "L", else [N, H, W, 3]
        channels_last = images.permute(0, 2, 3, 1)
        self.arrays = np.ascontiguousarray(
            channels_last.squeeze(3) if images.shape[1] == 1 else channels_last
        )
        self.transform = transform

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int) -> Sequence[Tensor]:
        return self.transform(Image.fromarray(self.arrays[index]))


class Tensors(Dataset[Sequence[Tensor]]):
    """Views of tensors uint8 [C, H, W]."""

    def __init__(self, images: Tensor, transform: Transform) -> None:
        self.images = images
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sequence[Tensor]:
        return self.transform(self.images[index])


class Peer:
    """A plain loop around a `DataLoader`, as the peers' examples have it."""

    def __init__(
        self,
        setting: Setting,
        dataset: Dataset[Sequence[Tensor]],
        head: nn.Module,
        criterion: Callable[[Tensor, Tensor], Tensor],
        device: Device,
        epochs: float,
        both_at_once: bool,
    ) -> None:
        """Build it; the workers start, so that their start is not counted later.

        Args:
            setting: the shared settings.
            dataset: the views.
            head: the head on the encoder's features.
            criterion: the loss of the embeddings of both views.
            device: where and how to compute.
            epochs: the length of the learning-rate schedule.
            both_at_once: whether both views go through the network as one batch.
        """
        train = setting.config.train
        self.encoder = build_encoder(setting.config.backbone, setting.data.spec, train.seed)
        self.network = device.place(nn.Sequential(self.encoder, head)).train()
        self.criterion = criterion
        self.device = device
        self.both_at_once = both_at_once
        self.optimizer = create_optimizer_v2(
            self.network,
            train.optimizer,
            lr=learning_rate(train, train.batch_size),
            weight_decay=train.weight_decay,
            momentum=train.momentum,
            **(
                {"fused": True}
                if get_optimizer_class(train.optimizer, bind_defaults=False) in FUSED
                else {}
            ),
            **train.optimizer_options,
        )
        self.loader = DataLoader(
            dataset,
            train.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=WORKERS,
            prefetch_factor=AHEAD,
            persistent_workers=True,
            pin_memory=device.device.type == "cuda",
        )
        self.steps = max(1, round(epochs * len(self.loader)))
        budget = Budget(train.batch_size, len(self.loader), self.steps, None, warmup_of=self.steps)
        for group in self.optimizer.param_groups:
            group.setdefault("lr_scale", 1.0)
        self.schedules = Schedules(self.optimizer, train, budget)
        self.done = 0
        self.total_loss = torch.zeros((), device=device.device)
        self._batches: Iterator[Sequence[Tensor]] | None = iter(self.loader)

    def _batch(self) -> tuple[Tensor, Tensor]:
        assert self._batches is not None
        views = next(self._batches, None)
        if views is None:
            self._batches = iter(self.loader)
            views = next(self._batches)
        x0, x1 = (self.device.to_format(v.to(self.device.device, non_blocking=True)) for v in views)
        return x0, x1

    def step(self) -> None:
        """One optimiser step on the next batch of the loader."""
        x0, x1 = self._batch()
        self.schedules.follow(min(1.0, self.done / self.steps))
        with self.device.autocast():
            if self.both_at_once:
                z0, z1 = self.network(torch.cat([x0, x1])).chunk(2)
            else:
                z0, z1 = self.network(x0), self.network(x1)
            loss = self.criterion(z0, z1)
        self.total_loss += loss.detach()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1

    def close(self) -> None:
        """End the workers, as a `DataLoader` does once nothing refers to its iterator."""
        self._batches = None
        del self.loader


def plain_nt_xent(temperature: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return NT-Xent, written in the straightforward way."""

    def loss(z0: Tensor, z1: Tensor) -> Tensor:
        z = F.normalize(torch.cat([z0, z1]).float(), dim=1)
        logits = z @ z.T / temperature
        logits = logits.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -torch.inf)
        positive = torch.arange(len(z), device=z.device).roll(len(z0))
        return F.cross_entropy(logits, positive)

    return loss


def lightly_transform(views: Views) -> Transform:
    """Build the augmentation of lightly's own parts, with ssl-zoo's parameters."""
    from lightly.transforms import SimCLRTransform

    if views.scale[1] != 1:
        raise UserError("task.crop_scale: lightly's crops reach to the whole image; let it end with 1")
    brightness, contrast, saturation, hue = views.jitter
    transform: Transform = SimCLRTransform(
        input_size=views.size,
        cj_prob=views.jitter_p,
        cj_strength=1.0,
        cj_bright=brightness,
        cj_contrast=contrast,
        cj_sat=saturation,
        cj_hue=hue,
        min_scale=views.scale[0],
        random_gray_scale=views.grayscale_p,
        gaussian_blur=views.blur_p,
        sigmas=views.sigma,
        hf_prob=views.flip,
        normalize={"mean": list(views.mean), "std": list(views.std)},
    )
    return transform


@dataclass(frozen=True)
class Twice:
    """Two views of one distribution."""

    transform: Callable[[Any], Tensor]

    def __call__(self, image: Any) -> Sequence[Tensor]:
        """Return the two views of an image."""
        return [self.transform(image), self.transform(image)]


def torchvision_transform(views: Views, pictures: bool) -> Transform:
    """Build the same augmentation of transforms v2, without steps of probability 0."""
    blur = v2.RandomApply([v2.GaussianBlur(default_kernel_size(views.size), views.sigma)], views.blur_p)
    steps = [
        v2.RandomResizedCrop(views.size, scale=views.scale, antialias=True),
        *([v2.RandomHorizontalFlip(views.flip)] if views.flip else []),
        v2.RandomApply([v2.ColorJitter(*views.jitter)], views.jitter_p),
        *([v2.RandomGrayscale(views.grayscale_p)] if views.grayscale_p else []),
        *([blur] if views.blur_p else []),
        *([v2.ToImage()] if pictures else []),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(list(views.mean), list(views.std)),
    ]
    return Twice(v2.Compose(steps))


def build_peer(name: str, setting: Setting, epochs: float) -> Peer:
    """Return a peer with a new network and started workers."""
    torch.manual_seed(setting.config.train.seed)
    train = setting.data.train
    images = train.batch(torch.arange(len(train))).cpu()
    place = setting.device.device
    fast = name in (LIGHTLY_BF16, TORCHVISION_BF16)
    device = Device(place, "bf16", True) if fast else Device(place, "fp32", False)
    if name in (LIGHTLY, LIGHTLY_BF16):
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead

        return Peer(
            setting,
            Pictures(images, lightly_transform(setting.views)),
            SimCLRProjectionHead(*setting.widths),
            NTXentLoss(temperature=setting.temperature),
            device,
            epochs,
            both_at_once=False,
        )
    pictures = images.shape[1] == 3
    transform = torchvision_transform(setting.views, pictures)
    dataset = Pictures(images, transform) if pictures else Tensors(images, transform)
    criterion = plain_nt_xent(setting.temperature)
    return Peer(setting, dataset, mlp(setting.widths), criterion, device, epochs, both_at_once=True)


# ---- measuring


def wait_for(device: torch.device) -> None:
    """Wait until a device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(contestant: Contestant, steps: int, device: torch.device) -> float:
    """Return the time of `steps` steps."""
    wait_for(device)
    start = time.perf_counter()
    for _ in range(steps):
        contestant.step()
    wait_for(device)
    return time.perf_counter() - start


def throughput(
    contestants: dict[str, Contestant], setting: Setting, rounds: int, steps: int, warmup: int
) -> dict[str, list[float]]:
    """Images per second of each contestant in each round."""
    device, batch = setting.device.device, setting.config.train.batch_size
    names = list(contestants)
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            contestant = contestants[name]
            seconds_of(contestant, warmup, device)
            seconds = seconds_of(contestant, steps, device)
            speeds[name].append(batch * steps / seconds)
            if isinstance(contestant, Peer):
                # Its workers still prepare some batches, which must not slow the next contestant down;
                # the warm-up consumes them later, so they are no head start.
                time.sleep((WORKERS * AHEAD + 1) * seconds / steps)
        speeds_shown = ", ".join(f"{name} {values[-1]:,.0f}" for name, values in speeds.items())
        print(f"round {number + 1} of {rounds}, images/s: {speeds_shown}", flush=True)
    return speeds


def knn(encoder: Encoder, setting: Setting) -> float:
    """ssl-zoo's weighted kNN on the test split, of the encoder's features, in percent."""
    subject = Subject.of_encoder(encoder, setting.data, setting.device, "encoder")
    return float(score(subject, ["knn"])["knn"])


@dataclass
class Mark:
    """The result of a peer, and the time in which ssl-zoo reached the same accuracy.

    Attributes:
        seconds: the seconds of the peer's training.
        accuracy: in percent.
        ours: seconds of ssl-zoo's training until it was as good; None if it never was.
    """

    seconds: float
    accuracy: float
    ours: float | None = None


def train(name: str, setting: Setting, epochs: float) -> Mark:
    """Train a contestant for `epochs` epochs, and evaluate it."""
    contestant: SslZoo | Peer
    if name == OURS:
        contestant = SslZoo(setting, setting.lasting(epochs=epochs))
    else:
        contestant = build_peer(name, setting, epochs)
    seconds = seconds_of(contestant, contestant.steps, setting.device.device)
    if isinstance(contestant, Peer):
        contestant.close()
    mark = Mark(seconds, knn(contestant.encoder, setting))
    print(f"{name}: {mark.accuracy:.1f} % in {seconds / 60:.2f} minutes", flush=True)
    return mark


def race(setting: Setting, marks: dict[str, Mark], every: float) -> list[tuple[float, float]]:
    """Train ssl-zoo until it is as good as each peer, noting when.

    Args:
        setting: the shared settings.
        marks: the results of the peers.
        every: epochs between evaluations.

    Returns:
        Seconds of training and accuracy at each evaluation.
    """
    minutes = max(mark.seconds for mark in marks.values()) / 60
    ours = SslZoo(setting, setting.lasting(minutes=minutes))
    trainer, device = ours.trainer, setting.device.device
    interval = max(1, round(every * trainer.budget.steps_per_epoch))
    curve: list[tuple[float, float]] = []
    spent, start = 0.0, time.perf_counter()
    while trainer.progress < 1 and any(mark.ours is None for mark in marks.values()):
        ours.step()
        trainer.seconds = spent + time.perf_counter() - start  # the schedule follows it
        if trainer.step % interval and trainer.progress < 1:
            continue
        wait_for(device)
        trainer.seconds = spent = spent + time.perf_counter() - start
        accuracy = knn(ours.encoder, setting)
        curve.append((spent, accuracy))
        print(f"{OURS}: {accuracy:.1f} % in {spent / 60:.2f} minutes", flush=True)
        for mark in marks.values():
            if mark.ours is None and accuracy >= mark.accuracy:
                mark.ours = spent
        start = time.perf_counter()
    return curve


# ---- printing


def ratios(speeds: dict[str, list[float]]) -> dict[str, list[float]]:
    """Return the speed of ssl-zoo relative to each peer, by round."""
    return {
        name: [a / b for a, b in zip(speeds[OURS], values, strict=True)]
        for name, values in speeds.items()
        if name != OURS
    }


def table(speeds: dict[str, list[float]], marks: dict[str, Mark], epochs: float) -> str:
    """Return all results as one table in Markdown."""
    heads = ["", "images/s", "ssl-zoo is faster: median (min to max)"]
    if marks:
        heads += [f"minutes for {epochs:g} epochs", "kNN %", "minutes of ssl-zoo's to as much", "ratio"]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    faster = ratios(speeds)
    for name, values in speeds.items():
        row = [name, f"{statistics.median(values):,.0f}", ""]
        if name in faster:
            values = faster[name]
            row[2] = f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
        if marks:
            row += [""] * 4
        if name in marks:
            mark = marks[name]
            row[3:5] = [f"{mark.seconds / 60:.2f}", f"{mark.accuracy:.1f}"]
            if name != OURS:
                row[5:] = ["not reached", ""]
            if mark.ours is not None:
                row[5:] = [f"{mark.ours / 60:.2f}", f"{mark.seconds / mark.ours:.1f}"]
        lines.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def conditions(setting: Setting, peers: Sequence[str]) -> dict[str, Any]:
    """Return the versions and settings of the measurement."""
    packages = ["ssl-zoo", "torch", "torchvision", "timm"]
    packages += ["lightly"] if any(name.startswith("lightly") for name in peers) else []
    return {
        "data": setting.data.name,
        "images": len(setting.data.train),
        "backbone": setting.config.backbone.model_dump(),
        "train": setting.config.train.model_dump(),
        "views": asdict(setting.views),
        "temperature": setting.temperature,
        "head": setting.widths,
        "device": str(setting.device.device),
        "precision": setting.device.precision,
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "workers": WORKERS,
        "versions": {package: metadata.version(package) for package in packages},
    }


def read_settings(args: argparse.Namespace) -> RunConfig:
    """ssl-zoo's configuration; of a file the sections task and train alone, the same for everybody."""
    base = [SettingsSource(DEFAULTS, "the benchmark's defaults")]
    if args.config is not None:
        chosen = {k: v for k, v in read_yaml(args.config).items() if k in ("task", "train")}
        base.append(SettingsSource(chosen, f"--config {args.config}"))
    common = {"task.name": "simclr", "data.source": args.data, "backbone.name": args.backbone}
    common |= {"train.batch_size": args.batch_size, "train.epochs": 100.0, "train.seed": args.seed}
    config = load_config(base=base, overrides=common, sets=args.set)
    for name, value in (("accumulate", 1), ("clip_norm", None), ("ema", None)):
        if getattr(config.train, name) != value:
            raise UserError(f"train.{name}: the peers' loops have no such thing; leave it out")
    return config


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="SimCLR with ssl-zoo, lightly and torchvision: throughput, and time to accuracy."
    )
    parser.add_argument("--data", default="fashion-mnist", help="as in ssl-zoo train")
    parser.add_argument("--backbone", default="test_resnet", help="as in ssl-zoo train")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--config", type=Path, help="YAML; its sections task and train, for everybody")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="NAME",
                        help=f"some of: {'; '.join(PEERS)}")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="of throughput; 0 for none")
    parser.add_argument("--steps", type=int, default=30, help="optimiser steps in a round")
    parser.add_argument("--warmup", type=int, default=8, help="steps before them, not counted")
    parser.add_argument("--epochs", type=float, default=1.0, help="of each peer; 0: throughput alone")
    parser.add_argument("--every", type=float, default=0.1, help="epochs between ssl-zoo's evaluations")
    parser.add_argument("--threads", type=int, help="of the main process; none: PyTorch's choice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    args = parser.parse_args()
    if args.warmup < WORKERS * AHEAD:
        parser.error(f"--warmup: at least {WORKERS * AHEAD}, which the workers have made in advance")
    return args


def lightly_is_here() -> bool:
    try:
        metadata.version("lightly")
    except metadata.PackageNotFoundError:
        return False
    return True


def main() -> None:
    args = arguments()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    peers = args.peers
    if not lightly_is_here() and any(name.startswith("lightly") for name in peers):
        print("lightly is not installed, so it is left out: pip install 'ssl-zoo[bench]'")
        peers = [name for name in peers if not name.startswith("lightly")]
    try:
        setting = Setting.of(read_settings(args))
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    made_with = conditions(setting, peers)
    print(
        f"{made_with['data']}, {made_with['images']:,} images, {args.backbone}, batches of "
        f"{args.batch_size}, on {made_with['device']} in {made_with['precision']}, "
        f"{made_with['threads']} threads, {made_with['cores']} cores"
    )

    speeds: dict[str, list[float]] = {}
    marks: dict[str, Mark] = {}
    curve: list[tuple[float, float]] = []
    # What `ssl_zoo.train` sets in the process while it trains helps the peers as well.
    with setting.device.computing():
        if args.rounds:
            contestants: dict[str, Contestant] = {OURS: SslZoo(setting, setting.config)}
            contestants |= {
                name: build_peer(name, setting, setting.config.train.epochs or 0.0) for name in peers
            }
            speeds = throughput(contestants, setting, args.rounds, args.steps, args.warmup)
            for contestant in contestants.values():
                if isinstance(contestant, Peer):
                    contestant.close()
        if args.epochs and peers and not setting.data.labelled:
            print("the data has no labels, so there is no accuracy")
        elif args.epochs and peers:
            marks = {name: train(name, setting, args.epochs) for name in (OURS, *peers)}
            curve = race(setting, {name: marks[name] for name in peers}, args.every)

    if speeds:
        print(f"\n{table(speeds, marks, args.epochs)}")
    else:
        for name, mark in marks.items():
            ours = "not reached" if mark.ours is None else f"{mark.ours / 60:.2f} minutes"
            print(f"{name}: {mark.accuracy:.1f} % in {mark.seconds / 60:.2f} minutes; {OURS}: {ours}")
    if args.json is not None:
        results = {
            "conditions": made_with,
            "images_per_second": speeds,
            "ratios": ratios(speeds) if speeds else {},
            "epochs": args.epochs,
            "marks": {name: asdict(mark) for name, mark in marks.items()},
            "curve": curve,
        }
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
