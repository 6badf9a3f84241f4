"""Throughput, and time to accuracy."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Protocol

from ssl_zoo.evaluation import Subject, score
from ssl_zoo.runtime.device import Device
from ssl_zoo.task import Encoder

from .ours import NAME, SslZoo
from .setting import Setting


class Contestant(Protocol):
    """A way to train.

    Attributes:
        steps: the steps of its learning-rate schedule.
        ahead: the batches that its workers have ready while it waits.
    """

    steps: int
    ahead: int

    @property
    def encoder(self) -> Encoder:
        """The network under training; that of another process once all steps have been made."""

    def step(self) -> None:
        """Make one optimiser step on the next batch."""

    def close(self) -> None:
        """End its workers."""


Build = Callable[[Setting, float], Contestant]
"""Returns a contestant with a new network, for a number of epochs; its workers have started."""


def ours(setting: Setting, epochs: float) -> Contestant:
    """Return ssl-zoo's trainer."""
    return SslZoo(setting, setting.lasting(epochs=epochs))


def seconds_of(contestant: Contestant, steps: int, device: Device) -> float:
    """Return the time of `steps` steps."""
    device.synchronise()
    start = time.perf_counter()
    for _ in range(steps):
        contestant.step()
    device.synchronise()
    return time.perf_counter() - start


def throughput(
    builds: dict[str, Build], setting: Setting, rounds: int, steps: int, warmup: int
) -> dict[str, list[float]]:
    """Return the images per second of each contestant in each round."""
    with ExitStack() as stack:
        contestants = {
            name: stack.enter_context(closing(build(setting, setting.config.train.epochs or 0.0)))
            for name, build in builds.items()
        }
        return _throughput(contestants, setting, rounds, steps, warmup)


def _throughput(
    contestants: dict[str, Contestant], setting: Setting, rounds: int, steps: int, warmup: int
) -> dict[str, list[float]]:
    device, batch = setting.device, setting.config.train.batch_size
    names = list(contestants)
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            contestant = contestants[name]
            seconds_of(contestant, warmup, device)
            seconds = seconds_of(contestant, steps, device)
            speeds[name].append(batch * steps / seconds)
            if contestant.ahead:
                # Its workers still prepare some batches, which must not slow the next contestant down;
                # the warm-up consumes them later, so they are no head start.
                time.sleep((contestant.ahead + 1) * seconds / steps)
        speeds_shown = ", ".join(f"{name} {values[-1]:,.0f}" for name, values in speeds.items())
        print(f"round {number + 1} of {rounds}, images/s: {speeds_shown}", flush=True)
    return speeds


def knn(encoder: Encoder, setting: Setting) -> float:
    """Return ssl-zoo's weighted kNN on the test split, of the encoder's features, in percent."""
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


def train(name: str, build: Build, setting: Setting, epochs: float) -> Mark:
    """Train a contestant for `epochs` epochs, and evaluate it."""
    with closing(build(setting, epochs)) as contestant:
        seconds = seconds_of(contestant, contestant.steps, setting.device)
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
    contestant = SslZoo(setting, setting.lasting(minutes=minutes))
    trainer = contestant.trainer
    interval = max(1, round(every * trainer.budget.steps_per_epoch))
    curve: list[tuple[float, float]] = []
    spent, start = 0.0, time.perf_counter()
    while trainer.progress < 1 and any(mark.ours is None for mark in marks.values()):
        contestant.step()
        trainer.seconds = spent + time.perf_counter() - start  # the schedule follows it
        if trainer.step % interval and trainer.progress < 1:
            continue
        setting.device.synchronise()
        trainer.seconds = spent = spent + time.perf_counter() - start
        accuracy = knn(contestant.encoder, setting)
        curve.append((spent, accuracy))
        print(f"{NAME}: {accuracy:.1f} % in {spent / 60:.2f} minutes", flush=True)
        for mark in marks.values():
            if mark.ours is None and accuracy >= mark.accuracy:
                mark.ours = spent
        start = time.perf_counter()
    return curve
