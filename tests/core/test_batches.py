"""Batches of samples: from memory, or decoded by threads in bounded memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from ssl_zoo.data import ArraySplit, LazySplit, Split, residence
from ssl_zoo.data.image_files import ImageFiles
from ssl_zoo.errors import UserError
from tests.core.pictures import folder, photo, write


class Squares(Split):
    """A split of another package, with the two methods that it must define."""

    def __len__(self) -> int:
        return 10

    def batch(self, indices: Tensor) -> Tensor:
        return indices.square().unsqueeze(1)


def test_a_split_needs_only_a_length_and_a_batch(tmp_path: Path) -> None:
    split = Squares()
    assert (split.labels, split.names, dict(split.skipped)) == (None, None, {})
    assert (split.resident, split.readable(), split.nbytes) == (True, True, 80)
    assert [len(batch) for batch in split.stream(torch.arange(10), 4)] == [4, 4, 2]
    assert [len(batch) for batch in split.stream(torch.arange(10), 4, drop_last=True)] == [4, 4]
    part = split.subset(torch.tensor([3, 5]))
    assert part.batch(torch.arange(2)).flatten().tolist() == [9, 25]
    moved = split.to(torch.device("meta"))
    assert moved.batch(torch.arange(4)).device.type == "meta"
    assert split.cached("squares train", tmp_path / "cache") is split
    assert not (tmp_path / "cache").exists()


def test_data_that_fits_is_resident_and_never_gives_the_same_squares_lazily(tmp_path: Path) -> None:
    for i in range(23):
        write(tmp_path / f"{i}.jpg", photo((60, 40), i))
    resident = folder(tmp_path)
    assert isinstance(resident.train, ArraySplit)
    assert resident.train.samples.dtype == torch.uint8
    order = torch.randperm(len(resident.train))
    expected = resident.train.samples[order].split(4)
    for workers in (1, 2, 7):
        lazy = folder(tmp_path, resident="never", workers=workers)
        assert isinstance(lazy.train, LazySplit)
        assert lazy.spec == resident.spec
        result = list(lazy.train.stream(order, 4))
        assert len(result) == len(expected) == 6
        assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
        assert len(list(lazy.train.stream(order, 4, drop_last=True))) == 5


def test_data_that_does_not_fit_stays_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(10):
        write(tmp_path / f"{i}.png")
    size = 10 * 3 * 16 * 16
    monkeypatch.setattr(residence, "free_memory", lambda device: 4 * size)
    assert isinstance(folder(tmp_path).train, ArraySplit)
    monkeypatch.setattr(residence, "free_memory", lambda device: 4 * size - 1)
    assert isinstance(folder(tmp_path).train, LazySplit)
    assert isinstance(folder(tmp_path, resident="always").train, ArraySplit)


def image_files(open_image: Callable[[int], Image.Image], count: int, workers: int) -> ImageFiles:
    return ImageFiles(
        open=lambda i, side: open_image(i),
        name=str,
        count=count,
        size=(8, 8),
        channels=1,
        workers=workers,
    )


class Watched:
    """A split that records which of its images are opened."""

    def __init__(self, count: int, workers: int) -> None:
        self.opened: list[int] = []
        self.split = LazySplit(image_files(self.open, count, workers), None)

    def open(self, number: int) -> Image.Image:
        self.opened.append(number)
        return Image.new("L", (8, 8), number)


def decoders() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("ssl-zoo-decode")]


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_no_more_than_prefetch_batches_are_decoded_ahead(prefetch: int) -> None:
    watched = Watched(200, workers=4)
    stream = watched.split.stream(torch.arange(200), 10, prefetch=prefetch)
    assert watched.opened == []
    for taken, batch in enumerate(stream, 1):
        assert batch[:, 0, 0, 0].tolist() == list(range(10 * taken - 10, 10 * taken))
        # The threads get time to run ahead as far as allowed, and must not go further.
        for _ in range(200):
            if len(watched.opened) == min(200, 10 * (taken + prefetch)):
                break
            threading.Event().wait(0.005)
        threading.Event().wait(0.002)
        assert len(watched.opened) == min(200, 10 * (taken + prefetch))
    assert sorted(watched.opened) == list(range(200))


def test_closing_the_iterator_ends_the_threads_and_their_work() -> None:
    watched = Watched(1000, workers=4)
    stream = watched.split.stream(torch.arange(1000), 50)
    next(stream)
    assert len(decoders()) == 4
    stream.close()
    assert decoders() == []
    assert len(watched.opened) <= 150


def test_an_error_in_a_thread_reaches_who_takes_the_batches_and_ends_the_threads() -> None:
    def fail(number: int) -> Image.Image:
        raise OSError("gone")

    split = LazySplit(image_files(fail, 100, workers=2), None)
    with pytest.raises(UserError, match=r"of 100 images cannot be read, the last being .*: gone"):
        next(split.stream(torch.arange(100), 10))
    assert decoders() == []
