"""What the tests of data share: real image files, and how they are loaded."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import DataSet, load
from ssl_zoo.errors import UserError

CPU = torch.device("cpu")


def folder(path: Path, **settings: Any) -> DataSet:
    """The data set of a folder, of squares of 16 pixels."""
    return load(DataConfig(source=str(path), **{"image_size": 14, **settings}), CPU)


def photo(size: tuple[int, int] = (40, 40), seed: int = 0) -> Image.Image:
    """A smooth picture, as photographs are, of many colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def write(path: Path, image: Image.Image | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or photo(seed=zlib.crc32(path.name.encode()))).save(path, **options)
    return path


def broken(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"this is no image")
    return path


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith("data.")
    return message


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network: every connection goes to a proxy that is not there."""
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)


def named(name: str, root: Path, **settings: Any) -> DataSet:
    """A data set by name, whose files are in `root`."""
    return load(DataConfig(source=name, root=str(root), **settings), CPU)


def everything(data: DataSet) -> Tensor:
    """All that is trained on."""
    return data.train.batch(torch.arange(len(data.train)))


def idx(array: np.ndarray[Any, Any]) -> bytes:
    """An array as an IDX file holds it."""
    kind = {np.dtype(np.uint8): 8, np.dtype(">i4"): 12}[array.dtype]
    return struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape) + array.tobytes()
