"""Small tasks that pass every check, and the data that they are checked on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_zoo import Encoder, Field, Losses, Rng, Task, TaskOptions, distributed
from ssl_zoo.nn import FeatureQueue, ema_update, frozen_copy, full_precision, schedule, unsaved
from ssl_zoo.testing import Check, CheckResult, SyntheticImages, task_checks

SLOW = {"small_batch_overfits", "representations_do_not_collapse", "two_processes_are_one"}
"""Slow checks, which run only on the tasks that they should catch."""


class Convolutions(Encoder):
    """Two convolutions."""

    def __init__(self, channels: int, norm: bool) -> None:
        super().__init__()
        self.width = 16
        layers: list[nn.Module] = []
        for inputs in (channels, self.width):
            layers.append(nn.Conv2d(inputs, self.width, 3, stride=2, padding=1))
            layers += [nn.BatchNorm2d(self.width)] if norm else []
            layers.append(nn.ReLU())
        self.body = nn.Sequential(*layers)

    def feature_map(self, x: Tensor) -> Tensor:
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.feature_map(x).mean((2, 3))


@dataclass(frozen=True)
class Small(SyntheticImages):
    """The synthetic images of the suite, for two convolutions."""

    norm: bool = True

    def encoder(self) -> Encoder:
        return Convolutions(self.channels, self.norm)


SMALL = [Small(), Small(channels=1, height=8, width=8), Small(size=17, height=21, width=13)]


def chosen(task: type[Task], *slow: str, **arguments: Any) -> list[Check]:
    """Return the quick checks of a task, and the named slow ones."""
    checks = task_checks(task, **{"data": getattr(task, "checked_on", SMALL), **arguments})
    return [check for check in checks if check.name not in SLOW or check.name in slow]


def outcome(task: type[Task], name: str, **arguments: Any) -> CheckResult:
    """Return the result of one check of a task."""
    return next(check for check in chosen(task, name, **arguments) if check.name == name).outcome()


class Sound(Task):
    """Two shades of an image attract each other, and repel all others of the joint batch."""

    name = "sound"
    recipe = {"train": {"optimizer": "adamw", "lr": 1e-3}}

    class Options(TaskOptions):
        """The options."""

        temperature: float = Field(0.5, gt=0, description="τ")
        shades: tuple[float, float] = Field((0.5, 1.5), description="range of the factor")

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        self.head = nn.Linear(encoder.width, 16)

    def views(self, batch: Tensor, rng: Rng) -> tuple[Tensor, ...]:
        return self.view(batch, rng), self.view(batch, rng)

    def view(self, batch: Tensor, rng: Rng) -> Tensor:
        """Resize images [B, C, h, w] to [B, C, H, W], each in its own shade."""
        return self.spec.prepare(batch) * self.factors(len(batch), rng).view(-1, 1, 1, 1)

    def factors(self, n: int, rng: Rng) -> Tensor:
        """Return the factors [n]."""
        low, high = self.options.shades
        return rng.uniform(n, low=low, high=high)

    def embed(self, x: Tensor) -> Tensor:
        """Embed images [B, C, H, W] in unit rows [B, 16]."""
        return F.normalize(full_precision(self.head(self.encoder(x))), dim=1)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        q, k = map(self.embed, views)
        own = distributed.rank() * len(q) + torch.arange(len(q))
        loss = F.cross_entropy(self.logits(q, self.gathered(k)), own)
        return Losses(loss, {"similarity": (q * k).detach().sum(1).mean()})

    def gathered(self, k: Tensor) -> Tensor:
        """Return the embeddings [world_size · B, 16] of all processes."""
        return distributed.all_gather(k)

    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        return full_precision(q @ k.T) / self.options.temperature


class Queued(Sound):
    """A query finds the teacher's key among a queue of earlier ones."""

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        self.teacher = frozen_copy(nn.Sequential(encoder, self.head))
        self.queue = FeatureQueue(40, 16)

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        q, self.new = self.embed(views[0]), self.keys(views[1])
        positive = full_precision((q * self.new).sum(1, keepdim=True)) / self.options.temperature
        logits = torch.cat([positive, self.logits(q, self.queue.features)], 1)  # [B, 1 + 40]
        return Losses(F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long)))

    def keys(self, x: Tensor) -> Tensor:
        """Embed images [B, C, H, W] in unit rows [B, 16], without gradient."""
        with torch.no_grad():
            return F.normalize(full_precision(self.teacher(x)), dim=1)

    def after_step(self, progress: float) -> None:
        ema_update(self.teacher, nn.Sequential(self.encoder, self.head), 0.9)
        self.push(distributed.all_gather(self.new))

    def push(self, keys: Tensor) -> None:
        """Put the keys [B, 16] into the queue."""
        self.queue.push(keys)


class Centred(Sound):
    """The moving mean of embeddings is subtracted from them."""

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        self.keep(torch.zeros(1, 16))

    def keep(self, centre: Tensor) -> None:
        self.register_buffer("centre", centre)

    def embed(self, x: Tensor) -> Tensor:
        z = super().embed(x)
        self.new = distributed.mean(z.mean(0, keepdim=True))
        return z - self.centre

    def after_step(self, progress: float) -> None:
        self.centre = self.centre.lerp(self.new, 0.5)


class Clustered(Queued):
    """The prototypes nearest to the keys move: rows that are not a queue."""

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        self.register_buffer("prototypes", F.normalize(torch.randn(4, 16), dim=1))

    def push(self, keys: Tensor) -> None:
        super().push(keys)
        nearest = (F.normalize(keys - keys.mean(0), dim=1) @ self.prototypes.T).argmax(1)
        self.prototypes[nearest] = self.prototypes[nearest].lerp(keys, 0.1)


class Remembering(Sound):
    """The query is also near what was remembered of its sample, when that was last seen."""

    needs = ("index",)

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        self.register_buffer("memory", torch.zeros(self.rows(spec.samples), 16))

    def rows(self, samples: int) -> int:
        """Return the number of rows of the memory."""
        return samples

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        *pair, self.seen = views
        self.new = self.embed(pair[0])
        pull = (self.new * self.memory[self.seen]).sum(1).mean()
        return Losses(super().loss(tuple(pair)).total - pull)

    def after_step(self, progress: float) -> None:
        self.memory[distributed.all_gather(self.seen)] = distributed.all_gather(self.new.detach())


class Distilled(Queued):
    """The teacher's encoder is exported."""

    @property
    def exported_encoder(self) -> Encoder:
        return self.teacher[0]


class Taught(Sound):
    """A head is near that of a fixed network, which is in no checkpoint."""

    seed: int | None = 5

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        with torch.random.fork_rng(devices=[], enabled=self.seed is not None):
            if self.seed is not None:
                torch.manual_seed(self.seed)
            head = nn.Linear(16 * spec.channels, 16)
        self.master = unsaved(nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), head))

    def loss(self, views: tuple[Tensor, ...]) -> Losses:
        taught = F.normalize(self.master(views[0]), dim=1)
        return Losses(super().loss(views).total - (taught * self.embed(views[1])).sum(1).mean())


class Scheduled(Sound):
    """The temperature falls over the run."""

    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        return super().logits(q, k) / schedule(1.0, 0.5, self.progress, share=0.5)


class Constant(Sound):
    """A constant table is a parameter without gradient, as MAE's position embedding is."""

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        self.table = nn.Parameter(torch.eye(16), requires_grad=False)

    def embed(self, x: Tensor) -> Tensor:
        return super().embed(x) @ self.table


class Dropping(Sound):
    """The head has dropout."""

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        super().__init__(encoder, options, spec)
        self.head = nn.Sequential(nn.Dropout(0.2), self.head)
