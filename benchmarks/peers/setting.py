"""The settings that the contestants share."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_zoo.config.layers import SettingsSource
from ssl_zoo.config.load import load_config
from ssl_zoo.config.schema import RunConfig
from ssl_zoo.config.yaml import read_yaml
from ssl_zoo.data import DataSet
from ssl_zoo.errors import UserError
from ssl_zoo.runs.build import build_data
from ssl_zoo.runtime.device import Device
from ssl_zoo.training import Trainer
from ssl_zoo.views import ColorJitter, GaussianBlur, RandomGrayscale, RandomResizedCrop

DEFAULTS = {
    "task": {"moves": False},  # the peers crop
    "train": {"optimizer": "sgd", "lr": 0.06, "momentum": 0.9, "weight_decay": 1e-4},
}
"""The rate is that of lightly's example, and of ssl-zoo where a task has no recipe."""


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
        folder: a folder for files that a contestant needs.
    """

    config: RunConfig
    data: DataSet
    device: Device
    views: Views
    temperature: float
    widths: tuple[int, int, int]
    folder: Path

    @classmethod
    def of(cls, config: RunConfig, folder: Path) -> Setting:
        """Load the data, and read off the rest from the task that ssl-zoo builds for it."""
        device = Device.choose(config.train)
        trainer = Trainer(config, build_data(config, device.device), device)
        task: Any = trainer.task
        widths = (task.encoder.width, task.options.hidden or task.encoder.width, task.options.out)
        return cls(config, trainer.data, device, Views.of(task), task.temperature, widths, folder)

    def images(self) -> Tensor:
        """Return all train images, uint8 [N, C, H, W]."""
        train = self.data.train
        images: Tensor = train.batch(torch.arange(len(train))).cpu()
        return images

    def lasting(self, **budget: float) -> RunConfig:
        """Return the settings with another budget, such as ``minutes=2``."""
        budgets = {"epochs": None, "samples": None, "minutes": None, **budget}
        return self.config.model_copy(update={"train": self.config.train.model_copy(update=budgets)})


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
