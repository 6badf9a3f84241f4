"""The named data sets of torchvision, read from small files in their formats."""

from __future__ import annotations

import bz2
import hashlib
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
import torchvision

from ssl_zoo.data import LazySplit
from ssl_zoo.data.catalogue import CATALOGUE
from ssl_zoo.data.image_files import ImageFiles
from ssl_zoo.evaluation import Subject
from ssl_zoo.runtime.device import Device
from tests.core.pictures import CPU, everything, go_offline, idx, named, photo, write


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


COLOUR = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
GRAY = np.random.default_rng(1).integers(0, 256, (4, 28, 28), dtype=np.uint8)
LABELS = np.array([0, 1, 1, 0], np.uint8)


def cifar(root: Path, kind: Any, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = root / kind.base_folder
    base.mkdir(parents=True)
    for table in ("train_list", "test_list"):
        names = [name for name, _ in getattr(kind, table)]
        for name in names:
            content = {"data": COLOUR.reshape(4, -1), key: LABELS.tolist()}
            (base / name).write_bytes(pickle.dumps(content))
        monkeypatch.setattr(kind, table, [[name, md5(base / name)] for name in names])
    meta = base / kind.meta["filename"]
    meta.write_bytes(pickle.dumps({kind.meta["key"]: ["cat", "dog"]}))
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(meta)})


@pytest.mark.parametrize(
    ("name", "key", "n"), [("cifar10", "labels", 20), ("cifar100", "fine_labels", 4)]
)
def test_cifar(name: str, key: str, n: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar(tmp_path, getattr(torchvision.datasets, name.upper()), key, monkeypatch)
    data = named(name, tmp_path)
    assert data.test is not None
    assert np.array_equal(everything(data), np.tile(COLOUR, (n // 4, 1, 1, 1)))
    assert np.array_equal(data.test.batch(torch.arange(4)), COLOUR)
    assert data.train.labels is not None
    assert data.train.labels.tolist() == LABELS.tolist() * (n // 4)
    assert data.classes == ("cat", "dog")
    assert (data.spec.channels, data.spec.size, data.spec.mirror) == (3, 32, True)


@pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="needs Python 3.10.12 or 3.11.4")
def test_an_archive_that_the_user_has_put_there_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_offline(monkeypatch)
    kind = torchvision.datasets.CIFAR10
    cifar(tmp_path / "made", kind, "labels", monkeypatch)
    (tmp_path / "root").mkdir()
    archive = tmp_path / "root" / kind.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "made" / kind.base_folder, kind.base_folder)
    monkeypatch.setattr(kind, "tgz_md5", md5(archive))
    assert len(named("cifar10", tmp_path / "root").train) == 20
    assert {p.name for p in (tmp_path / "root").iterdir()} == {kind.base_folder, archive.name}


def test_stl10_trains_on_its_unlabelled_images_and_evaluates_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = torchvision.datasets.STL10
    base = tmp_path / kind.base_folder
    base.mkdir()
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (n, 3, 96, 96), dtype=np.uint8)
              for name, n in (("train", 4), ("test", 2), ("unlabeled", 6))}  # fmt: skip
    for name, x in images.items():
        (base / f"{name}_X.bin").write_bytes(x.transpose(0, 1, 3, 2).tobytes())  # by columns
    (base / "train_y.bin").write_bytes(bytes([1, 10, 1, 10]))
    (base / "test_y.bin").write_bytes(bytes([10, 1]))
    for table in ("train_list", "test_list"):
        monkeypatch.setattr(kind, table, [[n, md5(base / n)] for n, _ in getattr(kind, table)])

    data = named("stl10", tmp_path)
    assert np.array_equal(everything(data), np.concatenate([images["train"], images["unlabeled"]]))
    assert data.train.labels is None
    assert np.array_equal(data.bank.batch(torch.arange(4)), images["train"])
    raw = Subject.raw(data, Device(CPU, "fp32", False))
    assert raw is not None
    features = raw.features
    assert features.bank_labels.tolist() == [0, 9, 0, 9]
    assert features.test_labels.tolist() == [9, 0]


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = torchvision.datasets.SVHN
    table = {}
    for split, (url, file, _) in kind.split_list.items():
        y = np.array([[10], [1], [1], [10]])  # where 10 means 0
        scipy.io.savemat(tmp_path / file, {"X": COLOUR.transpose(2, 3, 1, 0), "y": y})
        table[split] = [url, file, md5(tmp_path / file)]
    monkeypatch.setattr(kind, "split_list", table)
    data = named("svhn", tmp_path)
    assert np.array_equal(everything(data), COLOUR)
    assert data.train.labels is not None
    assert data.train.labels.tolist() == LABELS.tolist()
    assert not data.spec.mirror


def test_usps(tmp_path: Path) -> None:
    pixels = np.linspace(-1, 1, 256)
    line = " ".join(["4", *(f"{i + 1}:{v:.6f}" for i, v in enumerate(pixels))])
    for file in ("usps.bz2", "usps.t.bz2"):
        (tmp_path / file).write_bytes(bz2.compress(f"{line}\n{line}\n".encode()))
    data = named("usps", tmp_path)
    x = everything(data)
    assert x.shape == (2, 1, 16, 16)
    assert x[0].flatten().tolist() == pytest.approx(((pixels + 1) / 2 * 255).tolist(), abs=1.01)
    assert data.train.labels is not None
    assert data.train.labels.tolist() == [3, 3]


@pytest.mark.parametrize("name", ["mnist", "kmnist", "qmnist", "emnist"])
def test_the_family_of_mnist(name: str, tmp_path: Path) -> None:
    raw = tmp_path / CATALOGUE[name].kind / "raw"
    raw.mkdir(parents=True)
    prefixes = {
        "qmnist": ("qmnist-train", "qmnist-test"),
        "emnist": ("emnist-balanced-train", "emnist-balanced-test"),
    }.get(name, ("train", "t10k"))
    for prefix in prefixes:
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(idx(GRAY))
        if name == "qmnist":  # the class first, then the writer and more
            rows = np.full((4, 8), 77, ">i4")
            rows[:, 0] = LABELS
            (raw / f"{prefix}-labels-idx2-int").write_bytes(idx(rows))
        else:
            (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(LABELS))
    data = named(name, tmp_path)
    assert np.array_equal(everything(data)[:, 0], GRAY)
    for split in (data.train, data.test):
        assert split is not None
        assert split.labels is not None
        assert split.labels.tolist() == LABELS.tolist()


def test_imagenette_is_decoded_by_us_and_names_its_classes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for wnid in ("n01440764", "n02102040"):
            for i in range(3):
                write(tmp_path / "imagenette2-320" / split / wnid / f"{i}.JPEG", photo((500, 400), i))
    data = named("imagenette", tmp_path, image_size=14, resident="never")
    assert data.classes == ("tench", "English springer")
    assert data.train.labels is not None
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert isinstance(data.train, LazySplit)
    assert isinstance(data.train.files, ImageFiles)
    assert data.train.files.open(0, 16).size == (63, 50)  # an eighth
    assert everything(data).shape == (6, 3, 16, 16)


def test_a_set_without_a_test_split_has_a_part_held_out(tmp_path: Path) -> None:
    for label in ("Forest", "River"):
        for i in range(5):
            write(tmp_path / "eurosat" / "2750" / label / f"{i}.jpg")
    data = named("eurosat", tmp_path, image_size=14)
    assert data.test is not None
    assert (len(data.train), len(data.test), data.classes) == (9, 1, ("Forest", "River"))
    assert data.bank is data.train


@pytest.mark.parametrize("name", CATALOGUE)
def test_torchvision_takes_every_entry_s_arguments(name: str, tmp_path: Path) -> None:
    entry = CATALOGUE[name]
    kind = getattr(torchvision.datasets, entry.kind)
    for arguments in (entry.train, entry.test, entry.bank):
        if arguments is not None:
            # Arguments are checked first: wrong ones raise a ValueError or a TypeError.
            with pytest.raises((RuntimeError, FileNotFoundError)):
                kind(str(tmp_path), download=False, **arguments)
