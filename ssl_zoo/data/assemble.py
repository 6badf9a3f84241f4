"""From the parts of a source to a data set: held out, kept in memory where it fits, measured."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ssl_zoo import distributed
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import cache
from ssl_zoo.data.catalogue import as_arrays, labels_of
from ssl_zoo.data.decode import open_image
from ssl_zoo.data.lazy import LazySplit, Pictures, Unreadable
from ssl_zoo.data.places import user_path
from ssl_zoo.data.splits import ArraySplit, DataSet, Split, holdout
from ssl_zoo.errors import UserError
from ssl_zoo.spec import ImageSpec

Part: TypeAlias = ArraySplit | LazySplit

DEFAULT_SIZE = 224
"""The side that a folder's images are given to networks at, unless another is asked for."""
MEMORY_SHARE = 0.25
"""Decoded images stay in memory up to this share of what is free."""
MOST_RESIDENT = 200_000
"""Sources of more images than this are not decoded in advance, as that would take minutes."""
DAMAGED = "its files are damaged: remove them, to get them anew"
PROBED = 256
"""How many images of a lazy source tell its mean and deviation."""


def canvas(config: DataConfig, size: int) -> int:
    """The side at which images are kept: an eighth more than the network's, for crops to move in."""
    return round((config.image_size or size) * 8 / 7)


def part_of(
    dataset: Any,
    split: str,
    config: DataConfig,
    device: torch.device,
    size: int,
    channels: int,
    unreadable: Unreadable,
) -> Part:
    """One split of a data set that gives (image, label) pairs by number.

    Args:
        dataset: torchvision's or timm's; what it keeps in memory is taken from there.
        split: what the split is called, for the names of its samples.
        config: the ``data`` section.
        device: where samples are kept.
        size: the side that its images are given to networks at, where it reads them one by one.
        channels: of such images.
        unreadable: where those are noted that cannot be read.

    Raises:
        UserError: what it keeps in memory are no images, or others than its labels are of.
    """
    arrays = as_arrays(dataset)
    if arrays is not None:
        images, labels = arrays
        _check_arrays(images, labels, f"{config.source} {split}")
        return ArraySplit(images.to(device), labels)
    side = canvas(config, size)
    if hasattr(dataset, "loader"):  # torchvision's for image files: ours decodes JPEG at a scale
        dataset.loader = lambda file: open_image(Path(file), side)
    pictures = Pictures(
        lambda i: dataset[i][0],
        lambda i: f"{config.source} {split}[{i}]",
        len(dataset),
        side,
        channels,
        config.workers,
        unreadable,
        cache.origin_of(dataset),
    )
    return LazySplit(pictures, labels_of(dataset))


def _check_arrays(images: Tensor, labels: Tensor | None, name: str) -> None:
    """Make sure that arrays are images and their labels, of which torchvision looks at neither.

    Raises:
        UserError: they are not.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        fault = f"holds no images, but {images.dtype} of the shape {tuple(images.shape)}"
    elif images.numel() == 0:
        fault = f"holds {len(images)} images of {images.shape[-1]}×{images.shape[-2]} pixels"
    elif labels is not None and len(labels) != len(images):
        fault = f"has {len(images)} images, but {len(labels)} labels"
    else:
        return
    raise UserError(f"data.source: {name} {fault}; {DAMAGED}")


def _check_parts(parts: list[Part], classes: tuple[str, ...] | None, name: str) -> None:
    """Make sure that samples in memory are of one shape, and that there is a class for each label.

    Raises:
        UserError: they are not.
    """
    shapes = {tuple(part.samples.shape[1:]) for part in parts if isinstance(part, ArraySplit)}
    labels = _classes(parts)
    if len(shapes) > 1:
        fault = f"has images of the shapes {' and '.join(map(str, sorted(shapes)))}"
    elif classes is not None and labels is not None and labels > len(classes):
        fault = f"has a label {labels - 1}, but {len(classes)} classes"
    else:
        return
    raise UserError(f"data.source: {name} {fault}; {DAMAGED}")


def hold_out(part: Part, config: DataConfig) -> tuple[Part, Part | None]:
    """Part a split into one for training and one for evaluation; a single sample trains."""
    kept, held = holdout(len(part), config.holdout)
    return part.subset(kept), part.subset(held) if len(held) else None


def assemble(
    name: str,
    config: DataConfig,
    device: torch.device,
    size: int,
    train: Part,
    test: Part | None,
    bank: Part | None = None,
    classes: tuple[str, ...] | None = None,
    mirror: bool = True,
) -> DataSet:
    """Make a data set of its parts.

    Args:
        name: what the user called it.
        config: the ``data`` section.
        device: where samples are kept that fit.
        size: the side that its images are given to networks at, unless the configuration says.
        train: what is trained on.
        test: what is evaluated on, if anything.
        bank: the labelled samples, where they are not what is trained on.
        classes: the names of the classes, where they are known.
        mirror: whether a mirror image means the same.

    Raises:
        UserError: no image of what is trained on can be read, there can be no cache, or the parts
            do not go together.
    """
    named = {"train": train, "test": test, "bank": bank}
    parts = [part for part in named.values() if part is not None]
    _check_parts(parts, classes, name)
    if config.cache is not None:
        kept_in = user_path("data.cache", config.cache)
        for split, part in named.items():
            if isinstance(part, LazySplit):
                cache.provide(part.pictures, f"{name} {split}", kept_in)
    kept = _resident(parts, config, device)
    splits: dict[int, Split] = {id(old): new for old, new in zip(parts, kept, strict=True)}
    train_split = splits[id(train)]
    test_split = splits[id(test)] if test is not None else None
    if len(train_split) == 0:
        raise UserError(f"data.source: no image of {name} that could be trained on can be read")
    return DataSet(
        name=name,
        spec=_measure(train, config.image_size or size, mirror, _classes(parts)),
        train=train_split,
        test=test_split if test_split is not None and _any_readable(test_split) else None,
        bank=splits[id(bank)] if bank is not None else train_split,
        classes=classes,
    )


def _any_readable(split: Split) -> bool:
    return split.any_readable() if isinstance(split, LazySplit) else len(split) > 0


def _resident(parts: list[Part], config: DataConfig, device: torch.device) -> list[Part]:
    """Decode lazy splits into the device's memory where they fit there together.

    With a cache nothing is decoded: it is copied into a GPU's memory where it fits there, and read
    from the disk otherwise.

    Raises:
        UserError: they are to be in memory, and do not fit at all.
    """
    lazy = [part for part in parts if isinstance(part, LazySplit)]
    free = free_memory(device) / distributed.world_size()
    needed = sum(part.nbytes for part in lazy)
    fits = needed <= MEMORY_SHARE * free and (
        config.cache is not None or all(len(part) <= MOST_RESIDENT for part in lazy)
    )
    (too_large,) = distributed.all_reduce_max(not fits)  # one process decides for all
    if config.cache is not None:
        place = torch.device("cpu") if config.resident == "never" or too_large else device
        return [part.mapped().to(place) if isinstance(part, LazySplit) else part for part in parts]
    if config.resident == "never" or (config.resident == "auto" and too_large):
        return parts
    if needed > free:
        raise UserError(
            f"data.resident: the decoded images need {needed / 1e6:,.0f} MB, and there are "
            f"{free / 1e6:,.0f} MB of free memory; take auto, or data.cache"
        )
    return [part.resident(device) if isinstance(part, LazySplit) else part for part in parts]


def free_memory(device: torch.device) -> int:
    """Bytes that can be had on a device; of a container not more than it is allowed."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = 4 * 2**30
    if Path("/proc/meminfo").exists():
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(n.split()[1]) * 1024 for n in lines if n.startswith("MemAvailable:"))
    elif hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    allowed = limit.read_text().strip() if limit.exists() else "max"
    return free if allowed == "max" else min(free, int(allowed))


def _classes(parts: list[Part]) -> int | None:
    """The number of classes; None where no part has labels."""
    labels = [part.labels for part in parts if part.labels is not None and len(part.labels)]
    return int(torch.cat(labels).max()) + 1 if labels else None


def _measure(train: Part, size: int, mirror: bool, classes: int | None) -> ImageSpec:
    """Measure the mean and the deviation of each channel on a fixed part of the train split.

    It is the same part whether or not the split is kept in memory, and what is measured does not
    depend on how many threads add it up.
    """
    most = PROBED if isinstance(train, LazySplit) else 10_000
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    channels = train.batch(order[:most]).unbind(1)
    counts = torch.stack([channel.flatten().bincount(minlength=256) for channel in channels]).cpu()
    values, total = torch.arange(256, dtype=torch.float64) / 255, counts.sum(1)  # [256], [C]
    mean = (counts * values).sum(1) / total
    deviation = (values - mean[:, None]).square()
    std = ((counts * deviation).sum(1) / (total - 1)).sqrt().clamp(min=1e-3)
    return ImageSpec(
        channels=len(channels),
        size=size,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        mirror=mirror,
        classes=classes,
    )
