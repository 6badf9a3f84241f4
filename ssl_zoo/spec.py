"""The description of samples that sources, encoders and tasks share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from os import PathLike
from typing import IO, Any, ClassVar, Literal, TypeVar

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter
from torch import Tensor

from ssl_zoo.errors import Unsuitable, UserError
from ssl_zoo.notices import Notice
from ssl_zoo.preprocess import image_input
from ssl_zoo.sizes import Size, format_size, height_width, parse_size
from ssl_zoo.text import shorten_repr
from ssl_zoo.tree import Tree

S = TypeVar("S", bound="Spec")

RAW_SIZE = 32
"""The largest side, in pixels, of images whose raw pixels serve as baseline features.

Larger images are shrunk to it: their pixels would need more memory and are no better as features."""


CHANNELS = Notice(
    "channels-converted",
    "Evaluated or embedded images have another number of channels than the network takes: gray is "
    "repeated, colours are averaged.",
    "give data with the channels of the training data",
)
_RAW = Notice(
    "raw-size",
    f"For the baseline `pixels`, images are shrunk to at most {RAW_SIZE}×{RAW_SIZE} pixels.",
    "it cannot be changed",
)


@dataclass(frozen=True)
class Spec:
    """The shape and meaning of the samples of a source.

    A plugin for another modality derives its own frozen dataclass with the facts that its encoders and
    tasks need, such as the size and padding token of a vocabulary, or a sampling rate, and registers it
    with `ssl_zoo_register_specs`. Its fields must be plain values, as they are saved with a backbone.

    A raw batch is what a split gives, and a prepared one what a network takes.

    Attributes:
        modality: the kind of data, such as ``"image"``.
        classes: the number of classes, for tasks that need labels; None if there are no labels.
        samples: the number of samples of the train split; None if unknown, as for a saved backbone.
    """

    raw_name: ClassVar[str | None] = None
    """The name of the raw-input baseline, such as "pixels"; None if raw input has no use as features."""
    raw_note: ClassVar[str] = "the raw input"
    """A description of the raw-input baseline's features, for the notes below tables."""
    noun: ClassVar[str] = "samples"
    """The plural noun for the samples, such as "images"."""

    modality: str
    classes: int | None = field(default=None, kw_only=True)
    samples: int | None = field(default=None, kw_only=True)

    def example(self, n: int = 2) -> Tree:
        """Return a prepared batch of `n` samples of any content, to find the shapes that it leads to.

        Raises:
            Unsuitable: unless a plugin's spec defines it.
        """
        raise Unsuitable(f"{type(self).__name__} gives no example of a sample; define `example`")

    def prepare(self, batch: Tree) -> Tree:
        """Return a raw batch as input for a network, without augmentation, for evaluation."""
        return batch

    def vary(self, batch: Tree, generator: torch.Generator) -> Tree:
        """Return `prepare` of a batch after a slight random change that keeps the meaning of samples.

        By default nothing is changed.
        """
        return self.prepare(batch)

    def pad(self, x: Tree, places: int) -> Tree | None:
        """Return a prepared batch with this many places of padding more after each sample.

        None where samples have one size. The conformance suite compares features with and without.
        """
        return None

    def raw(self, batch: Tree) -> Tensor:
        """Return a raw batch as features [B, D], for the raw-input baseline."""
        features: Tensor = batch.flatten(1).float()
        return features

    def show(self, x: Tree) -> Sequence[Image.Image | str]:
        """Return a small picture, or a short text, of each sample of a prepared batch.

        Pages and `ssl-zoo views` show these; the picture of a sound may be its spectrogram. Batches of
        further types, such as spectra of sounds, may be shown too, for columns of `Task.gallery`.

        Raises:
            Unsuitable: unless a plugin's spec defines it.
        """
        raise Unsuitable(f"{self.modality} data cannot be shown, as its spec does not define `show`")

    def preprocess(self, source: Any) -> Tree:
        """Return what a user has, such as the path of a file, as a prepared batch of one sample.

        Raises:
            Unsuitable: unless a plugin's spec defines it.
        """
        raise Unsuitable(f"{type(self).__name__} does not define `preprocess`")

    def data_settings(self) -> dict[str, Any]:
        """Return the settings of the section ``data`` under which a network of these takes other data.

        They are as in a file: ``{"image_size": 64}``, or ``{"options": {"vocabulary": "words.txt"}}``
        for a source of a plugin. By default there are none.
        """
        return {}

    def start_settings(self, file: str) -> dict[str, Any]:
        """Return the settings of the section ``data`` for training that starts from a saved network.

        They hold where the user sets no others, and are kept in the new run. By default they are
        `data_settings`; a long value may be replaced by a name that the source can read it from.

        Args:
            file: the run, or the file, that has the network and this description.
        """
        return self.data_settings()

    def network_settings(self) -> dict[str, Any]:
        """Return the settings of the section ``backbone`` for training that starts from a saved network.

        They tell how the network was fed, and hold where the user sets no others. By default there are
        none.
        """
        return {}

    def kept_files(self) -> dict[str, bytes]:
        """Return the files that a run keeps so that its own data is read again as it was.

        They are by name, ``OPTION.SUFFIX``, and such an option of the source, ``data.options.OPTION``,
        names its file when the run is resumed or evaluated. By default there are none.
        """
        return {}

    def adopt(self: S, other: Spec) -> S:
        """Return the description by which a network of these samples takes other ones.

        By default they must be of the same kind in all but classes and number; override it where there
        is a conversion.

        Args:
            other: the description of the other samples, read under `data_settings`.

        Raises:
            UserError: the network cannot take them; the message goes on after the name of the data.
        """
        if other.modality != self.modality or type(other) is not type(self):
            raise UserError(f"is {other.modality} data, but the network takes {self._samples()}")
        free = {"classes", "samples"}
        for name in (f.name for f in fields(self) if f.name not in free):
            if (theirs := getattr(other, name)) != (ours := getattr(self, name)):
                raise UserError(
                    f"has {name}={shorten_repr(theirs)}, but the network takes {self._samples()} with "
                    f"{name}={shorten_repr(ours)}, and there is no conversion"
                )
        return self

    def _samples(self) -> str:
        return self.noun if self.noun != Spec.noun else f"{self.modality} data"

    def without_classes(self: S) -> S:
        """Return the description of the same samples without labels."""
        return replace(self, classes=None)

    def to_header(self) -> str:
        """Return the description as JSON, for the header of a saved backbone."""
        values: dict[str, Any] = TypeAdapter(type(self)).dump_python(self, mode="json")
        del values["samples"]
        return json.dumps(values)

    @classmethod
    def from_header(cls: type[S], header: str) -> S:
        """Return the description that `to_header` wrote.

        Raises:
            ValueError: it is of another kind, or has unknown fields.
        """
        adapter = TypeAdapter(cls)
        spec = adapter.validate_json(header)
        if unknown := json.loads(header).keys() - adapter.dump_python(spec):
            raise ValueError(f"spec has {sorted(unknown)}")
        return spec


@dataclass(frozen=True)
class Moves:
    """The random changes of geometry that keep the meaning of an image, as of a written character.

    Attributes:
        degrees: the largest rotation to either side, in degrees.
        translate: the largest shift, as a share of the image's side.
        scale: the range of the factor of enlargement.
        shear: the largest horizontal shear to either side, in degrees.
    """

    degrees: float = 12.0
    translate: float = 0.12
    scale: tuple[float, float] = (0.8, 1.2)
    shear: float = 12.0


@dataclass(frozen=True)
class ImageSpec(Spec):
    """The description of images.

    A raw batch is uint8, or float32 in [0, 1], [B, channels, h, w]; a network takes float [B, channels,
    height, width]. Images of other types are stored as they are, and scaled as batches are read.

    Attributes:
        channels: the number of channels.
        size: the side of the network's input, in pixels; the pair (height, width) where it is not
            square. What counts pixels takes `height` and `width`, which there are for both.
        mean: the mean of each channel over the train split, for intensities in [0, 1].
        std: the standard deviation of each channel, likewise.
        mirror: whether a mirrored image has the same meaning, which is false for digits and text. It is
            the default of whether tasks flip images at random.
        moves: the changes of geometry that keep the meaning, where crops do not, as half a digit is no
            digit. They are the default of tasks' views; None: unknown, and tasks crop as papers do.
        range: the values of the data that are the intensities 0 and 1; None for 0 and 255 of 8 bits.
        pages: "channels" where the pages of a TIFF or DICOM file are channels, otherwise "first".
        widen: whether values of 8 bits are multiplied by 257, as shares of the range of 16 bits.
        interpolation: how images are resized to the input, as the network's weights were trained.

    Raises:
        ValueError: `mean` or `std` does not have one number for each channel.
    """

    raw_name: ClassVar[str | None] = "pixels"
    raw_note: ClassVar[str] = f"the raw input, shrunk to at most {RAW_SIZE}×{RAW_SIZE}"
    noun: ClassVar[str] = "images"

    modality: str = "image"
    channels: int = 3
    size: Size = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    mirror: bool = True
    moves: Moves | None = None
    range: tuple[float, float] | None = None
    pages: str = "first"
    widen: bool = False
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", parse_size(self.size))
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"ImageSpec: channels={self.channels}, so mean and std must have as many values, "
                f"not {len(self.mean)} and {len(self.std)}"
            )

    @property
    def height(self) -> int:
        """The height of the network's input, in pixels."""
        return height_width(self.size)[0]

    @property
    def width(self) -> int:
        """The width of the network's input, in pixels."""
        return height_width(self.size)[1]

    def example(self, n: int = 2) -> Tensor:
        """Return black images, float32 [n, channels, height, width]."""
        return torch.zeros(n, self.channels, self.height, self.width)

    def prepare(self, batch: Tensor) -> Tensor:
        """Resize and normalise a raw batch [B, C, h, w] to float32 [B, channels, height, width].

        Resizing is antialiased, by `interpolation`; where bicubic overshoots, intensities are clipped to
        [0, 1], as torchvision does for 8 bits. Images of another source may have another number of
        channels C: gray is repeated, and colours are averaged for a network that takes gray.

        Raises:
            UserError: there is no such conversion.
        """
        x = self._channels(to_float(batch))
        if x.shape[-2:] != (self.height, self.width):
            x = F.interpolate(x, (self.height, self.width), mode=self.interpolation, antialias=True)
            x = x.clamp_(0, 1) if self.interpolation == "bicubic" else x
        return self.normalise(x)

    def preprocess(self, source: str | PathLike[str] | IO[bytes] | Image.Image | NDArray[Any]) -> Tensor:
        """Return a file, a decoded image or pixels [C, h, w] as the input [1, channels, height, width].

        Raises:
            UserError: its channels or its type are not those of the network, or a library is missing.
        """
        try:
            values = image_input(
                source,
                self.size,
                self.channels,
                self.mean,
                self.std,
                limits=self.range,
                pages=self.pages,
                widen=self.widen,
                interpolation=self.interpolation,
            )
        except (ImportError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"cannot take an image: {error}") from error
        return torch.from_numpy(values)

    def vary(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Return `prepare` of a random part, at least half the area, randomly flipped if `mirror`."""
        x = self._channels(to_float(batch))
        draw = torch.rand(4, len(x), generator=generator).to(x.device)
        side = 0.5**0.5 + (1 - 0.5**0.5) * draw[0]
        flip = torch.where((draw[3] < 0.5) & self.mirror, -1.0, 1.0)
        theta = x.new_zeros(len(x), 2, 3)
        theta[:, 0, 0], theta[:, 1, 1] = side * flip, side
        theta[:, 0, 2], theta[:, 1, 2] = ((1 - side) * (2 * d - 1) for d in draw[1:3])
        shape = [len(x), self.channels, self.height, self.width]
        grid = F.affine_grid(theta, shape, align_corners=False)
        return self.normalise(F.grid_sample(x, grid, padding_mode="border", align_corners=False))

    def raw(self, batch: Tensor) -> Tensor:
        """Return a raw batch, shrunk to at most `RAW_SIZE`, as features [B, D] from 0 to 255."""
        x = batch * 255 if batch.is_floating_point() else batch.float()
        height, width = min(self.height, RAW_SIZE), min(self.width, RAW_SIZE)
        if (height, width) != (self.height, self.width):
            sizes = f"{height}×{width} pixels, not {format_size(self.size)}"
            _RAW(f"the baseline pixels sees images of {sizes}")
        if x.shape[-2] > height or x.shape[-1] > width:
            x = F.interpolate(x, (height, width), mode="bilinear", antialias=True)
        return x.flatten(1)

    def data_settings(self) -> dict[str, Any]:
        """Return the size of the network's input, and how pixels are read where that is particular."""
        settings: dict[str, Any] = {"image_size": self.size}
        if self.range is not None:
            settings["range"] = list(self.range)
        if self.channels not in (1, 3):
            settings["channels"] = self.channels
        if self.pages != "first":
            settings["pages"] = self.pages
        if self.widen:
            settings["widen"] = True
        return settings

    def network_settings(self) -> dict[str, Any]:
        """Return the mean and deviation by which images are normalised, and how they are resized."""
        normalisation = {"mean": list(self.mean), "std": list(self.std)}
        return {**normalisation, "interpolation": self.interpolation}

    def normalised_by(self, mean: Sequence[float], std: Sequence[float]) -> ImageSpec | None:
        """Return the same images, normalised by a given mean and deviation; None if these do not fit.

        For images of one channel those of several are averaged, and those of one hold for each of
        several channels, as a network's weights are converted.
        """
        if len(mean) != self.channels and 1 not in (len(mean), self.channels):
            return None
        mean, std = (_for_channels(values, self.channels) for values in (mean, std))
        return replace(self, mean=mean, std=std)

    def adopt(self, other: Spec) -> ImageSpec:
        """Return the description by which a network of these images takes other ones.

        They have their own size and meaning of mirror images and moves, and are normalised as in
        training.

        Raises:
            UserError: they are not images, or their channels cannot be converted.
        """
        if not isinstance(other, ImageSpec):
            return super().adopt(other)
        if other.channels != self.channels:
            self.check_channels(other.channels)
            CHANNELS(
                f"the images have {other.channels} channels and the network takes {self.channels}: "
                f"{'colours are averaged' if self.channels == 1 else 'gray is repeated'}"
            )
        taken = ("size", "mirror", "moves", "range", "pages", "widen")
        return replace(self, **{name: getattr(other, name) for name in taken})

    def check_channels(self, channels: int) -> None:
        """Raise unless images of so many channels can be converted to these: gray to any, any to gray.

        Raises:
            UserError: they cannot.
        """
        if channels != self.channels and 1 not in (channels, self.channels):
            raise UserError(
                f"the images have {channels} channels and the network takes {self.channels}, between "
                f"which there is no conversion; choose images of {self.channels} channels or of one"
            )

    def _channels(self, x: Tensor) -> Tensor:
        """Convert [B, C, h, w] to [B, channels, h, w]."""
        if x.shape[1] == self.channels:
            return x
        self.check_channels(x.shape[1])
        return x.mean(1, keepdim=True).expand(-1, self.channels, -1, -1)

    def normalise(self, x: Tensor) -> Tensor:
        """Normalise intensities [B, C, h, w] in [0, 1] to zero mean and unit deviation per channel."""
        scale = 1 / self._channel(self.std, x)
        return (x * scale).sub_(self._channel(self.mean, x) * scale)

    def denormalise(self, x: Tensor) -> Tensor:
        """Undo `normalise` and clamp to [0, 1], for display."""
        return (x * self._channel(self.std, x) + self._channel(self.mean, x)).clamp(0, 1)

    def show(self, x: Tensor) -> list[Image.Image]:
        """Return a picture of each image [B, C, h, w], at its own size.

        A single channel is shown as gray; of more than three, the first three.
        """
        with torch.no_grad():
            pixels = self.denormalise(x.detach().float().cpu()).mul(255).round().byte()
        pixels = pixels[:, :3] if pixels.shape[1] >= 3 else pixels[:, :1].expand(-1, 3, -1, -1)
        return [Image.fromarray(p.permute(1, 2, 0).contiguous().numpy()) for p in pixels]

    @staticmethod
    def _channel(values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)


def _for_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Return a value for each channel, of as many, or of one, or for one."""
    if len(values) == channels:
        return tuple(values)
    return (sum(values) / len(values),) * channels


def to_float(images: Tensor) -> Tensor:
    """Return a raw batch as float32 in [0, 1]; a new one, unless it is of floats already."""
    return images if images.is_floating_point() else images.float().div_(255)
