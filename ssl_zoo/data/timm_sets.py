"""The data sets that timm's factory reads."""

from __future__ import annotations

import importlib.util
import io
import logging
import threading
from importlib import metadata
from pathlib import Path
from typing import Any

from PIL import Image
from timm.data import ImageDataset, create_dataset

from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data.assemble import DEFAULT_SIZE, canvas
from ssl_zoo.data.catalogue import labels_of
from ssl_zoo.data.decode import open_image, read_error
from ssl_zoo.data.download import default_root
from ssl_zoo.data.places import user_path
from ssl_zoo.errors import UserError

log = logging.getLogger("ssl_zoo.data")

STREAMS = ("hfids", "tfds", "wds")
"""timm's readers that give their samples in an order of their own, not by number."""
HARMLESS_DATASETS = 4
"""The first major version of Hugging Face's library that reads data sets and runs no code of theirs."""
TESTS = ("validation", "test")
"""What a split to evaluate on may be called, in the order of preference."""


class ReaderImages:
    """The images of one of timm's readers by number.

    timm's own data set puts another image in the place of a broken one, and its readers are not made
    for threads.

    Attributes:
        targets: the class of each image, or None.
        class_to_idx: the numbers of the classes by name.
    """

    def __init__(self, reader: Any, side: int) -> None:
        self.reader = reader
        self.side = side
        self.targets: Any = labels_of(reader)
        names = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None)
        self.class_to_idx: dict[str, int] = dict(names or {})
        self._reading = threading.Lock()
        columns = getattr(getattr(reader, "dataset", None), "column_names", ())
        if reader_key := getattr(reader, "label_key", None):  # Hugging Face's
            if reader_key in columns:
                self.targets = list(reader.dataset[reader_key])
            else:
                reader.label_key = reader.image_key  # it insists on some label for each image

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> tuple[Image.Image, None]:
        with self._reading, self.reader[index][0] as file:  # an archive is read at one place only
            content = io.BytesIO(file.read())
        return open_image(content, self.side), None


def open_timm(config: DataConfig) -> tuple[Any, Any | None]:
    """The train split of what ``timm:NAME`` or ``hf:NAME`` means, and one to evaluate on, if any.

    ``hf:`` is short for timm's ``hfds/``. Names that are none of timm's readers, and ``torch/folder``,
    mean the folder or archive that `data.root` names.

    Raises:
        UserError: timm cannot read it.
    """
    prefix, name = config.source.split(":", 1)
    name = f"hfds/{name}" if prefix == "hf" else name
    kind = name.split("/")[0].lower() if "/" in name else ""
    if kind in STREAMS:
        raise UserError(
            f"data.source: {config.source!r} is a stream, whose samples have no numbers; "
            "take hf:NAME or a folder of images"
        )
    if kind == "hfds":
        _check_datasets(config.source)
    local = kind not in ("hfds", "torch") or name.lower() in ("torch/folder", "torch/image_folder")
    root = user_path("data.root", config.root) if config.root else default_root()
    if local and not (config.root and root.exists()):
        raise UserError(f"data.root: must name the folder or archive that {config.source!r} reads")

    train = _open(config, name, root, "train")
    why = f"{root} has no folders for them"
    for split in TESTS:
        try:
            test = _open(config, name, root, split)
        except UserError as error:
            why = str(error)
            continue
        # timm takes the root itself where it has no folder for a split.
        if not local or root not in (_place(train), _place(test)):
            return train, test
    log.info("%s: a part is held out for evaluation, as there is no split for it: %s", name, why)
    return train, None


def _check_datasets(source: str) -> None:
    """Make sure that Hugging Face's library is here, and is none that runs code of a data set's own.

    Raises:
        UserError: it is not.
    """
    if importlib.util.find_spec("datasets") is None:
        raise UserError(f"data.source: {source!r} needs Hugging Face's library: pip install datasets")
    here = metadata.version("datasets")
    if int(here.partition(".")[0]) < HARMLESS_DATASETS:
        raise UserError(
            f"data.source: datasets {here} would run code that comes with {source!r}; "
            f"pip install 'datasets>={HARMLESS_DATASETS}'"
        )


def _open(config: DataConfig, name: str, root: Path, split: str) -> Any:
    # Beside a large archive timm would write, and read, a pickled list of what is in it.
    options = {"cache_tarinfo": False} if root.suffix == ".tar" and root.is_file() else {}
    try:
        dataset = create_dataset(name, root=str(root), split=split, download=True, **options)
    except Exception as error:  # whatever timm's readers and their libraries raise
        raise UserError(
            f"data.source: timm cannot read {config.source!r}, split {split}: {read_error(error)}"
        ) from error
    if isinstance(dataset, ImageDataset):
        return ReaderImages(dataset.reader, canvas(config, DEFAULT_SIZE))
    return dataset


def _place(dataset: Any) -> Path:
    return Path(dataset.reader.root if isinstance(dataset, ReaderImages) else dataset.root)
