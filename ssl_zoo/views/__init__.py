"""Batched augmentations: functions of a whole batch, on its device, with parameters drawn per image.

`functional` holds operations with given parameters, each equal to torchvision's; `random` holds
transforms that draw their parameters from an `Rng`, with torchvision's distributions.
"""

from ssl_zoo.views.random import (
    ColorJitter,
    Compose,
    GaussianBlur,
    MultiCrop,
    Normalise,
    PerSample,
    RandomGrayscale,
    RandomResizedCrop,
    RandomSolarise,
    Transform,
    random_blocks,
)
from ssl_zoo.views.rng import Rng, derive_seed

__all__ = [
    "ColorJitter",
    "Compose",
    "GaussianBlur",
    "MultiCrop",
    "Normalise",
    "PerSample",
    "RandomGrayscale",
    "RandomResizedCrop",
    "RandomSolarise",
    "Rng",
    "Transform",
    "derive_seed",
    "random_blocks",
]
