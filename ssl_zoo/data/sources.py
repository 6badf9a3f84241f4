"""The built-in sources, and their selection by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import catalogue
from ssl_zoo.data.assemble import DEFAULT_SIZE, SplitBuilder, assemble, hold_out_test, image_side
from ssl_zoo.data.download import default_root, open_torchvision
from ssl_zoo.data.folder import channels_of, split_folder, user_path
from ssl_zoo.data.splits import ArraySplit, DataSet, Split, random_split
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
        device: the device on which samples are stored that fit into its memory.
        sources: further sources by name, which take precedence over the built-in ones.

    Raises:
        UserError: there is no such source, it has no image, or it cannot be read or downloaded.
    """
    name = config.source
    if sources and name in sources:
        return sources[name](config, device)
    if name == "digits":
        return _digits(config, device)
    torchvision_name = name.removeprefix("timm:torch/").replace("_", "-")
    if torchvision_name in catalogue.CATALOGUE:
        return _torchvision(torchvision_name, config, device)
    if name.startswith(("timm:", "hf:")):
        return _timm(config, device)
    path = user_path("data.source", name)
    if name and path.is_dir():
        return _folder(path, config, device)
    known = ["digits", *catalogue.CATALOGUE, *(sources or ())]
    problem = (
        "is a file, not a folder of images"
        if path.is_file()
        else "is neither a folder nor a known data set"
    )
    raise UserError(
        f"data.source: {printable(name)!r} {problem}.{did_you_mean(name, known)} "
        f"Known are: {', '.join(known)}"
    )


def _digits(config: DataConfig, device: torch.device) -> DataSet:
    """Return the bundled digits, a fifth of them held out as the test split."""
    with np.load(DIGITS_FILE) as arrays:
        images, labels = (torch.from_numpy(arrays[name]) for name in ("images", "labels"))
    images = images.double().mul(255 / 16).round().byte().unsqueeze(1)
    whole = ArraySplit(images.to(device), labels.long())
    train, test = (whole.subset(indices) for indices in random_split(len(whole), 0.2))
    classes = tuple("0123456789")
    return assemble(
        "digits", config, device, size=16, train=train, test=test, classes=classes, mirror=False
    )


def _torchvision(name: str, config: DataConfig, device: torch.device) -> DataSet:
    """Load one of torchvision's data sets."""
    entry = catalogue.CATALOGUE[name]
    root = user_path("data.root", config.root) if config.root else default_root()
    builder = SplitBuilder(config=config, device=device, size=entry.size, channels=entry.channels)
    datasets = {"train": open_torchvision(name, entry.train, root)}
    for split, arguments in (("bank", entry.bank), ("test", entry.test)):
        if arguments is not None:
            datasets[split] = open_torchvision(name, arguments, root)
    splits = {split: builder.from_dataset(dataset, split) for split, dataset in datasets.items()}
    train, test = splits["train"], splits.get("test")
    if test is None:
        train, test = hold_out_test(train, config)
    return assemble(
        name,
        config,
        device,
        size=entry.size,
        train=train,
        test=test,
        bank=splits.get("bank"),
        classes=catalogue.classes_of(datasets["train"]),
        mirror=entry.mirror,
    )


def _timm(config: DataConfig, device: torch.device) -> DataSet:
    """Load a data set through timm's factory."""
    train_images, test_images = open_timm(config)
    builder = SplitBuilder(config=config, device=device)
    train = builder.from_dataset(train_images, "train")
    test: Split | None
    if test_images is not None:
        test = builder.from_dataset(test_images, "test")
    else:
        train, test = hold_out_test(train, config)
    size, classes = image_side(train), catalogue.classes_of(train_images)
    return assemble(config.source, config, device, size=size, train=train, test=test, classes=classes)


def _folder(root: Path, config: DataConfig, device: torch.device) -> DataSet:
    """Load a folder of image files."""
    train_files, test_files = split_folder(root)
    channels = channels_of(train_files.paths)
    builder = SplitBuilder(config=config, device=device, channels=channels)
    train = builder.from_files(train_files, root)
    test: Split | None
    if test_files is not None:
        test = builder.from_files(test_files, root)
    else:
        train, test = hold_out_test(train, config)
    name, classes = printable(root.resolve().name), train_files.classes
    return assemble(name, config, device, size=DEFAULT_SIZE, train=train, test=test, classes=classes)
