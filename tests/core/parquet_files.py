"""Helpers of the tests of Parquet files with images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import DataSet, load
from tests.core.pictures import CPU, encoded

CLASSES = ["ant", "bee", "cat"]


def image(seed: int) -> dict[str, Any]:
    """Return a picture as Hugging Face's library keeps it in a row."""
    return {"bytes": encoded(seed), "path": f"{seed}.png"}


def parquet(
    file: Path, images: Sequence[Any], labels: Sequence[Any] | None = None, rows: int = 7
) -> Path:
    """Write images, numbers or names of classes, and captions, in row groups of some rows."""
    from datasets import ClassLabel, Dataset, Features, Image, Value

    numbers = labels is not None and isinstance(labels[0], int)
    columns: dict[str, Any] = {"image": list(images), "caption": ["a picture " * 1000] * len(images)}
    features = {"image": Image(), "caption": Value("string")}
    if labels is not None:
        columns["label"] = list(labels)
        features["label"] = ClassLabel(names=CLASSES) if numbers else Value("string")
    file.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(columns, features=Features(features)).to_parquet(file, batch_size=rows)
    return file


def pictures(folder: Path, train: int = 60, test: int = 16, labelled: bool = True) -> Path:
    """Write a data set with two files to train on and, unless `test` is 0, one to evaluate on."""
    for part, seeds in enumerate((range(train // 2), range(train // 2, train))):
        labels = [seed % 3 for seed in seeds] if labelled else None
        parquet(folder / "data" / f"train-{part:05d}-of-00002.parquet", [*map(image, seeds)], labels)
    if test:
        seeds = range(1000, 1000 + test)
        labels = [seed % 3 for seed in seeds] if labelled else None
        parquet(folder / "data" / "validation-00000-of-00001.parquet", [*map(image, seeds)], labels)
    return folder


def streamed(source: str | Path, root: Path, stream: bool = True, **settings: Any) -> DataSet:
    """Open a data set of the hub, or of a folder; streamed, or through Hugging Face's own cache."""
    options = {"stream": stream, **settings.pop("options", {})}
    given = {"image_size": 14, "canvas": "square", "resident": "never", "root": str(root), **settings}
    return load(DataConfig.model_validate({"source": f"hf:{source}", "options": options, **given}), CPU)
