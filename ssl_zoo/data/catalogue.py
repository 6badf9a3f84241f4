"""The data sets known by name: torchvision's, as one table."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor

from ssl_zoo.errors import UserError


@dataclass(frozen=True)
class Entry:
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


CATALOGUE: Mapping[str, Entry] = {
    "mnist": Entry("MNIST", 28, 1, mirror=False),
    "fashion-mnist": Entry("FashionMNIST", 28, 1),
    "kmnist": Entry("KMNIST", 28, 1, mirror=False),
    "qmnist": Entry("QMNIST", 28, 1, mirror=False),
    "usps": Entry("USPS", 16, 1, mirror=False),
    "cifar10": Entry("CIFAR10", 32),
    "cifar100": Entry("CIFAR100", 32),
    "svhn": Entry("SVHN", 32, **_split(), mirror=False),
    "stl10": Entry("STL10", 96, **_split("train+unlabeled"), bank={"split": "train"}),
    "imagenette": Entry("Imagenette", 224, **_split(test="val", size="320px")),
    "flowers102": Entry("Flowers102", 224, **_split()),
    "food101": Entry("Food101", 224, **_split()),
    "pets": Entry("OxfordIIITPet", 224, **_split("trainval")),
    "dtd": Entry("DTD", 224, **_split()),
    "gtsrb": Entry("GTSRB", 48, **_split(), mirror=False),
    "pcam": Entry("PCAM", 96, **_split()),
    "country211": Entry("Country211", 224, **_split()),
    "fgvc-aircraft": Entry("FGVCAircraft", 224, **_split("trainval")),
    "eurosat": Entry("EuroSAT", 64, train={}, test=None),
    "caltech101": Entry("Caltech101", 224, train={}, test=None),
    "caltech256": Entry("Caltech256", 224, train={}, test=None),
}

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist keeps its files."""


def default_root() -> Path:
    """Where data sets are kept: $SSL_ZOO_DATA, else ~/.cache/ssl-zoo."""
    return Path(os.environ.get("SSL_ZOO_DATA") or Path.home() / ".cache" / "ssl-zoo")


def open_torchvision(name: str, arguments: Mapping[str, Any], root: Path) -> Any:
    """Open one split of a data set, from `root` or else by downloading it there.

    Raises:
        UserError: it is not there and cannot be downloaded.
    """
    kind = getattr(torchvision.datasets, CATALOGUE[name].kind)
    if name == "fashion-mnist":
        root = _with_debian_files(root)
    try:
        return kind(str(root), download=False, **arguments)
    except (RuntimeError, OSError, ModuleNotFoundError, ValueError):
        pass
    try:
        root.mkdir(parents=True, exist_ok=True)
        return kind(str(root), download=True, **arguments)
    except Exception as error:  # what a download, an archive or a missing library can raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"data.source: {name} is not in {root} and cannot be downloaded ({reason}); "
            "put torchvision's files there, or name another folder with data.root"
        ) from error


def _with_debian_files(root: Path) -> Path:
    """A root that torchvision finds Fashion-MNIST in, if only Debian's package has it."""
    cached = root / "FashionMNIST" / "raw"
    if cached.is_dir() or not DEBIAN_FASHION_MNIST.is_dir():
        return root
    cached.mkdir(parents=True)
    import gzip

    for packed in DEBIAN_FASHION_MNIST.glob("*-ubyte.gz"):
        (cached / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    return root


def as_arrays(dataset: Any) -> tuple[Tensor, Tensor] | None:
    """The images uint8 [N, C, H, W] and labels [N] of a set that torchvision keeps in memory."""
    data = getattr(dataset, "data", None)
    labels = next((getattr(dataset, n) for n in ("targets", "labels") if hasattr(dataset, n)), None)
    if not isinstance(data, np.ndarray | Tensor) or labels is None:
        return None
    images = torch.as_tensor(data)
    if images.ndim == 3:
        images = images.unsqueeze(1)
    elif images.shape[-1] in (1, 3):
        images = images.permute(0, 3, 1, 2)
    return images.contiguous(), torch.as_tensor(np.asarray(labels), dtype=torch.long)


def labels_of(dataset: Any) -> Tensor | None:
    """The labels [N] of a set whose images are read one by one, without reading them."""
    for name in ("targets", "labels", "_labels", "y"):
        labels = getattr(dataset, name, None)
        if labels is not None:
            return torch.as_tensor(np.asarray(labels), dtype=torch.long)
    samples = getattr(dataset, "samples", None) or getattr(dataset, "_samples", None)
    if samples is not None:
        return torch.tensor([label for _, label in samples])
    return None
