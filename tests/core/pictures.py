"""Helpers of the tests of data: image files, and functions that load them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ssl_zoo import preprocess
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import DataSet, load
from ssl_zoo.errors import UserError

CPU = torch.device("cpu")


def folder(path: Path, **settings: Any) -> DataSet:
    """Load a folder as images of 16 pixels for inputs of 14."""
    return load(DataConfig(source=str(path), **{"image_size": 14, **settings}), CPU)


def to_size(image: Image.Image | NDArray[Any], side: int, channels: int) -> Tensor:
    """Return `ssl_zoo.preprocess.to_size` as a tensor, [channels, side, side]."""
    return torch.from_numpy(preprocess.to_size(image, side, channels))


def photo(size: tuple[int, int] = (40, 40), seed: int = 0) -> Image.Image:
    """Return a smooth image of many colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(seed: int = 0, size: tuple[int, int] = (20, 20)) -> bytes:
    """Return the content of a PNG file with a photo."""
    content = io.BytesIO()
    photo(size, seed).save(content, "png")
    return content.getvalue()


def write(path: Path, image: Image.Image | None = None, **options: Any) -> Path:
    """Save an image, by default one that depends on the file's name, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or photo(seed=zlib.crc32(path.name.encode()))).save(path, **options)
    return path


def broken(path: Path) -> Path:
    """Write a file that is not an image and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"not an image")
    return path


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    """Check that a message is one line about a setting of data, and return it."""
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith("data.")
    return message


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send every connection to a proxy that does not exist."""
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)


def named(name: str, root: Path, **settings: Any) -> DataSet:
    """Load a data set by name, with its files in `root`."""
    return load(DataConfig(source=name, root=str(root), **settings), CPU)


def everything(data: DataSet) -> Tensor:
    """Return all samples of the train split."""
    return data.train.batch(torch.arange(len(data.train)))


def idx(array: np.ndarray[Any, Any]) -> bytes:
    """Return the content of an IDX file that holds `array`."""
    kind = {np.dtype(np.uint8): 8, np.dtype(">i4"): 12}[array.dtype]
    return struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape) + array.tobytes()
