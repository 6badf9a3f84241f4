"""Sources that each break one promise, and the check that catches them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from ssl_zoo import ImageSpec
from ssl_zoo.data import ArraySplit, DataSet, Source, SourceOptions, Split, Stream
from ssl_zoo.data.splits import Pass
from ssl_zoo.spec import Spec

BROKEN: list[Any] = []
"""Parameters of a test: the source, the check that catches it, its message, other failing checks."""

SPEC = ImageSpec(channels=1, size=8, mean=(0.5,), std=(0.25,), classes=3)


def images(n: int = 40, seed: int = 0) -> Tensor:
    """Return images of noise, uint8 [n, 1, 8, 8]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, 1, 8, 8), generator=generator).byte()


def sound(train: Split | None = None, test: Split | None = None, spec: Spec = SPEC) -> DataSet:
    """Return a data set that passes every check, but for what is put in its place."""
    train = ArraySplit(images(), torch.arange(40) % 3) if train is None else train
    test = ArraySplit(images(20, 1), torch.arange(20) % 3) if test is None else test
    return DataSet("sound", spec, train, test, train)


def broken(check: str, message: str, *, also: Iterable[str] = ()) -> Callable[[Any], Any]:
    """Declare that a source, or a split to train on, fails a check, and which others fail with it."""

    def declare(made: Any) -> Any:
        source = made
        if isinstance(made, type):
            split = made

            def source(config: Any, device: Any) -> DataSet:
                labelled = split()
                labelled.labels = torch.arange(40) % 3
                return sound(labelled)

        elif not isinstance(made, Source):

            def source(config: Any, device: Any) -> DataSet:
                return made()

        name = getattr(made, "__name__", "options")
        BROKEN.append(pytest.param(source, check, message, {*also}, id=name))
        return made

    return declare


@broken("can_be_opened", "the train split has other samples when it is opened again")
def drawn_anew() -> DataSet:
    return sound(ArraySplit(torch.randint(256, (40, 1, 8, 8)).byte(), torch.arange(40) % 3))


@broken("can_be_opened", "the test split has no sample; let `test` be None")
def empty_test() -> DataSet:
    return sound(test=ArraySplit(images(0), torch.zeros(0, dtype=torch.long)))


@broken("can_be_opened", "ZeroDivisionError: .* by zero at .*broken_sources")
def cannot_be_opened() -> DataSet:
    """Its error is told once: the other checks do not run."""
    return sound(ArraySplit(images(1 // 0), None))


class AnyOptions(SourceOptions, extra="allow"):
    """A misspelt option would go unnoticed."""


broken("options_refuse_nonsense", "an option that it does not have is accepted")(
    Source(lambda config, device, options: sound(), Options=AnyOptions)
)


@dataclass(frozen=True)
class OwnSpec(ImageSpec):
    """A spec that no plugin registers."""


@broken("spec_is_registered", "the spec is a OwnSpec, and ImageSpec is registered")
def own_spec() -> DataSet:
    return sound(spec=OwnSpec(channels=1, size=8, mean=(0.5,), std=(0.25,), classes=3))


@broken("spec_is_registered", "the source is registered for image data, and has sound data")
def other_modality() -> DataSet:
    return sound(spec=replace(SPEC, modality="sound"))


@broken("samples_can_be_prepared", "prepare gives values that are not finite")
def no_deviation() -> DataSet:
    return sound(spec=replace(SPEC, std=(0.0,)))


class LargeExample(OwnSpec):
    """Its example has another size than what it prepares."""

    def example(self, n: int = 2) -> Tensor:
        return torch.zeros(n, 1, 9, 9)


@broken(
    "example_is_like_samples",
    r"example\(1\) is float32 \[1, 1, 9, 9\], and prepared samples are float32 \[1, 1, 8, 8\]",
    also=["spec_is_registered"],
)
def other_example() -> DataSet:
    return sound(spec=LargeExample(**vars(SPEC)))


class OnePicture(OwnSpec):
    """It shows the first sample alone."""

    def show(self, x: Tensor) -> list[Image.Image]:
        return super().show(x)[:1]


@broken("samples_can_be_shown", "a picture or a text of each of 3 samples", also=["spec_is_registered"])
def one_picture() -> DataSet:
    return sound(spec=OnePicture(**vars(SPEC)))


@broken("labels_are_classes", r"must be int64 \[40\] on the CPU, not int32 \[40\] on cpu")
def short_integers() -> DataSet:
    return sound(ArraySplit(images(), (torch.arange(40) % 3).int()))


@broken("labels_are_classes", "labels of the train split go from 1 to 3, and the spec has 3 classes")
def classes_from_one() -> DataSet:
    return sound(ArraySplit(images(), 1 + torch.arange(40) % 3))


@broken("labels_are_classes", "there are labels, and the spec has no `classes`")
def uncounted_classes() -> DataSet:
    return sound(spec=replace(SPEC, classes=None))


@broken(
    "names_are_as_many", "the train split has 40 samples, and names of 39",
    also=["subsets_are_the_same_samples"],
)  # fmt: skip
def a_name_too_few() -> DataSet:
    return sound(ArraySplit(images(), torch.arange(40) % 3, names=[str(i) for i in range(39)]))


@broken("test_split_is_apart", r"1 of 20 samples of the test split .* such as number \[0\]")
def one_sample_in_both() -> DataSet:
    whole = ArraySplit(images(), torch.arange(40) % 3)
    return sound(whole.subset(torch.arange(21)), whole.subset(torch.arange(20, 40)))


class Numbers(Split):
    """A split that is read by index."""

    def __init__(self) -> None:
        self.images = images()

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Tensor) -> Tensor:
        return self.images[indices]


@broken("sizes_are_right", "nbytes of the train split is 40, and its samples take about 2,560 bytes")
class CountForSize(Numbers):
    nbytes = 40


@broken(
    "batches_have_one_form",
    "different forms: uint8 of 3 axes .train, 1 samples.; uint8 of 4 axes .train, 2 samples.",
    also=["example_is_like_samples"],
)
class SqueezedSingle(Numbers):
    """A single sample has no leading axis."""

    def batch(self, indices: Tensor) -> Tensor:
        return super().batch(indices).squeeze(0)


@broken("batches_have_one_form", "different forms: .*train, 1 samples.*; .*test, 1 samples")
class WiderToTrainOn(Numbers):
    def batch(self, indices: Tensor) -> Tensor:
        return super().batch(indices).short()


@broken(
    "batches_follow_from_indices", "train split give other samples the second time",
    also=["can_be_opened", "batches_are_new", "subsets_are_the_same_samples", "passes_resume",
          "processes_share_a_pass", "samples_can_be_prepared"],
)  # fmt: skip
class Noisy(Numbers):
    """Noise is drawn from torch's generator."""

    def batch(self, indices: Tensor) -> Tensor:
        return super().batch(indices) + torch.randint(3, (len(indices), 1, 1, 1)).byte()


@broken(
    "batches_follow_from_indices", r"the indices \[3, 3, 0, .*\] in the train split give other samples",
    also=["batches_are_new", "processes_share_a_pass"],
)  # fmt: skip
class Positioned(Numbers):
    """The content follows from the place in the batch, too."""

    def batch(self, indices: Tensor) -> Tensor:
        return super().batch(indices) + torch.arange(len(indices)).byte().view(-1, 1, 1, 1)


@broken("batches_follow_from_indices", "batches of the train split differ when 4 threads read them")
class SharedCursor(Numbers):
    """Threads that read at the same time move one cursor, as with one open file."""

    resident = False
    readers = 4

    def batch(self, indices: Tensor) -> Tensor:
        read = []
        for self.place in indices.tolist():
            time.sleep(1e-4)
            read.append(self.images[self.place])
        return torch.stack(read)

    def read_batches(self, chunks: Iterable[Tensor], **arguments: Any) -> Generator[Tensor]:
        yield from map(self.batch, chunks)


@broken("batches_are_new", "what is written into a batch of the train split is in later ones")
class Remembering(Numbers):
    """A batch that was read before is given again."""

    def __init__(self) -> None:
        super().__init__()
        self.read: dict[tuple[int, ...], Tensor] = {}

    def batch(self, indices: Tensor) -> Tensor:
        return self.read.setdefault(tuple(indices.tolist()), super().batch(indices))


@broken(
    "batches_are_new", "a batch of the train split changes when the next is read",
    also=["batches_follow_from_indices", "passes_resume", "processes_share_a_pass", "can_be_opened"],
)  # fmt: skip
class OneBuffer(Numbers):
    """All batches lie in the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = images()

    def batch(self, indices: Tensor) -> Tensor:
        return self.buffer[: len(indices)].copy_(super().batch(indices))


@broken("subsets_are_the_same_samples", "a subset of the train split has other labels")
class UnsortedLabels(Numbers):
    def subset(self, indices: Tensor) -> Split:
        assert self.labels is not None
        return ArraySplit(self.batch(indices), self.labels[: len(indices)])


@broken("passes_resume", "a pass resumed after 1 of 5 batches", also=["processes_share_a_pass"])
class OrderOfItsOwn(Numbers):
    """The order is not drawn from the generator that is given."""

    def order(self, generator: torch.Generator) -> Tensor:
        return torch.randperm(len(self))


@broken("passes_resume", "a pass resumed after 1 of 5 batches", also=["processes_share_a_pass"])
class AlwaysFromTheStart(Numbers):
    """A resumed pass begins anew."""

    def batches(self, part: Pass) -> Generator[tuple[Tensor, Tensor]]:
        yield from itertools.islice(super().batches(replace(part, first=0)), part.end - part.first)


@broken("processes_share_a_pass", "process 1 of 2 gets other samples than its share")
class AllTheSame(Numbers):
    """Every process gets what the first gets."""

    def batches(self, part: Pass) -> Generator[tuple[Tensor, Tensor]]:
        return super().batches(replace(part, rank=0))


class Line(Stream):
    """A stream that passes every check."""

    def __init__(self) -> None:
        self.images = images()

    def __len__(self) -> int:
        return 40

    def read(self, seed: int | None) -> Iterator[tuple[int, Tensor]]:
        for number in self.numbers(seed):
            yield number, self.images[number].clone()

    def numbers(self, seed: int | None) -> list[int]:
        if seed is None:
            return list(range(40))
        return torch.randperm(40, generator=torch.Generator().manual_seed(seed)).tolist()


@broken(
    "streams_yield_each_sample_once", r"read\(None\) of the train stream yields 39 samples, .* is 40",
    also=["sizes_are_right", "test_split_is_apart", "passes_resume", "processes_share_a_pass",
          "can_be_opened", "batches_follow_from_indices", "batches_are_new"],
)  # fmt: skip
class EndsEarly(Line):
    """The last sample is never read."""

    def read(self, seed: int | None) -> Iterator[tuple[int, Tensor]]:
        return itertools.islice(super().read(seed), 39)


@broken(
    "streams_yield_each_sample_once", r"read\(7\) .* must yield each number below 40 once",
    also=["streams_follow_from_the_seed", "passes_resume", "batches_follow_from_indices"],
)  # fmt: skip
class CountedAsRead(Line):
    """Numbers are those of an archive, and begin again with the next."""

    def read(self, seed: int | None) -> Iterator[tuple[int, Tensor]]:
        samples = super().read(seed)
        return samples if seed is None else ((i % 20, sample) for i, sample in samples)


@broken(
    "streams_follow_from_the_seed", "yields other samples the second time",
    also=["streams_start_anywhere", "passes_resume", "processes_share_a_pass"],
)  # fmt: skip
class Shuffled(Line):
    """The order is drawn from torch's generator."""

    def numbers(self, seed: int | None) -> list[int]:
        return super().numbers(seed) if seed is None else torch.randperm(40).tolist()


@broken(
    "streams_start_anywhere", r"read_from\(None, 1\) .* is not the rest of read\(None\)",
    also=["passes_resume", "processes_share_a_pass"],
)  # fmt: skip
class StartsAtArchives(Line):
    """Only whole archives of ten are skipped."""

    def read_from(self, seed: int | None, start: int) -> Iterator[tuple[int, Tensor]]:
        return super().read_from(seed, start // 10 * 10)
