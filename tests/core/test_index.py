"""Indexes of image files: the same data as the folder, in mapped files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ssl_zoo.data.fingerprint import hash_names
from ssl_zoo.errors import UserError
from ssl_zoo.tools.index import index
from tests.conftest import Call
from tests.core.pictures import everything, folder, one_line, write


def photos(path: Path) -> Path:
    for label in "ab":
        for i in range(10):
            write(path / label / f"{label}{i} ä.png")
    return path


def test_an_index_has_the_samples_classes_and_splits_of_its_folder(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos")
    written = index(str(source), tmp_path / "photos.index", ["data.holdout=0.2"])
    assert written.samples == {"train": 16, "test": 4}
    assert written.classes == 2
    of_folder, indexed = folder(source, holdout=0.2), folder(tmp_path / "photos.index")
    assert indexed.name == of_folder.name == "photos"
    assert torch.equal(everything(indexed), everything(of_folder))
    assert indexed.test is not None
    assert of_folder.test is not None
    assert indexed.classes == of_folder.classes
    assert indexed.facts.held_out == of_folder.facts.held_out
    for ours, theirs in ((indexed.bank, of_folder.bank), (indexed.test, of_folder.test)):
        assert torch.equal(ours.labels, theirs.labels)
        assert list(ours.names or ()) == [str(Path(name).resolve()) for name in theirs.names or ()]
        assert hash_names(ours) == hash_names(theirs)


def test_an_index_keeps_test_folders_and_images_without_a_class(tmp_path: Path) -> None:
    source = tmp_path / "data"
    photos(source / "train"), photos(source / "test"), write(source / "unlabeled" / "c.png")
    index(str(source), tmp_path / "index")
    of_folder, indexed = folder(source), folder(tmp_path / "index")
    assert [len(s) for s in (indexed.train, indexed.bank, indexed.test or ())] == [21, 20, 20]
    assert torch.equal(everything(indexed), everything(of_folder))
    assert indexed.train.labels is None
    assert torch.equal(indexed.bank.labels, of_folder.bank.labels)


def test_wrong_indexes_are_refused_in_one_line_and_nothing_is_overwritten(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos")
    with pytest.raises(UserError, match=r"--out .*photos: has files already; choose a new folder"):
        index(str(source), source)
    with pytest.raises(UserError, match=r"data.source: digits is no folder, glob or list of images"):
        index("digits", tmp_path / "out")
    index(str(source), tmp_path / "index")
    with pytest.raises(UserError) as error:
        folder(tmp_path / "index", tile=20)
    assert "has no image files to divide" in one_line(error)
    for setting in ({"holdout": 0.5}, {"groups": "folder"}):
        with pytest.raises(UserError, match="was decided when the index was made") as error:
            folder(tmp_path / "index", **setting)
        one_line(error)
    described = json.loads((tmp_path / "index" / "ssl-zoo-index.json").read_text())
    for wrong, problem in (
        ({"format": 9}, "is an index of format 9, and this version reads 1; make it again"),
        ({"splits": {"train": 7}}, "is a broken index .the train split does not have 7 paths."),
        ({"root": None}, "is a broken index"),
        ({"splits": {}}, "is a broken index .there is no train split."),
    ):
        (tmp_path / "index" / "ssl-zoo-index.json").write_text(json.dumps({**described, **wrong}))
        with pytest.raises(UserError, match=problem) as error:
            folder(tmp_path / "index")
        one_line(error)
    (tmp_path / "index" / "ssl-zoo-index.json").write_text("{")
    with pytest.raises(UserError, match="is a broken index") as error:
        folder(tmp_path / "index")
    one_line(error)


def test_a_removed_file_of_an_index_is_skipped_and_named(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos")
    index(str(source), tmp_path / "index", ["data.holdout=0.2"])
    gone = folder(tmp_path / "index").train.names
    assert gone is not None
    Path(gone[3]).unlink()
    data = folder(tmp_path / "index")
    assert list(data.train.skipped) == [gone[3]]
    assert len(data.train) == 15


def test_an_index_is_written_and_trained_on_by_commands(call: Call) -> None:
    photos(Path("photos"))
    code, out, _ = call("index", "--data", "photos", "-o", "photos.index")
    assert code == 0
    assert out.splitlines() == [
        "wrote photos.index: 18 train, 2 test samples of 2 classes",
        "  ssl-zoo train --task TASK --data photos.index",
    ]
    code, _, err = call(
        *("train", "--task", "simclr", "--data", "photos.index", "--image-size", "16"),
        *("--backbone", "test_resnet", "--batch-size", "8", "--samples", "8", "--protocol", "knn"),
    )
    assert code == 0, err
    assert "photos: 20 images: 18 to train, 2 held out (10 %, stratified)" in err
