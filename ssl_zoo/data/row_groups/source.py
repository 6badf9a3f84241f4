"""Data sets in Parquet that are not downloaded: ``hf:NAME`` with ``data.options.stream``."""

from __future__ import annotations

from pathlib import Path

import torch

from ssl_zoo import distributed
from ssl_zoo.config.paths import user_path
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data.dataset import DataSet
from ssl_zoo.data.download import default_root
from ssl_zoo.data.lanes.dataset import open_contents
from ssl_zoo.data.row_groups.contents import RowGroupContents
from ssl_zoo.data.row_groups.files import ParquetReader
from ssl_zoo.data.row_groups.hub import DataFiles, find_files
from ssl_zoo.data.row_groups.index import provide
from ssl_zoo.data.row_groups.options import HubOptions
from ssl_zoo.text import printable


def open_stream(config: DataConfig, device: torch.device, options: HubOptions) -> DataSet:
    """Open a data set whose Parquet files are read while it is used.

    Samples are not decoded in advance unless ``data.resident`` is always, as that would read them all.

    Raises:
        UserError: the data set cannot be found or read, or has no images.
    """
    root = user_path("data.root", config.root) if config.root else default_root()
    files = _find_files(config, options, root)
    reader = ParquetReader()
    labelled = config.labels != "none"
    index = provide(files, options, labelled, reader, root / "row-groups")
    if config.resident == "auto":
        config = config.model_copy(update={"resident": "never"})
    return open_contents(
        printable(config.source_text),
        config,
        device,
        RowGroupContents(files, index, options, reader),
        index,
        classes=index.classes,
        root=None if "://" in files.urls[0] else Path(files.urls[0]).parent,
    )


def _find_files(config: DataConfig, options: HubOptions, root: Path) -> DataFiles:
    """Return the files that the first process finds, so that all have those of one commit.

    Raises:
        UserError: as `find_files` does; FailedElsewhere in other processes.
    """
    found = None
    with distributed.failing_together():
        if distributed.rank() == 0:
            found = find_files(config, options, root)
    files = distributed.exchange(found)[0]
    assert files is not None
    return files
