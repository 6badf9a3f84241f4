"""Folders of files of any kind: splits, classes and what is not used, by the rules for images."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssl_zoo import UserError
from ssl_zoo.data.folder import read_folder
from ssl_zoo.data.folder_files import FolderFiles, describe_others, read_folder_files


def found(root: Path, *names: str) -> FolderFiles:
    """Create empty files, and find those that end in .x."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return read_folder_files(root, lambda path: path.suffix == ".x")


def as_text(root: Path, content: FolderFiles) -> list[str]:
    """Return the path, class and split of each file, - for none."""
    return [f"{f.path.relative_to(root)} {f.label or '-'} {f.split or '-'}" for f in content.files]


def test_splits_have_classes_below_them_and_the_rest_is_not_used(tmp_path: Path) -> None:
    content = found(
        tmp_path,
        *("train/dog/1.x", "train/cat/2.x", "train/unsup/3.x", "train/beside.x", "test/dog/4.x"),
        *("unsup/any/5.x", "extra/6.x", "about.x", "train/dog/film.mp4", "LICENSE"),
        *(".hid/7.x", "train/.hid/8.x", "train/dog/.9.x", "__MACOSX/10.x"),
    )
    assert as_text(tmp_path, content) == [
        "test/dog/4.x dog test", "train/cat/2.x cat train", "train/dog/1.x dog train",
        "train/unsup/3.x - unlabelled", "unsup/any/5.x - unlabelled",
    ]  # fmt: skip
    assert content.facts.folders == {"train": ["train", "unsup"], "test": ["test"]}
    assert content.facts.unused == {"extra": 1, "": 2}
    assert content.facts.other_files == {".mp4": 1, "without suffix": 1}


def test_of_several_folders_to_evaluate_on_one_with_classes_is_used(tmp_path: Path) -> None:
    content = found(tmp_path, "train/a/1.x", "train/b/2.x", "test/3.x", "val/a/4.x", "val/5.x")
    assert as_text(tmp_path, content) == [
        "train/a/1.x a train",
        "train/b/2.x b train",
        "val/a/4.x a test",
    ]
    assert content.facts.unused == {"test": 1, "": 1}


@pytest.mark.parametrize("inside", ["", "corpus/v1/"])
def test_without_splits_folders_are_classes_also_inside_a_single_folder(
    tmp_path: Path, inside: str
) -> None:
    content = found(tmp_path, *(f"{inside}{name}" for name in ("a/deep/1.x", "b/2.x", "unsup/3.x")))
    listed = [line.removeprefix(inside) for line in as_text(tmp_path, content)]
    assert listed == ["a/deep/1.x a -", "b/2.x b -", "unsup/3.x - unlabelled"]
    assert not content.facts.folders


def test_a_folder_of_a_split_in_one_of_its_name_is_passed_over(tmp_path: Path) -> None:
    content = found(tmp_path, "x/seg_train/seg_train/a/1.x", "x/seg_test/seg_test/a/2.x")
    assert [(f.label, f.split) for f in content.files] == [("a", "test"), ("a", "train")]


def test_a_class_named_like_a_split_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found(tmp_path, "val/1.x", "dog/2.x")
    assert "val is taken as a class, and its files are trained on" in caplog.text


def test_images_and_other_files_have_the_same_splits_and_classes(tmp_path: Path) -> None:
    names = ["train/a/1", "train/b/2", "train/unlabeled/3", "val/a/4", "val/b/5", "TEST/6", "extra/7"]
    content = found(tmp_path, *(f"{name}.x" for name in names), *(f"{name}.png" for name in names))
    images = read_folder(tmp_path)
    assert images.test is not None
    for split, part in (("train", images.train), ("test", images.test)):
        assert part.labels is not None
        of_images = {
            path.with_suffix(".x"): "ab"[label] if label >= 0 else None
            for path, label in zip(part.paths, part.labels.tolist(), strict=True)
        }
        others = {f.path: f.label for f in content.files if (f.split == "test") == (split == "test")}
        assert others == of_images
    assert content.facts.folders == images.folders
    assert content.facts.unused == images.unused


def test_a_linked_folder_is_read_once_and_an_empty_one_says_what_it_has(tmp_path: Path) -> None:
    content = found(tmp_path / "a", "b/1.x", "c/2.x")
    (tmp_path / "a" / "c" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "d").symlink_to(tmp_path / "a" / "b")
    assert len(found(tmp_path / "a").files) == len(content.files) == 2
    assert [f.label for f in found(tmp_path / "links").files] == ["d"]
    assert describe_others(found(tmp_path / "films", "1.mp4", "2.mp4", "3.txt").others) == (
        "it has 2 .mp4, 1 .txt"
    )
    with pytest.raises(UserError, match="could be the train split"):
        found(tmp_path / "two", "train/1.x", "test/2.x", "a_train/3.x", "a_test/4.x")
