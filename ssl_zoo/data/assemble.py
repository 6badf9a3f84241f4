"""From the splits of a source to a data set: loaded into memory where they fit, and measured."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_zoo import distributed, preprocess
from ssl_zoo.config.paths import user_path
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data.catalogue import as_arrays, labels_of
from ssl_zoo.data.dataset import DataSet
from ssl_zoo.data.decode import open_pixels
from ssl_zoo.data.decoded_cache import origin_of
from ssl_zoo.data.holdout import hold_out
from ssl_zoo.data.image_files import ImageFiles
from ssl_zoo.data.lazy import LazySplit
from ssl_zoo.data.pixels import TYPES, Form, ScaledSplit, find_limits, scale
from ssl_zoo.data.read_ahead import decoding_threads
from ssl_zoo.data.sample_files import Origin, UnreadableFiles
from ssl_zoo.data.splits import ArraySplit, Split
from ssl_zoo.data.summary import NO_FACTS, SourceFacts
from ssl_zoo.data.survey import Survey, survey
from ssl_zoo.errors import UserError
from ssl_zoo.notices import Notice
from ssl_zoo.spec import ImageSpec, Moves
from ssl_zoo.text import printable

DEFAULT_SIZE = 224
"""The side of the network's input for a folder of images, in pixels, unless another is asked for."""
MEMORY_SHARE = 0.25
"""The share of the free memory that decoded images may take."""
MAX_RESIDENT_IMAGES = 200_000
"""Splits of more images are not decoded in advance, as that would take minutes."""
MAX_MEASURED_IMAGES = 10_000
"""The number of images in memory from which mean and deviation are measured."""
MAX_MEASURED_FILES = 256
"""The number of image files from which mean and deviation are measured."""
DAMAGED_FILES_HINT = "its files are damaged; remove them, and they are downloaded again"


_ON_DISK = Notice(
    "on-disk",
    f"Images that would take more than {MEMORY_SHARE:.0%} of the free memory, or more than "
    f"{MAX_RESIDENT_IMAGES:,} of them, are not decoded in advance.",
    "data.resident, data.cache",
)
_MEASURED = Notice(
    "measured",
    f"The mean and deviation that normalise images are measured on up to {MAX_MEASURED_FILES} files, or "
    f"{MAX_MEASURED_IMAGES:,} images in memory.",
    "it cannot be changed",
)


def stored_side(config: DataConfig, size: int) -> int:
    """Return the side at which images are stored, in pixels.

    It is 8/7 of the network's input, which leaves room for random crops.
    """
    return preprocess.stored_side(config.image_size or size)


@dataclass(frozen=True, kw_only=True)
class SplitBuilder:
    """A builder of the splits of one source, which share a record of unreadable files.

    Attributes:
        config: the ``data`` section.
        device: the device on which samples in memory are stored.
        size: the side of the network's input, in pixels, unless the configuration says otherwise.
        channels: the number of channels of images that are decoded, unless the configuration says
            otherwise.
        forms: the form of images that are decoded, once it is known, for all splits.
    """

    config: DataConfig
    device: torch.device
    size: int = DEFAULT_SIZE
    channels: int = 3
    forms: list[Form] = field(default_factory=list)
    unreadable: UnreadableFiles = field(default_factory=lambda: UnreadableFiles("images"))

    def from_dataset(self, dataset: Any, split: str) -> Split:
        """Build a split from a torchvision or timm data set, which gives (image, label) pairs by index.

        Args:
            dataset: the data set; arrays that it holds in memory are used as they are.
            split: the name of the split, for the names of its samples.

        Raises:
            UserError: its arrays are not images, or their number differs from that of the labels.
        """
        arrays = as_arrays(dataset)
        if arrays is not None:
            images, labels = arrays
            _check_arrays(images, labels, f"{self.config.source} {split}")
            return ArraySplit(images.to(self.device), labels)
        side = stored_side(self.config, self.size)
        count = len(dataset)
        if hasattr(dataset, "loader"):  # torchvision's, replaced by ours, which scales JPEG files
            dataset.loader = lambda file: self._open(Path(file), side)
        if not self.forms:
            looked_at = survey(lambda i: dataset[i][0], count, side, self.config.channels)
            self.report(looked_at)
            channels = self.config.channels or next(iter(looked_at.bands), self.channels)
            self.forms.append(looked_at.form(channels, self.config.range is not None))
        images_by_index = ImageFiles(
            open=lambda i: dataset[i][0],
            name=lambda i: f"{self.config.source} {split}[{i}]",
            count=count,
            side=side,
            **vars(self.form),
            workers=decoding_threads(self.config),
            unreadable=self.unreadable,
            origin=origin_of(dataset),
        )
        return LazySplit(images_by_index, labels_of(dataset))

    def from_files(self, paths: Sequence[Path], root: Path, folders: Sequence[Path] = ()) -> ImageFiles:
        """Return the image files below `root`, and in all of `folders`, as a `LazySplit` takes them."""
        side = stored_side(self.config, self.size)
        return ImageFiles(
            open=lambda i: self._open(paths[i], side),
            name=lambda i: str(paths[i]),
            count=len(paths),
            side=side,
            **vars(self.form),
            workers=decoding_threads(self.config),
            unreadable=self.unreadable,
            origin=Origin(root, paths, folders),
        )

    @property
    def form(self) -> Form:
        """The form of images that are decoded."""
        return self.forms[0] if self.forms else Form(self.config.channels or self.channels)

    def survey(self, paths: Sequence[Path]) -> None:
        """Look at image files, report what they are, and choose the form in which they are stored."""
        side = stored_side(self.config, self.size)
        looked_at = survey(lambda i: self._open(paths[i], side), len(paths), side, self.config.channels)
        self.report(looked_at)
        self.forms[:] = [looked_at.form(self.config.channels, self.config.range is not None)]

    def _open(self, file: Path, side: int) -> Any:
        return open_pixels(file, side, self.config.channels, self.config.pages)

    def report(self, looked_at: Survey) -> None:
        """Give notices of what decoding changes in images."""
        size = self.config.image_size or self.size
        name = printable(self.config.source_name)
        looked_at.report(name, size, self.config.image_size is None)


def _check_arrays(images: Tensor, labels: Tensor | None, name: str) -> None:
    """Raise unless arrays are images and their labels, which torchvision does not check.

    Raises:
        UserError: they are not.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        problem = f"does not hold images, but {images.dtype} of shape {tuple(images.shape)}"
    elif images.numel() == 0:
        problem = f"holds {len(images)} images of {images.shape[-1]}×{images.shape[-2]} pixels"
    elif labels is not None and len(labels) != len(images):
        problem = f"has {len(images)} images, but {len(labels)} labels"
    else:
        return
    raise UserError(f"data.source: {name} {problem}; {DAMAGED_FILES_HINT}")


def _check_splits(splits: list[Split], classes: tuple[str, ...] | None, name: str) -> None:
    """Raise unless samples in memory are images of one shape and each label has a class.

    Raises:
        UserError: they have not.
    """
    held = [split.batch(torch.arange(0)) for split in splits if split.resident]
    shapes = {tuple(images.shape[1:]) for images in held}
    number = _count_classes(splits)
    if others := [x for x in held if x.dtype not in TYPES.values() or x.ndim != 4]:
        kind = f"{others[0].dtype} of shape {list(others[0].shape[1:])}".removeprefix("torch.")
        raise UserError(
            f"data.source: {name} gives samples {kind}, not images [C, h, w] of uint8, "
            "uint16, int16 or float32"
        )
    if len(shapes) > 1:
        problem = f"has images of the shapes {' and '.join(map(str, sorted(shapes)))}"
    elif classes is not None and number is not None and number > len(classes):
        problem = f"has a label {number - 1}, but {len(classes)} classes"
    else:
        return
    raise UserError(f"data.source: {name} {problem}; {DAMAGED_FILES_HINT}")


def _sample_shape(split: Split) -> tuple[int, ...]:
    return tuple(split.batch(torch.arange(0)).shape[1:])


def image_side(split: Split) -> int:
    """Return the side of the images of a split in memory, `DEFAULT_SIZE` for image files."""
    return _sample_shape(split)[-1] if split.resident else DEFAULT_SIZE


def hold_out_test(split: Split, config: DataConfig) -> tuple[Split, Split | None, SourceFacts]:
    """Divide a split into one for training and one for evaluation; a single sample is trained on."""
    parts = hold_out(config, len(split), split.labels)
    test = split.subset(parts.test) if len(parts.test) else None
    return split.subset(parts.train), test, SourceFacts(held_out=parts.description)


def assemble(
    name: str,
    config: DataConfig,
    device: torch.device,
    *,
    size: int,
    train: Split,
    test: Split | None = None,
    bank: Split | None = None,
    classes: tuple[str, ...] | None = None,
    mirror: bool | None = None,
    moves: Moves | None = None,
    facts: SourceFacts = NO_FACTS,
) -> DataSet:
    """Make an image data set of its splits.

    Args:
        name: the name given by the user.
        config: the ``data`` section.
        device: the device on which samples are stored that fit into its memory.
        size: the side of the network's input, in pixels, unless the configuration says otherwise.
        train: the samples trained on.
        test: the samples evaluated on, if any.
        bank: the labelled samples, if they differ from those trained on.
        classes: the names of the classes, where they are known.
        mirror: whether a mirrored image has the same meaning; None if unknown, which counts as yes.
        moves: the changes of geometry that keep the meaning, where crops do not; None if unknown.
        facts: the facts about the source that the splits do not show.

    Raises:
        UserError: no image to train on can be read, there can be no cache, or the splits do not fit
            together.
    """
    if mirror is None:
        mirror, facts = True, replace(facts, mirror_assumed=True)
    splits = {"train": train, "test": test, "bank": None if bank is train else bank}
    present = {key: split for key, split in splits.items() if split is not None}
    _check_splits(list(present.values()), classes, name)
    placed = place_splits(present, name, config, device)
    limits = find_limits(train, config, name)
    if limits is not None:
        placed = {key: ScaledSplit(split, limits) for key, split in placed.items()}
    if len(placed["train"]) == 0:
        raise UserError(f"data.source: none of the images of {name} to train on can be read")
    return DataSet(
        name=name,
        spec=replace(
            _measure(
                train, config.image_size or size, mirror, _count_classes(list(present.values())), limits
            ),
            moves=moves,
            pages=config.pages,
        ),
        train=placed["train"],
        test=placed["test"] if "test" in placed and placed["test"].readable() else None,
        bank=placed.get("bank", placed["train"]),
        classes=classes,
        facts=facts,
    )


def place_splits(
    splits: dict[str, Split],
    name: str,
    config: DataConfig,
    device: torch.device,
    noun: str = "images",
    cacheable: bool = True,
) -> dict[str, Split]:
    """Load splits into the device's memory if they fit there together; otherwise leave them on disk.

    Args:
        splits: the splits by name.
        name: the name of the data given by the user.
        config: the ``data`` section, with ``resident`` and ``cache``.
        device: the device.
        noun: the plural noun for samples in messages.
        cacheable: whether ``data.cache`` can keep them decoded, for messages.

    Raises:
        UserError: they must be in memory and do not fit, or there can be no cache.
    """
    cached = config.cache is not None
    files = [split for split in splits.values() if not split.resident]
    if config.cache is not None:
        folder = user_path("data.cache", config.cache)
        splits = {key: split.cached(f"{name} {key}", folder) for key, split in splits.items()}
    free = free_memory(device) / distributed.world_size()
    needed = sum(split.nbytes for split in files)
    quick = cached or all(len(split) <= MAX_RESIDENT_IMAGES for split in files)
    fits = quick and needed <= MEMORY_SHARE * free
    (too_large,) = distributed.all_reduce_max(not fits)  # all processes decide alike
    if config.resident == "never" or (too_large and (cached or config.resident == "auto")):
        if config.resident == "auto" and files:
            _ON_DISK(
                f"{name}: {noun} are decoded at each use, as they would take {needed / 1e6:,.0f} MB of "
                f"{free / 1e6:,.0f} MB free memory"
                + ("; data.cache keeps them decoded on disk" if cacheable else "")
            )
        return splits
    if needed > free and not cached:
        raise UserError(
            f"data.resident: the decoded {noun} need {needed / 1e6:,.0f} MB, and "
            f"{free / 1e6:,.0f} MB of memory are free; choose auto"
            + (", or use data.cache" if cacheable else "")
        )
    return {key: split if split.resident else split.to(device) for key, split in splits.items()}


def free_memory(device: torch.device) -> int:
    """Return the free memory of a device in bytes, at most the limit of a container."""
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


def _count_classes(splits: list[Split]) -> int | None:
    """Return the number of classes, None if no split has labels."""
    labels = [split.labels for split in splits if split.labels is not None and len(split.labels)]
    return int(torch.cat(labels).max()) + 1 if labels else None


def _measure(
    train: Split,
    size: int,
    mirror: bool,
    classes: int | None,
    limits: tuple[float, float] | None = None,
) -> ImageSpec:
    """Measure the mean and deviation of each channel on a fixed part of the train split.

    The part is the same whether or not the split is loaded into memory afterwards, and the result does
    not depend on the number of threads, as it is computed from a histogram.
    """
    limit = MAX_MEASURED_IMAGES if train.resident else MAX_MEASURED_FILES
    if len(train) > limit:
        _MEASURED(
            f"mean and deviation of the channels are measured on {limit:,} of {len(train):,} images"
        )
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    channels = train.batch(order[:limit]).unbind(1)
    if limits is None:
        mean, std = _moments_of_bytes(channels)
    else:
        mean, std = _moments(channels, limits)
    return ImageSpec(
        channels=len(channels),
        size=size,
        mean=tuple(mean.tolist()),
        std=tuple(std.clamp(min=1e-3 if limits is None else 1e-6).tolist()),
        mirror=mirror,
        classes=classes,
        range=limits,
    )


def _moments_of_bytes(channels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the mean and deviation [C] of intensities, given as 0..255 [N, h, w] for each channel."""
    counts = torch.stack([channel.flatten().bincount(minlength=256) for channel in channels]).cpu()
    values, total = torch.arange(256, dtype=torch.float64) / 255, counts.sum(1)  # [256], [C]
    mean = (counts * values).sum(1) / total
    deviation = (values - mean[:, None]).square()
    return mean, ((counts * deviation).sum(1) / (total - 1)).sqrt()


def _moments(channels: Sequence[Tensor], limits: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Return the mean and deviation [C] of intensities, for pixels of any type and their limits."""
    scaled = [scale(channel, limits).double() for channel in channels]
    moments = [(x.mean(), x.std()) for x in scaled]
    mean, std = (torch.stack(values).cpu() for values in zip(*moments, strict=True))
    return mean, std
