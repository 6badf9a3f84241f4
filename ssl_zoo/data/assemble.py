"""From the splits of a source to a data set: loaded into memory where they fit, and measured."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ssl_zoo import preprocess
from ssl_zoo.config.schema import DEFAULT_SIZE, DataConfig
from ssl_zoo.data.canvas import Canvas
from ssl_zoo.data.catalogue import as_arrays, labels_of
from ssl_zoo.data.dataset import DataSet
from ssl_zoo.data.decode import has_pages, open_pixels
from ssl_zoo.data.decoded_cache import origin_of
from ssl_zoo.data.holdout import hold_out
from ssl_zoo.data.image_files import ImageFiles, Opener
from ssl_zoo.data.lazy import LazySplit
from ssl_zoo.data.parts import find_parts
from ssl_zoo.data.pixels import TYPES, Form, ScaledSplit, fixed_part, scale
from ssl_zoo.data.read_ahead import decoding_threads
from ssl_zoo.data.residence import place_splits
from ssl_zoo.data.sample_files import Origin, UnreadableFiles
from ssl_zoo.data.splits import ArraySplit, Split
from ssl_zoo.data.summary import NO_FACTS, SourceFacts
from ssl_zoo.data.survey import Survey, survey
from ssl_zoo.data.value_range import find_limits
from ssl_zoo.errors import UserError
from ssl_zoo.notices import Notice
from ssl_zoo.sizes import Size, parse_size, write_size
from ssl_zoo.spec import ImageSpec, Moves
from ssl_zoo.text import printable

MAX_MEASURED_IMAGES = 10_000
"""The number of images in memory from which mean and deviation are measured."""
MAX_MEASURED_FILES = 256
"""The number of image files from which mean and deviation are measured."""
DAMAGED_FILES_HINT = "its files are damaged; remove them, and they are downloaded again"


_MEASURED = Notice(
    "measured",
    f"The mean and deviation that normalise images are measured on up to {MAX_MEASURED_FILES} files, or "
    f"{MAX_MEASURED_IMAGES:,} images in memory.",
    "it cannot be changed",
)


def input_size(config: DataConfig, size: Size | None = None) -> Size:
    """Return the size of the network's input, for a source with a size of its own or none."""
    return config.image_size or size or config.default_size


def stored_size(config: DataConfig, size: Size | None = None) -> tuple[int, int]:
    """Return the height and width at which images are stored, in pixels.

    They are 8/7 of the network's input, which leaves room for random crops.
    """
    return preprocess.stored_size(input_size(config, size))


@dataclass(frozen=True, kw_only=True)
class SplitBuilder:
    """A builder of the splits of one source, which share a record of unreadable files.

    Attributes:
        config: the ``data`` section.
        device: the device on which samples in memory are stored.
        size: the size of the network's input, unless the configuration says otherwise; None for
            ``data.default_size``.
        channels: the number of channels of images that are decoded, unless the configuration says
            otherwise.
        forms: the form of images that are decoded, once it is known, for all splits.
        sizes: the height and width of those looked at, likewise.
    """

    config: DataConfig
    device: torch.device
    size: Size | None = None
    channels: int = 3
    forms: list[Form] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
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
        opener, count = self._opener(dataset), len(dataset)
        if not self.forms:
            looked_at = self._survey(opener, count)
            found = looked_at.channels if looked_at.channels not in (1, 3) else self.channels
            channels = self.config.channels or found
            self._choose(looked_at, self.config.model_copy(update={"channels": channels}))
        files = self._images(
            opener, lambda i: f"{self.config.source} {split}[{i}]", count, origin_of(dataset)
        )
        return LazySplit(files, labels_of(dataset))

    def _opener(self, dataset: Any) -> Opener:
        """Return a function that opens an image of a torchvision or timm data set."""

        @cache
        def at(side: int) -> Any:
            scaled = copy.copy(dataset)
            if hasattr(dataset, "loader"):  # replaced by ours, which scales JPEG files
                scaled.loader = partial(self._open, side=side)
            return scaled

        return lambda i, side: at(side)[i][0]

    def from_files(
        self, paths: Sequence[Path], root: Path, folders: Sequence[Path] = ()
    ) -> tuple[ImageFiles, Tensor]:
        """Return the images in files below `root`, and in all of `folders`, as a `LazySplit` takes them.

        An image is a file or a part of one. Those of the first split are looked at.

        Returns:
            The images, and the number of each one's file, int64 [N].
        """
        config, workers = self.config, decoding_threads(self.config)
        if not config.divides_files:
            return self.from_whole_files(paths, root, folders), torch.arange(len(paths))
        size = input_size(config, self.size)
        parts = find_parts(paths, config, size, workers, printable(config.source_name))
        pages = parts.pages
        self._survey_files(len(pages), parts.page_opener(self._open_page), lambda i: pages[i][0])
        opener = parts.opener(self._open_page, workers)
        owners = parts.owners
        tile = None if parts.tile is None else write_size(parts.tile)
        division = f"{config.pages} {tile}"
        origin = Origin(root, [paths[i] for i in owners.tolist()], folders, division)
        images = self._images(opener, parts.name, len(parts), origin)
        images.sizes = parts.sizes
        return images, owners

    def from_whole_files(
        self, paths: Sequence[Path], root: Path, folders: Sequence[Path] = ()
    ) -> ImageFiles:
        """Return the images in files below `root`, and in all of `folders`, one in each."""

        def opener(i: int, side: int) -> Any:
            return self._open(paths[i], side)

        self._survey_files(len(paths), opener, paths.__getitem__)
        division = "channels" if self.config.pages == "channels" else ""
        origin = Origin(root, paths, folders, division)
        return self._images(opener, lambda i: str(paths[i]), len(paths), origin)

    def from_contents(
        self,
        content: Callable[[int], IO[bytes]],
        name: Callable[[int], str],
        count: int,
        origin: Origin | None,
        looked_at: Sequence[int],
    ) -> ImageFiles:
        """Return images whose files are parts of others, such as members of an archive.

        Args:
            content: opens the file of an image, which several threads may ask for.
            name: returns its name.
            count: the number of images.
            origin: the files that they are parts of; None where these are not on this machine.
            looked_at: the numbers of the images that are looked at; none for some of all.
        """

        def opener(i: int, side: int) -> Any:
            return self._open(content(i), side)

        self._survey_files(count, opener, content, looked_at)
        return self._images(opener, name, count, origin)

    def _images(
        self, opener: Opener, name: Callable[[int], str], count: int, origin: Origin | None
    ) -> ImageFiles:
        return ImageFiles(
            open=opener,
            name=name,
            count=count,
            size=stored_size(self.config, self.size),
            **vars(self.form),
            workers=decoding_threads(self.config),
            unreadable=self.unreadable,
            origin=origin,
            sizes=self.sizes,
        )

    @property
    def form(self) -> Form:
        """The form of images that are decoded."""
        return self.forms[0] if self.forms else Form(self.config.channels or self.channels)

    def _survey_files(
        self,
        count: int,
        opener: Opener,
        file: Callable[[int], Path | IO[bytes]],
        numbers: Sequence[int] | None = None,
    ) -> None:
        """Look at pages of files, report what they are, and choose the form in which they are stored.

        Nothing is done where a form is chosen already.

        Args:
            count: the number of pages.
            opener: opens a page.
            file: returns the file of a page.
            numbers: those that are looked at; None for some of all.
        """
        if self.forms:
            return
        first = self.config.pages == "first"
        looked_at = self._survey(opener, count, lambda i: first and has_pages(file(i)), numbers)
        if self.config.tile is not None:  # of which none is looked at
            del looked_at.counts["not square"], looked_at.counts["small"]
        if self.config.pages == "samples":
            del looked_at.counts["frames"]
        self._choose(looked_at, self.config)

    def _survey(
        self,
        opener: Opener,
        count: int,
        has_pages: Callable[[int], bool] = lambda i: False,
        numbers: Sequence[int] | None = None,
    ) -> Survey:
        """Look at images, whose sizes are kept."""
        size = input_size(self.config, self.size)
        side = max(preprocess.stored_size(size))
        channels = self.config.channels
        looked_at = survey(lambda i: opener(i, side), count, size, channels, has_pages, numbers)
        self.sizes[:] = looked_at.sizes
        return looked_at

    def _choose(self, looked_at: Survey, config: DataConfig) -> None:
        """Choose the form in which images are stored, and give notices of what decoding changes."""
        self.forms[:] = [looked_at.form(config)]
        name = printable(self.config.source_name)
        of_weights = self.size is None and self.config.default_size != DEFAULT_SIZE
        default = "the size of the network's weights" if of_weights else "the default"
        size = input_size(self.config, self.size)
        looked_at.report(name, size, self.form, default if self.config.image_size is None else None)

    def _open_page(self, path: Path, page: int, side: int) -> Any:
        return self._open(path, side, page)

    def _open(self, file: str | Path | IO[bytes], side: int, page: int = 0) -> Any:
        file = Path(file) if isinstance(file, str) else file
        pages = page if self.config.pages == "samples" else self.config.pages
        return open_pixels(file, side, self.config.channels, pages)


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


def image_size(split: Split) -> Size | None:
    """Return the size of the images of a split in memory, None for image files."""
    return parse_size(_sample_shape(split)[-2:]) if split.resident else None


def hold_out_test(split: Split, config: DataConfig) -> tuple[Split, Split | None, SourceFacts]:
    """Divide a split into one for training and one for evaluation; a single sample is trained on."""
    parts = hold_out(config, len(split), split.labels, parts_of=split.groups)
    test = split.subset(parts.test) if len(parts.test) else None
    return split.subset(parts.train), test, SourceFacts(held_out=parts.description)


def assemble(
    name: str,
    config: DataConfig,
    device: torch.device,
    *,
    size: Size | None,
    train: Split,
    test: Split | None = None,
    bank: Split | None = None,
    classes: tuple[str, ...] | None = None,
    mirror: bool | None = None,
    moves: Moves | None = None,
    widen: bool = False,
    facts: SourceFacts = NO_FACTS,
) -> DataSet:
    """Make an image data set of its splits.

    Args:
        name: the name given by the user.
        config: the ``data`` section.
        device: the device on which samples are stored that fit into its memory.
        size: the side of the network's input in pixels, or its height and width, unless the
            configuration says otherwise; None for ``data.default_size``.
        train: the samples trained on.
        test: the samples evaluated on, if any.
        bank: the labelled samples, if they differ from those trained on.
        classes: the names of the classes, where they are known.
        mirror: whether a mirrored image has the same meaning; None if unknown, which counts as yes.
        moves: the changes of geometry that keep the meaning, where crops do not; None if unknown.
        widen: whether images of 8 bits have become images of 16, as in `Form`.
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
    size = input_size(config, size)
    for key in placed.keys() - {"test"}:
        placed[key].canvas = Canvas.of(present[key], placed[key], config, size, device, name, key)
    limits = find_limits(train, config, name)
    if limits is not None:
        placed = {key: ScaledSplit(split, limits) for key, split in placed.items()}
    if len(placed["train"]) == 0:
        raise UserError(f"data.source: none of the images of {name} to train on can be read")
    return DataSet(
        name=name,
        spec=replace(
            _measure(train, size, mirror, _count_classes(list(present.values())), limits),
            moves=moves,
            pages="channels" if config.pages == "channels" else "first",
            widen=widen,
        ),
        train=placed["train"],
        test=placed["test"] if "test" in placed and placed["test"].readable() else None,
        bank=placed.get("bank", placed["train"]),
        classes=classes,
        facts=facts,
    )


def _count_classes(splits: list[Split]) -> int | None:
    """Return the number of classes, None if no split has labels."""
    labels = [split.labels for split in splits if split.labels is not None and len(split.labels)]
    return max(int(part.max()) for part in labels) + 1 if labels else None


def _measure(
    train: Split,
    size: Size,
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
    channels = fixed_part(train, limit).unbind(1)
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
