"""Batched augmentations: functions of a whole batch, on its device, with parameters drawn per image.

`functional` holds operations with given parameters, each equal to torchvision's; `random`, `affine`
and `crops` hold transforms that draw their parameters from an `Rng`, with torchvision's distributions,
and `turns` those that mirror and turn; `named` finds them by name; `masks` draws which places of a grid
are hidden, and `tiles` cuts images into tiles.
"""

from ssl_zoo.views.affine import RandomAffine
from ssl_zoo.views.crops import MultiCrop, RandomResizedCrop, cells
from ssl_zoo.views.random import (
    ColorJitter,
    GaussianBlur,
    Normalise,
    PerSample,
    RandomChannelDrop,
    RandomChannelShift,
    RandomGrayscale,
    RandomSolarise,
    random_blocks,
)
from ssl_zoo.views.rng import Drawn, Rng, derive_seed
from ssl_zoo.views.transform import Compose, RandomTransform, Transform
from ssl_zoo.views.turns import RandomHorizontalFlip, RandomQuarterTurn, RandomVerticalFlip

__all__ = [
    "ColorJitter",
    "Compose",
    "Drawn",
    "GaussianBlur",
    "MultiCrop",
    "Normalise",
    "PerSample",
    "RandomAffine",
    "RandomChannelDrop",
    "RandomChannelShift",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomQuarterTurn",
    "RandomResizedCrop",
    "RandomSolarise",
    "RandomTransform",
    "RandomVerticalFlip",
    "Rng",
    "Transform",
    "cells",
    "derive_seed",
    "random_blocks",
]
