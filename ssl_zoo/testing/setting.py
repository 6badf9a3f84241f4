"""What a task is checked on: data that are like no others, and a network that is quick."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.backbones.timm_encoder import create_backbone
from ssl_zoo.config.schema import BackboneConfig, DataConfig
from ssl_zoo.data import DataSet
from ssl_zoo.errors import UserError
from ssl_zoo.runs.build import build_encoder, load_data
from ssl_zoo.spec import ImageSpec, Spec
from ssl_zoo.task import Encoder

TINY = BackboneConfig(
    name="resnet18",
    options={"channels": [8, 16, 32, 64], "layers": [1, 1, 1, 1], "zero_init_last": False},
)
"""A ResNet-10 of an eighth of the usual width, whose gradients are nowhere 0 at the beginning."""

_IMAGES = ((16, 3, 20, 20), (16, 1, 8, 8), (17, 3, 21, 13), (32, 1, 28, 28))
"""For each setting of images the network's input, the channels, and the raw height and width."""


class Setting(ABC):
    """Data of one kind, and a network for it. Derive from it for data that no source gives.

    What it holds must be picklable, because other processes build the same.
    """

    @property
    @abstractmethod
    def spec(self) -> Spec:
        """What the data looks like."""

    @abstractmethod
    def encoder(self) -> Encoder:
        """A new network, whose weights follow from torch's global generator."""

    @abstractmethod
    def batch(self, n: int, seed: int = 0) -> Tensor:
        """A raw batch [n, ...], always the same for the same seed, of samples that differ."""

    def __str__(self) -> str:
        return f"{self.spec.modality} data"


@dataclass(frozen=True)
class Images(Setting):
    """Smooth coloured blotches.

    Attributes:
        backbone: a timm model, or one that a plugin registers.
        size: the side of the network's input, in pixels.
        channels: 1 or 3.
        height: of the raw images, in pixels.
        width: likewise.
        classes: the number of classes, for a task that needs labels.
    """

    backbone: BackboneConfig = field(default_factory=lambda: TINY)
    size: int = 16
    channels: int = 3
    height: int = 20
    width: int = 20
    classes: int | None = None

    @property
    def spec(self) -> ImageSpec:
        """Normalised by half and a quarter of the range."""
        c = self.channels
        mean, std = (0.5,) * c, (0.25,) * c
        return ImageSpec(channels=c, size=self.size, mean=mean, std=std, classes=self.classes)

    def encoder(self) -> Encoder:
        """A new network."""
        return create_backbone(self.backbone, self.spec)

    def batch(self, n: int, seed: int = 0) -> Tensor:
        """Images uint8 [n, channels, height, width]."""
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(n, self.channels, 4, 4, generator=generator)
        fine = F.interpolate(coarse, (self.height, self.width), mode="bicubic").clamp(0, 1)
        return (255 * fine).round().byte()

    def __str__(self) -> str:
        return f"{self.height}×{self.width} images of {self.channels} channels, network at {self.size}"


@dataclass(frozen=True)
class Source(Setting):
    """Samples of a data source, as a configuration names it.

    Attributes:
        data: the section of the configuration.
        backbone: likewise.
    """

    data: DataConfig
    backbone: BackboneConfig

    @cached_property
    def _loaded(self) -> DataSet:
        return load_data(self.data, torch.device("cpu"))

    @property
    def spec(self) -> Spec:
        """What its samples look like."""
        return self._loaded.spec

    def encoder(self) -> Encoder:
        """A new network."""
        return build_encoder(self.backbone, self.spec, int(torch.randint(2**31, ())))

    def batch(self, n: int, seed: int = 0) -> Tensor:
        """Samples [n, ...] drawn from the train split."""
        split = self._loaded.train
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(split), generator=generator)
        return split.batch(order.repeat(-(-n // len(split)))[:n])

    def __str__(self) -> str:
        return f"data of {self.data.source}"


def image_settings(backbone: BackboneConfig, classes: int | None = None) -> list[Images]:
    """The settings of images that a backbone can be built for, the usual one first."""
    found: list[Images] = []
    for size, channels, height, width in _IMAGES:
        setting = Images(backbone, size, channels, height, width, classes)
        if not found or _can_be_built(setting):
            found.append(setting)
    return found


def _can_be_built(setting: Setting) -> bool:
    """Whether the network takes such data at all; if not, that is no fault of the task."""
    try:
        setting.encoder()
    except UserError:
        return False
    return True
