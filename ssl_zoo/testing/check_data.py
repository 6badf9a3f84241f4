"""The data that tasks are checked on, and a small network for each kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.backbones.build import create_encoder
from ssl_zoo.config.schema import BackboneConfig, DataConfig
from ssl_zoo.data import DataSet
from ssl_zoo.errors import UserError
from ssl_zoo.runs.build import load_data
from ssl_zoo.sizes import Size, write_size
from ssl_zoo.spec import ImageSpec, Spec
from ssl_zoo.task import Encoder
from ssl_zoo.tree import Tree

TINY = BackboneConfig(
    name="resnet18",
    options={"channels": [8, 16, 32, 64], "layers": [1, 1, 1, 1], "zero_init_last": False},
)
"""A ResNet-10 of an eighth of the usual width, without gradients that are 0 at the beginning."""

_IMAGES = ((16, 3, 20, 20), (16, 1, 8, 8), (17, 3, 21, 13), (32, 1, 28, 28), (16, 5, 20, 20))
"""For each kind of images: the side of the network's input, the channels, the raw height and width."""


class CheckData(ABC):
    """Data of one kind, and a network for it. Derive a class for data that no source has.

    It must be picklable, because other processes build the same data.
    """

    @property
    @abstractmethod
    def spec(self) -> Spec:
        """The description of the data."""

    @abstractmethod
    def encoder(self) -> Encoder:
        """Return a new network, with weights drawn from torch's global generator."""

    @abstractmethod
    def batch(self, n: int, seed: int = 0) -> Tree:
        """Return a raw batch [n, ...] of different samples, the same for the same seed."""

    def __str__(self) -> str:
        return f"{self.spec.modality} data"


@dataclass(frozen=True)
class SyntheticImages(CheckData):
    """Synthetic images: smooth coloured blotches.

    Attributes:
        backbone: a timm model, or one that a plugin registers.
        size: the side of the network's input, or its height and width, in pixels.
        channels: the number of channels.
        height: the height of the raw images, in pixels.
        width: the width of the raw images, in pixels.
        classes: the number of classes, for a task that needs labels.
        any_size: whether the network takes images of other sizes too, see `Task.any_size`.
    """

    backbone: BackboneConfig = field(default_factory=lambda: TINY)
    size: Size = 16
    channels: int = 3
    height: int = 20
    width: int = 20
    classes: int | None = None
    any_size: bool = False

    @property
    def spec(self) -> ImageSpec:
        """The description of the images, normalised by half and a quarter of the range."""
        c = self.channels
        mean, std = (0.5,) * c, (0.25,) * c
        return ImageSpec(channels=c, size=self.size, mean=mean, std=std, classes=self.classes)

    def encoder(self) -> Encoder:
        """Return a new network."""
        return create_encoder(self.backbone, self.spec, self.any_size)

    def batch(self, n: int, seed: int = 0) -> Tensor:
        """Return images uint8 [n, channels, height, width]."""
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(n, self.channels, 4, 4, generator=generator)
        fine = F.interpolate(coarse, (self.height, self.width), mode="bicubic").clamp(0, 1)
        return (255 * fine).round().byte()

    def __str__(self) -> str:
        raw = f"{self.height}×{self.width} images of {self.channels} channels"
        return f"{raw}, network at {write_size(self.size)}"


@dataclass(frozen=True)
class SourceData(CheckData):
    """Samples of a data source.

    Attributes:
        data: the ``data`` section of a configuration.
        backbone: the ``backbone`` section.
        modality: the kind of data that the task takes.
        any_size: whether the network takes images of other sizes too, see `Task.any_size`.
    """

    data: DataConfig
    backbone: BackboneConfig
    modality: str = "image"
    any_size: bool = False

    @cached_property
    def _loaded(self) -> DataSet:
        return load_data(self.data, torch.device("cpu"), self.modality)

    @property
    def spec(self) -> Spec:
        """The description of the samples."""
        return self._loaded.spec

    def encoder(self) -> Encoder:
        """Return a new network."""
        return create_encoder(self.backbone, self.spec, self.any_size)

    def batch(self, n: int, seed: int = 0) -> Tree:
        """Return samples [n, ...] drawn from the train split."""
        split = self._loaded.train
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(split), generator=generator)
        return split.batch(order.repeat(-(-n // len(split)))[:n])

    def __str__(self) -> str:
        return f"data of {self.data.source_text}"


def image_data(
    backbone: BackboneConfig, classes: int | None = None, any_size: bool = False
) -> list[SyntheticImages]:
    """Return the kinds of images that a backbone can be built for, the usual one first."""
    kinds: list[SyntheticImages] = []
    for size, channels, height, width in _IMAGES:
        data = SyntheticImages(backbone, size, channels, height, width, classes, any_size)
        if not kinds or _can_be_built(data):
            kinds.append(data)
    return kinds


def _can_be_built(data: CheckData) -> bool:
    """Return whether the network takes such data at all; if not, the task is not at fault."""
    try:
        data.encoder()
    except UserError:
        return False
    return True
