"""Sources: the bundled digits, named data sets, and those of timm and Hugging Face."""

from __future__ import annotations

import gzip
import multiprocessing
import os
import struct
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import ArraySplit, DataSet, LazySplit, Source, download, load
from ssl_zoo.data.source import choose_source
from ssl_zoo.data.sources import DIGITS_FILE, known_sources
from ssl_zoo.errors import UserError
from ssl_zoo.spec import Spec
from tests.core.pictures import CPU, broken, everything, go_offline, idx, named, one_line, write

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
needs_debian = pytest.mark.skipif(
    not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed"
)

SPLIT = ArraySplit(torch.zeros(4, 2), None)
DATA = DataSet("words", Spec("words"), SPLIT, None, SPLIT, None)


# The choice of a source


def test_one_name_is_opened_by_the_source_of_the_wanted_modality() -> None:
    words = Source(lambda config, device, options: DATA, "words", takes=lambda n: n.startswith("hf:"))
    sources = known_sources({"hub-words": words})
    assert choose_source("hf:x", sources, "words") is words
    assert choose_source("hub-words:x", sources, "image") is words, "its own name"
    assert choose_source("hf:x", sources, "image") is sources["hf"]
    assert choose_source("digits", sources, "words") is sources["digits"], "nothing else takes it"
    assert load(DataConfig(source="hf:x"), CPU, {"hub-words": words}, "words") is DATA


# Digits


def test_the_bundled_digits_are_those_of_scikit_learn() -> None:
    bunch = load_digits()
    with np.load(DIGITS_FILE) as arrays:
        assert arrays["images"].dtype == arrays["labels"].dtype == np.uint8
        assert np.array_equal(arrays["images"], bunch.images)
        assert np.array_equal(arrays["labels"], bunch.target)


def test_digits_are_scikit_learn_s_and_a_fifth_is_held_out() -> None:
    data = load(DataConfig(), CPU)
    assert data.test is not None
    assert data.test.labels is not None
    assert data.train.labels is not None
    assert (len(data.train), len(data.test)) == (1438, 359)
    assert data.classes == tuple("0123456789")
    assert data.bank is data.train
    parts = [(s.batch(torch.arange(len(s))), s.labels) for s in (data.train, data.test)]
    assert parts[0][0].shape == (1438, 1, 8, 8)
    assert parts[0][0].dtype == torch.uint8
    # Together they are the whole data set, each image with its label.
    samples = [
        (image.flatten().tolist(), y) for x, labels in parts for image, y in zip(x, labels, strict=True)
    ]
    bunch = load_digits()
    whole = np.rint(bunch.images * 255 / 16).reshape(-1, 64)
    assert sorted((x, int(y)) for x, y in samples) == sorted(
        (x.astype(int).tolist(), int(y)) for x, y in zip(whole, bunch.target, strict=True)
    )
    again = load(DataConfig(), CPU)
    assert torch.equal(everything(again), parts[0][0])


def test_the_spec_measures_the_train_split() -> None:
    data = load(DataConfig(), CPU)
    x = everything(data).double() / 255
    assert (data.spec.channels, data.spec.size, data.spec.mirror) == (1, 16, False)
    assert data.spec.mean == pytest.approx((x.mean().item(),), abs=1e-5)
    assert data.spec.std == pytest.approx((x.std().item(),), abs=1e-5)


# Fashion-MNIST


def fashion(path: Path, value: int, packed: bool) -> Path:
    """Write Fashion-MNIST's four files with two images each, all pixels of one value."""
    path.mkdir(parents=True)
    for part in ("train", "t10k"):
        files = {
            f"{part}-images-idx3-ubyte": idx(np.full((2, 28, 28), value, np.uint8)),
            f"{part}-labels-idx1-ubyte": idx(np.array([3, 7], np.uint8)),
        }
        for name, content in files.items():
            if packed:
                (path / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (path / name).write_bytes(content)
    return path


def test_fashion_mnist_comes_from_torchvision_s_cache_else_from_debian(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    debian = fashion(tmp_path / "debian", 100, packed=True)
    monkeypatch.setattr(download, "DEBIAN_FASHION_MNIST", debian)
    fashion(tmp_path / "cache" / "FashionMNIST" / "raw", 200, packed=False)
    assert everything(named("fashion-mnist", tmp_path / "cache")).unique().tolist() == [200]
    assert everything(named("fashion-mnist", tmp_path / "new")).unique().tolist() == [100]
    assert everything(named("timm:torch/fashion_mnist", tmp_path / "new")).unique().tolist() == [100]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["FashionMNIST"]


def test_fashion_mnist_from_neither_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_offline(monkeypatch)
    monkeypatch.setattr(download, "DEBIAN_FASHION_MNIST", tmp_path / "not installed")
    with pytest.raises(UserError, match=r"fashion-mnist cannot .* nor downloaded") as error:
        named("fashion-mnist", tmp_path / "new")
    one_line(error)


@needs_debian
def test_debian_s_files_are_read_as_they_are(tmp_path: Path) -> None:
    data = named("fashion-mnist", tmp_path)
    assert data.test is not None
    for split, part, n in ((data.train, "train", 60_000), (data.test, "t10k", 10_000)):
        with gzip.open(DEBIAN / f"{part}-images-idx3-ubyte.gz") as file:
            assert struct.unpack(">4I", file.read(16)) == (0x803, n, 28, 28)
            images = np.frombuffer(file.read(), np.uint8).reshape(n, 1, 28, 28)
        with gzip.open(DEBIAN / f"{part}-labels-idx1-ubyte.gz") as file:
            assert struct.unpack(">2I", file.read(8)) == (0x801, n)
            labels = np.frombuffer(file.read(), np.uint8)
        assert isinstance(split, ArraySplit)
        assert np.array_equal(split.samples.numpy(), images)
        assert split.labels is not None
        assert np.array_equal(split.labels.numpy(), labels)
    assert data.spec.mean == pytest.approx((0.2860,), abs=2e-3)


@pytest.mark.parametrize("left", ["missing", "truncated"])
def test_an_incomplete_data_set_is_completed(
    left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "DEBIAN_FASHION_MNIST", fashion(tmp_path / "debian", 9, packed=True))
    raw = fashion(tmp_path / "root" / "FashionMNIST" / "raw", 9, packed=False)
    file = raw / "train-images-idx3-ubyte"
    whole = file.read_bytes()
    if left == "missing":
        file.unlink()
    else:
        file.write_bytes(whole[:300])
    (tmp_path / "root" / ".part-killed").mkdir()
    assert everything(named("fashion-mnist", tmp_path / "root")).unique().tolist() == [9]
    assert file.read_bytes() == whole
    assert [p.name for p in (tmp_path / "root").iterdir()] == ["FashionMNIST"]


def test_unpacking_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    debian = fashion(tmp_path / "debian", 9, packed=True)
    packed = debian / "t10k-images-idx3-ubyte.gz"
    packed.write_bytes(packed.read_bytes()[:40])
    monkeypatch.setattr(download, "DEBIAN_FASHION_MNIST", debian)
    with pytest.raises(UserError, match="fashion-mnist") as error:
        named("fashion-mnist", tmp_path / "root")
    one_line(error)
    assert not (tmp_path / "root").exists()


def unpack(root: Path, debian: Path) -> None:
    download.DEBIAN_FASHION_MNIST = debian
    named("fashion-mnist", root)


def test_a_process_killed_while_it_unpacks_leaves_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    debian, root = fashion(tmp_path / "debian", 9, packed=True), tmp_path / "root"
    packed = debian / "train-labels-idx1-ubyte.gz"
    content = packed.read_bytes()
    packed.unlink()
    os.mkfifo(packed)  # which blocks the process for ever
    process = multiprocessing.get_context("fork").Process(target=unpack, args=(root, debian))
    process.start()
    while process.is_alive():
        try:
            gate = os.open(packed, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # it has not opened the pipe yet
            time.sleep(0.01)
            continue
        process.kill()
        process.join()
        os.close(gate)
    assert {p.name.split("-")[0] for p in root.iterdir()} == {".lock", ".part"}
    packed.unlink()
    packed.write_bytes(content)
    monkeypatch.setattr(download, "DEBIAN_FASHION_MNIST", debian)
    assert everything(named("fashion-mnist", root)).unique().tolist() == [9]
    assert [p.name for p in root.iterdir()] == ["FashionMNIST"]


def unpack_together(root: Path, debian: Path, gate: Any, results: Any) -> None:
    download.DEBIAN_FASHION_MNIST = debian
    gate.wait()
    results.put(everything(named("fashion-mnist", root)).unique().tolist())


def test_two_processes_that_unpack_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    debian = fashion(tmp_path / "debian", 9, packed=True)
    fork = multiprocessing.get_context("fork")
    gate, results = fork.Barrier(2), fork.Queue()
    arguments = (tmp_path / "root", debian, gate, results)
    both = [fork.Process(target=unpack_together, args=arguments) for _ in range(2)]
    for process in both:
        process.start()
    assert [results.get(timeout=60) for _ in both] == [[9], [9]]
    for process in both:
        process.join()
    assert [p.name for p in (tmp_path / "root").iterdir()] == ["FashionMNIST"]


# Unavailable data sets


@pytest.mark.parametrize(
    "name", ["cifar10", "svhn", "mnist", "flowers102", "eurosat", "caltech101", "dtd"]
)
def test_a_download_that_fails_is_one_line_and_leaves_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_offline(monkeypatch)
    for root in (tmp_path / "new", tmp_path):
        with pytest.raises(UserError) as error:
            named(name, root)
        assert f"data.source: {name} cannot be read from {root}, nor downloaded (" in one_line(error)
        assert "data.root" in str(error.value)
        assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
        assert not (tmp_path / "new").exists()


def test_an_unknown_name_gets_its_neighbours() -> None:
    with pytest.raises(UserError, match=r"'cifar-10' .* Did you mean 'cifar10'") as error:
        load(DataConfig(source="cifar-10"), CPU)
    one_line(error)


# timm and Hugging Face


@pytest.mark.parametrize("name", ["timm:folder", "timm:", "timm:torch/folder"])
@pytest.mark.parametrize("test", ["validation", "test", None])
def test_timm_s_folders(name: str, test: str | None, tmp_path: Path) -> None:
    for split in ("train", test):
        for label in ("x", "y") if split else ():
            for i in range(5):
                write(tmp_path / str(split) / label / f"{i}.png")
    data = named(name, tmp_path, image_size=14)
    assert data.classes == ("x", "y")
    assert data.test is not None
    assert data.train.labels is not None
    # If timm returns the same images for both splits, a part is held out.
    assert (len(data.train), len(data.test)) == ((10, 10) if test else (9, 1))
    assert everything(data).shape == (len(data.train), 3, 16, 16)


def test_timm_s_folder_skips_counts_and_names_what_cannot_be_read(tmp_path: Path) -> None:
    for i in range(6):
        write(tmp_path / f"{i}.png")
    broken(tmp_path / "3.png")
    data = named("timm:folder", tmp_path, image_size=14, resident="never", holdout=0.2)
    everything(data)
    assert data.train.skipped == {"timm:folder train[3]": "not an image"}


def test_an_archive_read_by_several_threads_gives_each_its_image(tmp_path: Path) -> None:
    colours = [(i * 5, 255 - i * 5, 90) for i in range(40)]
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        for i, colour in enumerate(colours):
            tar.add(write(tmp_path / "made" / f"{i:02}.png", Image.new("RGB", (300, 300), colour)))
    data = named("timm:tar", tmp_path / "all.tar", image_size=14, resident="never", workers=8)
    assert isinstance(data.train, LazySplit)
    expected = torch.tensor(colours)[data.train.numbers]
    assert torch.equal(everything(data)[:, :, 0, 0].long(), expected)


@pytest.mark.parametrize("labelled", [True, False])
def test_hugging_face_s_data_sets_have_their_labels_or_none(labelled: bool, tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="Hugging Face's library is not installed")
    folders = ["train/a", "train/b", "test/a", "test/b"] if labelled else ["."]
    for name in folders:
        for i in range(6):
            write(tmp_path / "made" / name / f"{i}.png")
    data = named(f"hf:{tmp_path / 'made'}", tmp_path / "cache", image_size=14)
    held = 0 if data.test is None else len(data.test)
    assert (len(data.train), held) == ((12, 12) if labelled else (6, 0))
    assert data.classes == (("a", "b") if labelled else None)
    assert (data.train.labels is not None) == labelled
    assert data.train.skipped == {}


def test_what_timm_cannot_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    expected = {
        "hf:some/thing": "needs Hugging Face's library: pip install datasets",
        "timm:hfds/some/thing": "needs Hugging Face's library: pip install datasets",
        "timm:wds/shards": "is a stream without random access",
        "timm:torch/nothing": "timm cannot read 'timm:torch/nothing', split train: Unknown torchvision",
        "timm:folder": "timm cannot read 'timm:folder', split train: Found 0 images",
    }
    for name, message in expected.items():
        with pytest.raises(UserError, match=message) as error:
            named(name, tmp_path)
        one_line(error)
    with pytest.raises(UserError, match=r"data\.root: must name the existing folder"):
        load(DataConfig(source="timm:folder"), CPU)
