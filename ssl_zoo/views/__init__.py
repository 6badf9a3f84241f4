"""Batched augmentations: a batch in, a batch out, on its device, with parameters drawn per image.

`functional` holds the operations with their parameters given, each equal to torchvision's;
`random` draws the parameters, from an `Rng`, with torchvision's distributions.
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
