"""Features as a file: the rows are those of the images, each with its name, or they are not there."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl_zoo.backbones.build import build_encoder
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import ArraySplit, DataSet, LazySplit, Split, load
from ssl_zoo.errors import SslZooError, UserError
from ssl_zoo.runs.backbone import load_backbone, write_backbone
from ssl_zoo.runs.build import load_data
from ssl_zoo.runs.run import Run
from ssl_zoo.spec import Spec
from ssl_zoo.tools.embed import Embedded, embed
from ssl_zoo.tools.rows import UNKNOWN, Rows, pool_parts
from tests.conftest import small_config
from tests.core.pictures import broken, photo, write

CPU = torch.device("cpu")


def run_on(path: Path, **settings: Any) -> Path:
    """Make a run with an untrained backbone."""
    config = small_config("simclr", **settings)
    run = Run.create(path, config)
    spec = load_data(config.data, CPU).spec
    write_backbone(run.backbone_file, build_encoder(config.backbone, spec, 0), config.backbone, spec)
    return path


@pytest.fixture(name="digits", scope="module")
def run_on_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_on(tmp_path_factory.mktemp("r") / "digits", backbone__stem_stride=1)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twenty coloured pictures of two classes, of different sizes, in order of their names."""
    for number in range(20):
        name = f"{('cat', 'dog')[number % 2]}/{number:02}.png"
        write(tmp_path / "photos" / name, photo((20 + number, 30), seed=number))
    return tmp_path / "photos"


def expected(run: Path, split: Split) -> Tensor:
    """Return the features of a split, computed as a user would."""
    model: Any = load_backbone(run)
    with torch.no_grad():
        features: Tensor = model(model.ssl_zoo_spec.prepare(split.batch(torch.arange(len(split)))))
    return features


def of_folder(path: Path, size: int = 16, **settings: Any) -> DataSet:
    return load(DataConfig(source=str(path), image_size=size, **settings), CPU)


def check_rows(run: Path, file: Path, room: Path) -> None:
    """Make sure that each of the `photos` has the features that it has as the only one of a folder."""
    with np.load(file) as rows:
        assert len(set(rows["name"])) == 20
        for name, label, features in zip(rows["name"], rows["label"], rows["features"], strict=True):
            assert rows["classes"][label] == Path(name).parent.name
            number = int(Path(name).stem)
            write(room / name / "only.png", photo((20 + number, 30), seed=number))
            alone = expected(run, of_folder(room / name).train)[0]
            np.testing.assert_allclose(features, alone, atol=1e-5, rtol=1e-4)


def complaint(*arguments: Any, error: type[SslZooError] = UserError) -> str:
    with pytest.raises(error) as caught:
        embed(*arguments)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# ---- what is in the file


def test_the_runs_own_data_with_labels_and_numbers(digits: Path, tmp_path: Path) -> None:
    file = tmp_path / "digits.npz"
    written = embed(digits, None, file)
    assert written == Embedded(str(file), {"train": 1438, "test": 359}, 16, {})
    assert list(tmp_path.iterdir()) == [file]
    data = load_data(Run.open(digits).config().data, CPU)
    assert data.test is not None
    assert data.train.labels is not None
    with np.load(file) as rows:
        assert set(rows) == {"features", "label", "split", "name", "classes"}
        assert rows["features"].dtype == np.float32
        assert rows["label"].dtype == np.int64
        train = rows["split"] == "train"
        assert train.tolist() == [True] * 1438 + [False] * 359
        assert rows["name"].tolist() == [*map(str, range(1438)), *map(str, range(359))]
        assert rows["classes"].tolist() == list("0123456789")
        assert (rows["label"][train] == data.train.labels.numpy()).all()
        for split, of_split in ((data.train, train), (data.test, ~train)):
            np.testing.assert_allclose(
                rows["features"][of_split], expected(digits, split), atol=1e-5, rtol=1e-4
            )


def test_a_folder_of_other_sizes_and_colours_fits_a_gray_run(
    digits: Path, photos: Path, tmp_path: Path
) -> None:
    embed(digits, str(photos), tmp_path / "photos.npz")
    data = of_folder(photos)
    assert data.spec.channels == 3  # type: ignore[attr-defined]
    splits = {"train": data.train, "test": data.test}
    with np.load(tmp_path / "photos.npz") as rows:
        assert sorted(rows["name"]) == sorted(
            str(path.relative_to(photos)) for path in photos.rglob("*.png")
        )
        assert [rows["classes"][label] for label in rows["label"]] == [
            name.split("/")[0] for name in rows["name"]
        ]
        for name, split in splits.items():
            assert split is not None
            its = rows["split"] == name
            assert rows["name"][its].tolist() == sorted(rows["name"][its])
            np.testing.assert_allclose(
                rows["features"][its], expected(digits, split), atol=1e-5, rtol=1e-4
            )


def test_a_row_is_of_the_file_that_it_names(digits: Path, photos: Path, tmp_path: Path) -> None:
    embed(digits, str(photos), tmp_path / "all.npz")
    check_rows(digits, tmp_path / "all.npz", tmp_path / "alone")


@pytest.mark.parametrize("resident", ["always", "never"])
def test_parquet_holds_the_same_as_npz(tmp_path: Path, photos: Path, resident: str) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra ssl-zoo[parquet] is missing")
    settings = {"data__source": str(photos), "data__resident": resident}
    run = run_on(tmp_path / "run", **settings)
    for suffix in ("npz", "parquet"):
        embed(run, None, tmp_path / f"rows.{suffix}")
    table = parquet.read_table(tmp_path / "rows.parquet")
    assert {field.name: str(field.type) for field in table.schema} == {
        "name": "string",
        "split": "string",
        "label": "int64",
        "class": "string",
        "features": "fixed_size_list<element: float>[16]",
    }
    columns = table.to_pydict()
    with np.load(tmp_path / "rows.npz") as rows:
        for column in ("name", "split", "label", "features"):
            assert columns[column] == rows[column].tolist()
        assert columns["class"] == rows["classes"][rows["label"]].tolist()


def test_what_has_no_labels_has_none_in_the_file(digits: Path, photos: Path, tmp_path: Path) -> None:
    embed(digits, str(photos / "cat"), tmp_path / "cats.npz")
    with np.load(tmp_path / "cats.npz") as rows:
        assert set(rows) == {"features", "split", "name"}
        assert len(rows["features"]) == 10
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra ssl-zoo[parquet] is missing")
    embed(digits, str(photos / "cat"), tmp_path / "cats.parquet")
    columns = parquet.read_table(tmp_path / "cats.parquet").to_pydict()
    assert columns["label"] == columns["class"] == [None] * 10


def test_labelled_samples_beside_those_that_are_trained_on_are_a_split_of_their_own(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_data(Run.open(digits).config().data, CPU)
    train, bank = (ArraySplit(data.train.batch(torch.arange(n)), None) for n in (6, 3))
    bank.labels = torch.tensor([4, 0, 9])
    mixed = DataSet("mixed", data.spec, train, None, bank)
    monkeypatch.setattr("ssl_zoo.evaluation.api.load_data", lambda *_, **__: mixed)
    assert embed(digits, None, tmp_path / "m.npz").samples == {"train": 6, "bank": 3}
    with np.load(tmp_path / "m.npz") as rows:
        assert rows["split"].tolist() == ["train"] * 6 + ["bank"] * 3
        assert rows["label"].tolist() == [-1] * 6 + [4, 0, 9]
    pytest.importorskip("pyarrow", reason="the extra ssl-zoo[parquet] is missing")
    parquet = pytest.importorskip("pyarrow.parquet")
    embed(digits, None, tmp_path / "m.parquet")
    columns = parquet.read_table(tmp_path / "m.parquet").to_pydict()
    assert columns["label"] == [None] * 6 + [4, 0, 9]
    assert columns["class"] == [None] * 9


@pytest.mark.parametrize("resident", ["always", "never"])
def test_a_file_that_cannot_be_read_has_no_row_and_is_named(
    tmp_path: Path, photos: Path, resident: str
) -> None:
    for name in ("cat/06b.png", "dog/19b.png"):
        broken(photos / name)
    run = run_on(tmp_path / "run", data__source=str(photos), data__resident=resident)
    written = embed(run, None, tmp_path / "rows.npz")
    assert written.skipped == {
        str(photos / name): "not an image" for name in ("cat/06b.png", "dog/19b.png")
    }
    assert sum(written.samples.values()) == 20
    check_rows(run, tmp_path / "rows.npz", tmp_path / "alone")


def test_names_are_below_the_folder_and_printable(digits: Path, tmp_path: Path) -> None:
    for name in ("train/a b.png", "train/line\nbreak.png", "train/größe.png", "test/x.png"):
        write(tmp_path / "p" / name)
    odd = tmp_path / "p" / "train" / os.fsdecode(b"odd\xff.png")
    odd.write_bytes((tmp_path / "p" / "test" / "x.png").read_bytes())
    embed(digits, f"{tmp_path}/p/", tmp_path / "rows.npz")
    with np.load(tmp_path / "rows.npz") as rows:
        assert rows["split"].tolist() == ["train"] * 4 + ["test"]
        assert rows["name"].tolist() == [
            "train/a b.png",
            "train/größe.png",
            "'train/line\\nbreak.png'",
            "'train/odd\\udcff.png'",
            "test/x.png",
        ]


def test_a_backbone_file_without_its_run_embeds_other_data(digits: Path, tmp_path: Path) -> None:
    file = tmp_path / "b.safetensors"
    file.write_bytes((digits / "backbone.safetensors").read_bytes())
    assert embed(file, "digits", tmp_path / "d.npz").samples == {"train": 1438, "test": 359}
    assert complaint(file, None, tmp_path / "d.npz") == f"{file} is not a run: it has no config.yaml"


# ---- what is refused


def test_a_place_or_a_format_that_cannot_be(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = complaint(digits, None, tmp_path / "d.csv")
    assert said.endswith("unknown format; its name must end in .npz or .parquet")
    missing = tmp_path / "none" / "d.npz"
    assert complaint(digits, None, missing) == (
        f"-o {missing}: there is no folder {missing.parent}; make it first"
    )
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    said = complaint(digits, None, tmp_path / "d.parquet")
    assert said == f"-o {tmp_path / 'd.parquet'} needs the extra: pip install 'ssl-zoo[parquet]'"


def test_no_run_no_data_or_none_of_images(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "d.npz"
    assert "does not exist: give a run that has ended" in complaint(tmp_path / "none", None, file)
    assert "is neither a folder nor a known data set" in complaint(digits, "digitz", file)
    assert "cannot be used here" in complaint(digits, None, file, "warp")
    words = ArraySplit(torch.zeros(4, 8), None)
    text = DataSet("words", Spec("text"), words, None, words)
    monkeypatch.setattr("ssl_zoo.evaluation.api.load_data", lambda *_, **__: text)
    assert complaint(digits, "words", file) == "--data words: is text data, but the network takes images"
    assert not file.exists()


def test_a_full_disk_leaves_the_old_file_whole(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "d.npz"
    file.write_bytes(b"old")

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left" in complaint(digits, None, file, error=SslZooError)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


# ---- places


def test_the_features_of_places_are_those_that_are_pooled(digits: Path, tmp_path: Path) -> None:
    pooled, dense = (tmp_path / f"{name}.npz" for name in ("pooled", "dense"))
    embed(digits, None, pooled)
    written = embed(digits, None, dense, dense=True)
    assert (written.width, written.grid) == (16, (2, 2))
    with np.load(pooled) as rows, np.load(dense) as places:
        assert places["features"].shape == (1797, 16, 2, 2)
        mean = places["features"].mean((2, 3))  # as the network pools
        np.testing.assert_allclose(mean, rows["features"], atol=1e-5, rtol=1e-5)
        assert (places["name"] == rows["name"]).all()
    with pytest.raises(UserError, match="--dense needs arrays of several axes; choose"):
        embed(digits, None, tmp_path / "dense.parquet", dense=True)


# ---- the names of samples


def test_a_splits_names_go_with_its_samples(photos: Path) -> None:
    broken(photos / "cat" / "06b.png")
    lazy = of_folder(photos, resident="never").train
    assert isinstance(lazy, LazySplit)
    files = lazy.names
    assert files == sorted(files)
    assert set(files) <= {str(path) for path in photos.rglob("*.png")}
    some = torch.tensor([5, 0, 7])
    assert lazy.subset(some).names == [files[i] for i in some]
    whole = LazySplit(lazy.files, None).to(CPU)
    assert whole.names == [str(p) for p in sorted(photos.rglob("*.png")) if p.name != "06b.png"]
    assert whole.subset(some).names == [whole.names[i] for i in some]
    assert whole.subset(some).batch(torch.arange(3)).equal(whole.batch(some))


def test_samples_in_memory_have_no_names() -> None:
    train = load(DataConfig(), CPU).train
    assert train.names is None
    assert isinstance(train, ArraySplit)
    assert train.subset(torch.arange(3)).names is None


def test_a_sample_of_one_split_is_not_taken_for_that_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "validation"):
        for number in range(12):
            write(tmp_path / "d" / split / f"{number % 2}" / f"{number:02}.png")
    broken(tmp_path / "d" / "train" / "0" / "00.png")
    for resident in ("never", "always"):
        config = DataConfig(source="timm:x", root=str(tmp_path / "d"), image_size=16, resident=resident)
        data = load(config, CPU)
        assert data.test is not None
        data.train.batch(torch.arange(len(data.train)))
        assert set(data.train.skipped) == {"timm:x train[0]"}
        assert data.test.names == [f"timm:x test[{i}]" for i in range(12)]


def test_parts_of_a_whole_are_pooled_within_a_split() -> None:
    rows = Rows(
        values=np.arange(12, dtype=np.float32).reshape(6, 2),
        label=np.array([1, 0, 1, 1, 0, 1]),
        split=np.array(["bank", "bank", "bank", "test", "test", "test"]),
        name=np.array(["a.txt[0]", "b[0]", "a.txt[1]", "a.txt[0]", "c to 15 s", "c from 15 s"]),
        group=np.array(["a.txt", "b[0]", "a.txt", "a.txt", "c", "c"]),
    )
    pooled = pool_parts(rows)
    assert pooled.name.tolist() == ["a.txt", "b[0]", "a.txt", "c"]
    assert pooled.split.tolist() == ["bank", "bank", "test", "test"]
    assert pooled.label.tolist() == [1, 0, 1, UNKNOWN]
    assert pooled.values.tolist() == [[2, 3], [2, 3], [6, 7], [9, 10]]
    assert pooled.values.dtype == np.float32
