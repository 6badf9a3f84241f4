"""The plain loop of the peers, around a `DataLoader`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.optim import create_optimizer_v2, get_optimizer_class
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ssl_zoo.backbones.build import build_encoder
from ssl_zoo.runtime.device import Device
from ssl_zoo.training.budget import Budget
from ssl_zoo.training.optimizer import FUSED, Schedules, learning_rate

from .setting import Setting

WORKERS = 2
AHEAD = 2
"""Batches that each worker makes ahead, as is `DataLoader`'s default."""

Transform = Callable[[Any], Sequence[Tensor]]
"""An image to its two views."""


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


@dataclass(frozen=True)
class Twice:
    """Two views of one distribution."""

    transform: Callable[[Any], Tensor]

    def __call__(self, image: Any) -> Sequence[Tensor]:
        """Return the two views of an image."""
        return [self.transform(image), self.transform(image)]


def plain(setting: Setting) -> Device:
    """Return the device of a loop in float32."""
    return Device(setting.device.device, "fp32", False)


def fast(setting: Setting) -> Device:
    """Return the device of a loop under autocast to bfloat16, with channels last."""
    return Device(setting.device.device, "bf16", True)


class Loop:
    """A plain loop around a `DataLoader`, as the peers' examples have it."""

    ahead = WORKERS * AHEAD

    def __init__(
        self,
        setting: Setting,
        dataset: Dataset[Sequence[Tensor]],
        head: Callable[[Sequence[int]], nn.Module],
        criterion: Callable[[Tensor, Tensor], Tensor],
        device: Device,
        epochs: float,
        both_at_once: bool,
    ) -> None:
        """Build it; the workers start, so that their start is not counted later.

        Args:
            setting: the shared settings.
            dataset: the views.
            head: builds the head of its widths, the first being that of the encoder's features.
            criterion: the loss of the embeddings of both views.
            device: where and how to compute.
            epochs: the length of the learning-rate schedule.
            both_at_once: whether both views go through the network as one batch.
        """
        train = setting.config.train
        torch.manual_seed(train.seed)
        module = head(setting.widths)
        self.encoder = build_encoder(setting.config.backbone, setting.data.spec, train.seed)
        self.network = device.place(nn.Sequential(self.encoder, module)).train()
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
        self._done = 0
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
        self.schedules.follow(min(1.0, self._done / self.steps))
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
        self._done += 1

    def close(self) -> None:
        """End the workers, as a `DataLoader` does once nothing refers to its iterator."""
        self._batches = None
        del self.loader
