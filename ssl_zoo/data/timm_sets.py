"""Data sets that are read through timm's factory."""

from __future__ import annotations

import importlib.util
import io
import threading
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from numpy.typing import NDArray
from PIL import Image
from timm.data import ImageDataset, create_dataset

from ssl_zoo.config.paths import user_path
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data.catalogue import labels_of
from ssl_zoo.data.decode import image_error_reason
from ssl_zoo.data.download import default_root
from ssl_zoo.errors import UserError
from ssl_zoo.notices import Notice

_NO_TEST_SPLIT = Notice(
    "no-test-split",
    "If timm finds neither a split named validation nor one named test, a part of train is held out.",
    "data.holdout",
)
STREAM_READERS = ("hfids", "tfds", "wds")
"""timm's readers that have no random access."""
MIN_DATASETS_VERSION = 4
"""The first major version of Hugging Face's library that does not execute code of a data set."""
TEST_SPLITS = ("validation", "test")
"""The names of splits to evaluate on, in order of preference."""


class ReaderImages:
    """The images of one of timm's readers, by index, for use from several threads.

    It replaces timm's own data set, which substitutes another image for a broken one and has readers
    that are not thread-safe.

    Attributes:
        loader: opens an image, from its content.
        targets: the class of each image, or None.
        class_to_idx: the numbers of the classes by name.
    """

    loader: Callable[[IO[bytes]], Image.Image | NDArray[Any]] = staticmethod(Image.open)

    def __init__(self, reader: Any) -> None:
        self.reader = reader
        self.targets: Any = labels_of(reader)
        names = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None)
        self.class_to_idx: dict[str, int] = dict(names or {})
        self._lock = threading.Lock()
        columns = getattr(getattr(reader, "dataset", None), "column_names", ())
        if reader_key := getattr(reader, "label_key", None):  # Hugging Face's
            if reader_key in columns:
                self.targets = list(reader.dataset[reader_key])
            else:
                reader.label_key = reader.image_key  # the reader requires a label for each image

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> tuple[Image.Image | NDArray[Any], None]:
        with self._lock, self.reader[index][0] as file:  # an archive has one read position
            content = io.BytesIO(file.read())
        return self.loader(content), None


def open_timm(config: DataConfig, columns: Mapping[str, str] | None = None) -> tuple[Any, Any | None]:
    """Open the train split of ``timm:NAME`` or ``hf:NAME``, and a split to evaluate on, if any.

    ``hf:`` is short for timm's ``hfds/``. ``torch/folder``, and names that are not among timm's readers,
    mean the folder or archive that `data.root` names.

    Args:
        config: the ``data`` section.
        columns: timm's arguments that name columns of Hugging Face's data sets.

    Raises:
        UserError: timm cannot read it.
    """
    prefix, name = config.sources[0].split(":", 1)
    name = f"hfds/{name}" if prefix == "hf" else name
    kind = name.split("/")[0].lower() if "/" in name else ""
    if kind in STREAM_READERS:
        raise UserError(
            f"data.source: {config.source!r} is a stream without random access; "
            "use hf:NAME with data.options.stream=true, shards, or a folder of images"
        )
    if kind == "hfds":
        check_datasets(config.sources[0])
    local = kind not in ("hfds", "torch") or name.lower() in ("torch/folder", "torch/image_folder")
    root = user_path("data.root", config.root) if config.root else default_root()
    if local and not (config.root and root.exists()):
        raise UserError(
            f"data.root: must name the existing folder or archive that {config.source!r} reads"
        )

    train = _open(config, name, root, "train", columns)
    reason = f"{root} has no folders for splits"
    for split in TEST_SPLITS:
        try:
            test = _open(config, name, root, split, columns)
        except UserError as error:
            reason = str(error)
            continue
        # timm falls back on the root itself if it has no folder for a split.
        if not local or root not in (_root(train), _root(test)):
            return train, test
    _NO_TEST_SPLIT(f"{config.source}: no split to evaluate on ({reason}), so a part is held out")
    return train, None


def check_datasets(source: str) -> None:
    """Raise unless Hugging Face's library is installed and does not execute code of data sets.

    Raises:
        UserError: it is missing or too old.
    """
    if importlib.util.find_spec("datasets") is None:
        raise UserError(f"data.source: {source!r} needs Hugging Face's library: pip install datasets")
    version = metadata.version("datasets")
    if int(version.partition(".")[0]) < MIN_DATASETS_VERSION:
        raise UserError(
            f"data.source: datasets {version} would execute code that comes with {source!r}; "
            f"pip install 'datasets>={MIN_DATASETS_VERSION}'"
        )


def _open(
    config: DataConfig, name: str, root: Path, split: str, columns: Mapping[str, str] | None
) -> Any:
    # Beside a large archive timm would write, and later load, a pickled list of its content.
    options: dict[str, Any] = (
        {"cache_tarinfo": False} if root.suffix == ".tar" and root.is_file() else {}
    )
    options |= columns or {}
    try:
        dataset = create_dataset(name, root=str(root), split=split, download=True, **options)
    except Exception as error:  # timm's readers and their libraries raise errors of every kind
        raise UserError(
            f"data.source: timm cannot read {config.source!r}, split {split}: "
            f"{image_error_reason(error)}"
        ) from error
    if isinstance(dataset, ImageDataset):
        return ReaderImages(dataset.reader)
    return dataset


def _root(dataset: Any) -> Path:
    return Path(dataset.reader.root if isinstance(dataset, ReaderImages) else dataset.root)
