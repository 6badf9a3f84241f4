"""Which source a name means, and what it holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from ssl_zoo.config import DataConfig
from ssl_zoo.data import catalogue
from ssl_zoo.data.decode import is_gray, open_image
from ssl_zoo.data.folder import Files, split_folder
from ssl_zoo.data.lazy import LazySplit
from ssl_zoo.data.splits import ArraySplit, DataSet, Split, holdout
from ssl_zoo.errors import UserError, did_you_mean
from ssl_zoo.spec import ImageSpec

Source = Callable[[DataConfig, torch.device], DataSet]

DEFAULT_SIZE = 224
"""The side that a folder's images are given to networks at, unless another is asked for."""
MEMORY_SHARE = 0.25
"""Decoded images stay in memory up to this share of what is free."""
MOST_RESIDENT = 200_000
"""Sources of more images than this are not decoded in advance, as that would take minutes."""
PROBED = 256
"""How many images of a lazy source tell its mean and deviation."""


def load(
    config: DataConfig, device: torch.device, sources: Mapping[str, Source] | None = None
) -> DataSet:
    """Load the data that a configuration names.

    Args:
        config: the ``data`` section.
        device: where samples are kept that fit.
        sources: further sources by name, which win over the core's.

    Raises:
        UserError: there is no such source, it has no image, or it cannot be had.
    """
    name = config.source
    if sources and name in sources:
        return sources[name](config, device)
    if name == "digits":
        return _digits(config, device)
    if name in catalogue.CATALOGUE:
        return _torchvision(config, device)
    if name.startswith(("timm:", "hf:")):
        return _timm(config, device)
    if Path(name).expanduser().is_dir():
        return _folder(config, device)
    known = ["digits", *catalogue.CATALOGUE, *(sources or ())]
    raise UserError(
        f"data.source: {name!r} is no folder and no known data set.{did_you_mean(name, known)} "
        f"Known are: {', '.join(known)}"
    )


def _digits(config: DataConfig, device: torch.device) -> DataSet:
    """scikit-learn's 1,797 handwritten digits of 8×8 pixels, a fifth of them held out for the test."""
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).mul(255 / 16).round().byte().unsqueeze(1)
    labels = torch.from_numpy(bunch.target).long()
    train, test = (
        ArraySplit(images[part].to(device), labels[part]) for part in holdout(len(images), 0.2)
    )
    spec = _spec(config, train, size=16, mirror=False)
    return DataSet("digits", spec, train, test, train, tuple("0123456789"))


def _torchvision(config: DataConfig, device: torch.device) -> DataSet:
    name = config.source
    entry = catalogue.CATALOGUE[name]
    root = Path(config.root).expanduser() if config.root else catalogue.default_root()

    def split(arguments: Mapping[str, Any]) -> tuple[Split, Any]:
        dataset = catalogue.open_torchvision(name, arguments, root)
        arrays = catalogue.as_arrays(dataset)
        if arrays is not None:
            return ArraySplit(arrays[0].to(device), arrays[1]), dataset
        labels = catalogue.labels_of(dataset)
        return _lazy(dataset, labels, config, entry.size, entry.channels), dataset

    train, opened = split(entry.train)
    classes = getattr(opened, "classes", None)
    bank: Split = train
    if entry.bank is not None:
        bank, _ = split(entry.bank)
    test: Split
    if entry.test is not None:
        test, _ = split(entry.test)
    else:
        train, test = _hold_out(train, config)
        bank = train
    train, bank, test = _resident([train, bank, test], config, device)
    spec = _spec(config, train, entry.size, entry.mirror)
    return DataSet(name, spec, train, test, bank, tuple(map(str, classes)) if classes else None)


def _timm(config: DataConfig, device: torch.device) -> DataSet:
    """A data set that timm's factory reads; ``hf:`` is short for its ``hfds/`` reader."""
    from timm.data import create_dataset

    prefix, name = config.source.split(":", 1)
    name = f"hfds/{name}" if prefix == "hf" else name
    root = config.root or str(catalogue.default_root())

    def split(which: str) -> LazySplit:
        try:
            dataset = create_dataset(name, root=root, split=which, download=True)
        except Exception as error:  # whatever timm's readers and their libraries raise
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(
                f"data.source: timm cannot read {config.source!r}, split {which}: {reason}"
            ) from error
        return _lazy(dataset, catalogue.labels_of(dataset), config, DEFAULT_SIZE, 3)

    train: Split = split("train")
    try:
        test: Split = split("validation")
    except UserError:
        train, test = _hold_out(train, config)
    train, test = _resident([train, test], config, device)
    return DataSet(config.source, _spec(config, train, DEFAULT_SIZE, True), train, test, train)


def _folder(config: DataConfig, device: torch.device) -> DataSet:
    root = Path(config.source).expanduser()
    files, test_files = split_folder(root)
    channels = 1 if all(map(_gray_file, files.paths[:32])) else 3
    train: Split = _of_files(files, config, channels)
    if test_files is not None:
        test: Split = _of_files(test_files, config, channels)
    elif len(train) > 1:
        train, test = _hold_out(train, config)
    else:
        test = train
    train, test = _resident([train, test], config, device)
    spec = _spec(config, train, DEFAULT_SIZE, True)
    return DataSet(root.name, spec, train, test, train, files.classes)


def _gray_file(path: Path) -> bool:
    try:
        with open_image(path, 8) as image:
            return is_gray(image)
    except Exception:  # unreadable: it will be skipped, and does not decide
        return True


def _canvas(config: DataConfig, size: int) -> int:
    """The side at which images are kept: an eighth more than the network's, for crops to move in."""
    return round((config.image_size or size) * 8 / 7)


def _of_files(files: Files, config: DataConfig, channels: int) -> LazySplit:
    side = _canvas(config, DEFAULT_SIZE)
    paths = files.paths
    return LazySplit(
        lambda i: open_image(paths[i], side),
        lambda i: str(paths[i]),
        len(paths),
        files.labels,
        side,
        channels,
        config.workers,
    )


def _lazy(
    dataset: Any, labels: Tensor | None, config: DataConfig, size: int, channels: int
) -> LazySplit:
    """A data set that gives (image, label) pairs by number."""
    return LazySplit(
        lambda i: dataset[i][0],
        lambda i: f"{config.source}[{i}]",
        len(dataset),
        labels,
        _canvas(config, size),
        channels,
        config.workers,
    )


def _hold_out(split: Split, config: DataConfig) -> tuple[Split, Split]:
    """Part a split into one for training and one for evaluation, always in the same way."""
    kept, held = holdout(len(split), config.holdout)
    return _subset(split, kept), _subset(split, held)


def _subset(split: Split, indices: Tensor) -> Split:
    labels = split.labels[indices] if split.labels is not None else None
    if not isinstance(split, LazySplit):
        return ArraySplit(split.batch(indices), labels)
    number = indices.tolist()
    images, names = split.images, split.names
    return LazySplit(
        lambda i: images(number[i]),
        lambda i: names(number[i]),
        len(number),
        labels,
        split.side,
        split.channels,
        split.workers,
    )


def _resident(splits: list[Split], config: DataConfig, device: torch.device) -> list[Split]:
    """Decode lazy splits into the device's memory where they fit there together."""
    lazy = {id(s): s for s in splits if isinstance(s, LazySplit)}
    size = sum(len(s) * s.channels * s.side**2 for s in lazy.values())
    fits = size <= MEMORY_SHARE * free_memory(device) and all(
        len(s) <= MOST_RESIDENT for s in lazy.values()
    )
    if config.resident == "never" or (config.resident == "auto" and not fits):
        return splits
    decoded: dict[int, Split] = {key: split.resident(device) for key, split in lazy.items()}
    return [decoded.get(id(split), split) for split in splits]


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 4 * 2**30


def _spec(config: DataConfig, train: Split, size: int, mirror: bool) -> ImageSpec:
    """Measure the mean and the deviation of each channel on a fixed part of the train split."""
    most = PROBED if isinstance(train, LazySplit) else 10_000
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    sample = train.batch(order[:most]).float().div_(255)
    mean, std = sample.mean((0, 2, 3)), sample.std((0, 2, 3)).clamp(min=1e-3)
    return ImageSpec(
        channels=sample.shape[1],
        size=config.image_size or size,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        mirror=mirror,
    )
