"""The data sets known by name: torchvision's, as one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class TorchvisionDataset:
    """How torchvision knows a data set.

    Attributes:
        kind: the class in `torchvision.datasets`.
        size: the side that its images are given to networks at, in pixels.
        channels: 1 or 3.
        train: the arguments for what is trained on.
        test: those for what is evaluated on; None to hold a part of the rest out.
        bank: those for the labelled samples, where they are not what is trained on.
        mirror: whether a mirror image means the same.
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


def as_arrays(dataset: Any) -> tuple[Tensor, Tensor | None] | None:
    """The images uint8 [N, C, H, W] and labels of a set that torchvision keeps in memory."""
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
    """The labels int64 [N] of a data set, without reading its images.

    None where it has none, or where some samples have none (which such sets mark with -1), so that
    what is not a class never reaches an evaluation.
    """
    for name in ("targets", "labels", "_labels", "y"):
        found = getattr(dataset, name, None)
        if found is not None:
            break
    else:
        samples = getattr(dataset, "samples", None) or getattr(dataset, "_samples", None)
        if samples is None:
            return None
        found = [label for _, label in samples]
    labels = np.asarray(found)
    if labels.ndim == 2:  # QMNIST: the class, and then the writer and more
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu" or labels.min(initial=0) < 0:
        return None
    return torch.as_tensor(labels, dtype=torch.long)


def classes_of(dataset: Any) -> tuple[str, ...] | None:
    """The names of the classes; the first where a class has several."""
    classes = getattr(dataset, "classes", None)
    if classes is None and getattr(dataset, "class_to_idx", None):
        classes = sorted(dataset.class_to_idx, key=dataset.class_to_idx.__getitem__)
    return tuple(c if isinstance(c, str) else str(c[0]) for c in classes) if classes else None
