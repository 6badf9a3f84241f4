"""The torchvision data sets that are known by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_zoo.notices import Notice


@dataclass(frozen=True)
class TorchvisionDataset:
    """The class and arguments by which torchvision opens a data set.

    Attributes:
        kind: the name of the class in `torchvision.datasets`.
        size: the side of the network's input, in pixels.
        channels: the number of channels, 1 or 3.
        train: the arguments for the samples trained on.
        test: the arguments for the samples evaluated on; None to hold out a part of those trained on.
        bank: the arguments for the labelled samples, if they differ from those trained on.
        mirror: whether a mirrored image has the same meaning.
    """

    kind: str
    size: int
    channels: int = 3
    train: Mapping[str, Any] = field(default_factory=lambda: {"train": True})
    test: Mapping[str, Any] | None = field(default_factory=lambda: {"train": False})
    bank: Mapping[str, Any] | None = None
    mirror: bool = True


def _split(train: str = "train", test: str = "test", **more: Any) -> dict[str, Any]:
    return {"train": {"split": train, **more}, "test": {"split": test, **more}}


CATALOGUE: Mapping[str, TorchvisionDataset] = {
    "mnist": TorchvisionDataset("MNIST", 28, 1, mirror=False),
    "fashion-mnist": TorchvisionDataset("FashionMNIST", 28, 1),
    "kmnist": TorchvisionDataset("KMNIST", 28, 1, mirror=False),
    "qmnist": TorchvisionDataset("QMNIST", 28, 1, mirror=False),
    "emnist": TorchvisionDataset(
        "EMNIST",
        28,
        1,
        train={"split": "balanced", "train": True},
        test={"split": "balanced", "train": False},
        mirror=False,
    ),
    "usps": TorchvisionDataset("USPS", 16, 1, mirror=False),
    "cifar10": TorchvisionDataset("CIFAR10", 32),
    "cifar100": TorchvisionDataset("CIFAR100", 32),
    "svhn": TorchvisionDataset("SVHN", 32, **_split(), mirror=False),
    "stl10": TorchvisionDataset("STL10", 96, **_split("train+unlabeled"), bank={"split": "train"}),
    "imagenette": TorchvisionDataset("Imagenette", 224, **_split(test="val", size="320px")),
    "flowers102": TorchvisionDataset("Flowers102", 224, **_split()),
    "food101": TorchvisionDataset("Food101", 224, **_split()),
    "pets": TorchvisionDataset("OxfordIIITPet", 224, **_split("trainval")),
    "dtd": TorchvisionDataset("DTD", 224, **_split()),
    "gtsrb": TorchvisionDataset("GTSRB", 48, **_split(), mirror=False),
    "country211": TorchvisionDataset("Country211", 224, **_split()),
    "fgvc-aircraft": TorchvisionDataset("FGVCAircraft", 224, **_split("trainval")),
    "places365": TorchvisionDataset("Places365", 224, **_split("train-standard", "val", small=True)),
    "sun397": TorchvisionDataset("SUN397", 224, train={}, test=None),
    "eurosat": TorchvisionDataset("EuroSAT", 64, train={}, test=None),
    "caltech101": TorchvisionDataset("Caltech101", 224, train={}, test=None),
    "caltech256": TorchvisionDataset("Caltech256", 224, train={}, test=None),
}


_PARTLY_LABELLED = Notice(
    "partly-labelled",
    "If some samples of a split of torchvision or timm have no label (-1), the labels of the others are "
    "not used either.",
    "a folder, where unlabelled images lie in a sub-folder unlabeled",
)


def as_arrays(dataset: Any) -> tuple[Tensor, Tensor | None] | None:
    """Return the images uint8 [N, C, H, W] and labels of a data set in memory, None if it is not."""
    data = getattr(dataset, "data", None)
    if not isinstance(data, np.ndarray | Tensor):
        return None
    images = torch.as_tensor(data)
    if images.ndim == 3:
        images = images.unsqueeze(1)
    elif images.shape[-1] in (1, 3):
        images = images.permute(0, 3, 1, 2)
    return images.contiguous(), labels_of(dataset)


def labels_of(dataset: Any) -> Tensor | None:
    """Return the labels int64 [N] of a data set, without reading its images.

    Return None if any sample has no label, which such data sets mark with -1, so that every label that
    reaches an evaluation is a class.
    """
    for name in ("targets", "labels", "_labels", "y"):
        values = getattr(dataset, name, None)
        if values is not None:
            break
    else:
        samples = getattr(dataset, "samples", None) or getattr(dataset, "_samples", None)
        if samples is None:
            return None
        values = [label for _, label in samples]
    labels = np.asarray(values)
    if labels.ndim == 2:  # QMNIST: the class first, then the writer and more
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu":
        return None
    if labels.min(initial=0) < 0:
        _PARTLY_LABELLED(
            f"{(labels < 0).sum():,} of {len(labels):,} samples have no label, so none of them is used"
        )
        return None
    return torch.as_tensor(labels, dtype=torch.long)


def classes_of(dataset: Any) -> tuple[str, ...] | None:
    """Return the names of the classes, the first one for a class with several; None if unknown."""
    classes = getattr(dataset, "classes", None)
    if classes is None and getattr(dataset, "class_to_idx", None):
        classes = sorted(dataset.class_to_idx, key=dataset.class_to_idx.__getitem__)
    return tuple(c if isinstance(c, str) else str(c[0]) for c in classes) if classes else None
