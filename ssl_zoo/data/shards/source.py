"""The source of shards: what a user names, and the data set."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from ssl_zoo.config.paths import user_path
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.config.source_names import is_glob, names_shards, shards_in, split_prefix
from ssl_zoo.data.dataset import DataSet
from ssl_zoo.data.download import default_root
from ssl_zoo.data.lanes.dataset import open_contents
from ssl_zoo.data.shards.contents import ShardContents
from ssl_zoo.data.shards.files import ShardFile, expand, is_remote
from ssl_zoo.data.shards.index import provide
from ssl_zoo.data.shards.options import ShardOptions
from ssl_zoo.data.source import Source
from ssl_zoo.errors import UserError
from ssl_zoo.text import printable

NAME = "webdataset"
"""The name of the source."""
CLASSES = "classes.txt"
"""The file beside shards with the name of a class in each line."""


def takes_shards(source: str) -> bool:
    """Return whether a user's text names tar archives, or a folder of them."""
    return names_shards(source.removeprefix(f"{NAME}:"))


def list_shards(config: DataConfig, options: ShardOptions) -> list[ShardFile]:
    """Return the shards that ``data.source`` names.

    Raises:
        UserError: there are none, or one is named twice.
    """
    folder = default_root() / "shards"
    keep = None if options.keep_gb is None else round(options.keep_gb * 1e9)
    files = []
    for source in config.sources:
        split, text = split_prefix(source.removeprefix(f"{NAME}:"))
        for url in shards_in(text) or expand(text):
            found = [url]
            if not is_remote(url) and is_glob(url):
                found = sorted(glob.glob(str(Path(url).expanduser())))  # noqa: PTH207 - may be absolute
            elif not is_remote(url):
                found = [str(user_path("data.source", url))]
            if not found:
                raise UserError(f"data.source: {printable(url)} matches no shard; correct the path")
            files += [ShardFile(name, split, folder, keep) for name in found]
    seen: set[str] = set()
    for file in files:
        name = file.url if is_remote(file.url) else os.path.realpath(file.url)
        if name in seen:
            raise UserError(
                f"data.source: the shard {printable(file.url)} is named twice; leave one out"
            )
        seen.add(name)
    return files


def open_shards(config: DataConfig, device: torch.device, options: ShardOptions) -> DataSet:
    """Open the data set of which ``data.source`` names the shards.

    Raises:
        UserError: a shard is missing or broken, or webdataset is not installed.
    """
    files = list_shards(config, options)
    index = provide(files, options, files[0].folder / "indexes")
    contents = ShardContents(files, index, options.shuffle)
    first = Path(files[0].url).parent
    number = 0 if index.labels is None else int(index.labels.max()) + 1
    return open_contents(
        _name(files),
        config,
        device,
        contents,
        index,
        classes=index.classes or _class_names(first, number),
        root=None if any(file.remote for file in files) else first,
    )


def _name(files: Sequence[ShardFile]) -> str:
    return printable(Path(files[0].url).parent.name or Path(files[0].url).name)


def _class_names(folder: Path, number: int) -> tuple[str, ...] | None:
    """Return the names of classes that are numbers, from a list beside the shards; None if too short."""
    try:
        names = (folder / CLASSES).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    return tuple(names) if len(names) >= number else None


SOURCE = Source(open_shards, Options=ShardOptions, takes=takes_shards, several=True)
