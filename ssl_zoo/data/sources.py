"""Which source a name means, and what it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import catalogue
from ssl_zoo.data.assemble import DEFAULT_SIZE, Part, assemble, canvas, hold_out, part_of
from ssl_zoo.data.decode import open_image
from ssl_zoo.data.download import default_root, open_torchvision
from ssl_zoo.data.folder import Files, channels_of, split_folder
from ssl_zoo.data.lazy import LazySplit, Origin, Pictures, Unreadable
from ssl_zoo.data.places import user_path
from ssl_zoo.data.splits import ArraySplit, DataSet, holdout
from ssl_zoo.data.timm_sets import open_timm
from ssl_zoo.errors import UserError
from ssl_zoo.text import did_you_mean, printable

Source = Callable[[DataConfig, torch.device], DataSet]

DIGITS_FILE = Path(__file__).with_name("digits.npz")
"""1,797 handwritten digits: images uint8 [1797, 8, 8] with values in 0..16, labels uint8 [1797].

Source: E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository, doi:10.24432/C50P49; the part, order and values are those of scikit-learn's `load_digits`.
Licence: Creative Commons Attribution 4.0 International (CC BY 4.0).
"""


def load(
    config: DataConfig, device: torch.device, sources: Mapping[str, Source] | None = None
) -> DataSet:
    """Load the data that a configuration names.

    Args:
        config: the ``data`` section.
        device: where samples are kept that fit.
        sources: further sources by name, which win over the core's.

    Raises:
        UserError: there is no such source, it has no image, or it cannot be had.
    """
    name = config.source
    if sources and name in sources:
        return sources[name](config, device)
    if name == "digits":
        return _digits(config, device)
    known_to_timm = name.removeprefix("timm:torch/").replace("_", "-")
    if known_to_timm in catalogue.CATALOGUE:
        return _torchvision(known_to_timm, config, device)
    if name.startswith(("timm:", "hf:")):
        return _timm(config, device)
    path = user_path("data.source", name)
    if name and path.is_dir():
        return _folder(path, config, device)
    known = ["digits", *catalogue.CATALOGUE, *(sources or ())]
    what = (
        "is a file, not a folder of images" if path.is_file() else "is no folder and no known data set"
    )
    raise UserError(
        f"data.source: {printable(name)!r} {what}.{did_you_mean(name, known)} "
        f"Known are: {', '.join(known)}"
    )


def _digits(config: DataConfig, device: torch.device) -> DataSet:
    """Return the bundled digits, a fifth of them held out as the test split."""
    with np.load(DIGITS_FILE) as arrays:
        images, labels = (torch.from_numpy(arrays[name]) for name in ("images", "labels"))
    images = images.double().mul(255 / 16).round().byte().unsqueeze(1)
    whole = ArraySplit(images.to(device), labels.long())
    train, test = (whole.subset(part) for part in holdout(len(whole), 0.2))
    return assemble("digits", config, device, 16, train, test, classes=tuple("0123456789"), mirror=False)


def _torchvision(name: str, config: DataConfig, device: torch.device) -> DataSet:
    entry = catalogue.CATALOGUE[name]
    root = user_path("data.root", config.root) if config.root else default_root()
    unreadable = Unreadable()

    def part(split: str, arguments: Mapping[str, Any]) -> tuple[Part, Any]:
        dataset = open_torchvision(name, arguments, root)
        return part_of(dataset, split, config, device, entry.size, entry.channels, unreadable), dataset

    train, opened = part("train", entry.train)
    bank = part("bank", entry.bank)[0] if entry.bank is not None else None
    test: Part | None
    if entry.test is not None:
        test, _ = part("test", entry.test)
    else:
        train, test = hold_out(train, config)
    classes = catalogue.classes_of(opened)
    return assemble(name, config, device, entry.size, train, test, bank, classes, entry.mirror)


def _timm(config: DataConfig, device: torch.device) -> DataSet:
    opened, opened_test = open_timm(config)
    unreadable = Unreadable()
    train = part_of(opened, "train", config, device, DEFAULT_SIZE, 3, unreadable)
    test: Part | None
    if opened_test is not None:
        test = part_of(opened_test, "test", config, device, DEFAULT_SIZE, 3, unreadable)
    else:
        train, test = hold_out(train, config)
    size = train.samples.shape[-1] if isinstance(train, ArraySplit) else DEFAULT_SIZE
    classes = catalogue.classes_of(opened)
    return assemble(config.source, config, device, size, train, test, classes=classes)


def _folder(root: Path, config: DataConfig, device: torch.device) -> DataSet:
    files, test_files = split_folder(root)
    channels = channels_of(files.paths)
    side = canvas(config, DEFAULT_SIZE)
    unreadable = Unreadable()

    def part(files: Files) -> LazySplit:
        paths = files.paths
        pictures = Pictures(
            lambda i: open_image(paths[i], side),
            lambda i: str(paths[i]),
            len(paths),
            side,
            channels,
            config.workers,
            unreadable,
            Origin(root, paths),
        )
        return LazySplit(pictures, files.labels)

    train: Part = part(files)
    test: Part | None
    if test_files is not None:
        test = part(test_files)
    else:
        train, test = hold_out(train, config)
    name = printable(root.resolve().name)
    return assemble(name, config, device, DEFAULT_SIZE, train, test, classes=files.classes)
