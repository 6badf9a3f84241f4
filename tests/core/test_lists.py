"""Several folders, globs and lists of image files: what they contain, and how they are refused."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_zoo.advice.request import requested_comparison
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.config.source_names import folder_of, source_name
from ssl_zoo.data import DataSet, load
from ssl_zoo.data.fingerprint import hash_names
from ssl_zoo.data.gather import takes_files
from ssl_zoo.data.table import read_list
from ssl_zoo.errors import UserError
from ssl_zoo.tools.index import index
from tests.core.pictures import CPU, one_line, photo, write
from tests.core.test_pixels import SLICE, dicom

Rows = Sequence[Sequence[str]]


def opened(*sources: Path | str, **settings: object) -> DataSet:
    """Load sources as one data set of small images."""
    values = {"source": [str(source) for source in sources], "image_size": 14, **settings}
    return load(DataConfig.model_validate(values), CPU)


def listed(file: Path, *rows: Sequence[str]) -> Path:
    """Write a list; the first row names the columns."""
    if file.suffix == ".parquet":
        pandas = pytest.importorskip("pandas")
        pandas.DataFrame(rows[1:], columns=list(rows[0])).to_parquet(file)
    elif file.suffix == ".txt":
        file.write_text("".join(f"{path}\n" for path, *_ in rows[1:]))
    else:
        with file.open("w", newline="", encoding="utf-8") as opened_file:
            csv.writer(opened_file, delimiter="\t" if file.suffix == ".tsv" else ",").writerows(rows)
    return file


def photos(root: Path, number: int, start: int = 0) -> list[str]:
    """Write different images and return their paths relative to the parent of `root`."""
    files = [write(root / f"{i}.png", photo(seed=i)) for i in range(start, start + number)]
    return [file.relative_to(root.parent).as_posix() for file in files]


def contents(data: DataSet) -> dict[str, tuple[str, int | None]]:
    """Return the split and the label of each file, by the name of the file."""
    found: dict[str, tuple[str, int | None]] = {}
    for name, split in (("train", data.train), ("test", data.test)):
        if split is not None:
            labels = [None] * len(split) if split.labels is None else split.labels.tolist()
            found |= {
                Path(file).name: (name, label)
                for file, label in zip(split.names or [], labels, strict=True)
            }
    return found


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_a_list_gives_what_the_folder_gives_that_it_describes(suffix: str, tmp_path: Path) -> None:
    rows = [("path", "label", "split")]
    for split, n in (("train", 4), ("test", 2)):
        for label in ("cat", "dög, grey"):
            if suffix == ".tsv":
                label = label.replace(",", "")
            start = 10 * len(rows)
            paths = photos(tmp_path / "all" / split / label, n, start)
            rows += [(f"{split}/{path}", label, split) for path in paths]
    of_folder = opened(tmp_path / "all")
    of_list = opened(listed(tmp_path / "all" / f"list{suffix}", *rows))
    assert of_list.classes == of_folder.classes
    assert contents(of_list) == contents(of_folder)
    assert len(contents(of_list)) == 12
    for split in ("train", "test"):
        a, b = getattr(of_list, split), getattr(of_folder, split)
        order = [a.names.index(name) for name in b.names]
        assert torch.equal(a.batch(torch.tensor(order)), b.batch(torch.arange(len(b))))


def test_a_text_is_a_path_a_line_and_data_may_be_moved(tmp_path: Path) -> None:
    paths = photos(tmp_path / "a" / "x", 5)
    listed(tmp_path / "a" / "files.txt", ("path",), *((path,) for path in paths))
    before = opened(tmp_path / "a" / "files.txt")
    assert (len(before.train), before.test, before.classes) == (5, None, None)
    mark = hash_names(before.train)
    (tmp_path / "a").rename(tmp_path / "b")
    assert hash_names(opened(tmp_path / "b" / "files.txt").train) == mark


def test_a_list_holds_out_by_class_with_copies_and_groups_on_one_side(tmp_path: Path) -> None:
    rows = [("path", "label")]
    for i in range(40):
        original = write(tmp_path / "one" / f"p{i // 4}_{i}.png", photo((9, 9), seed=i))
        copy = tmp_path / "two" / f"p{i // 4}_copy{i}.png"
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(original.read_bytes())
        rows += [(f"../{p.parent.name}/{p.name}", "ab"[i // 4 % 2]) for p in (original, copy)]
    (tmp_path / "lists").mkdir()
    file = listed(tmp_path / "lists" / "list.csv", *rows)
    for settings in ({}, {"groups": r"p\d+_"}):
        data = opened(file, holdout=0.2, **settings)
        assert data.facts.copies == 40
        sides = contents(data)
        for i in range(40):
            assert sides[f"p{i // 4}_{i}.png"] == sides[f"p{i // 4}_copy{i}.png"]
        assert sum(side == "test" for side, _ in sides.values()) == 16
    groups = {name.split("_")[0]: set[str]() for name in sides}
    for name, (side, _) in sides.items():
        groups[name.split("_")[0]].add(side)
    assert all(len(found) == 1 for found in groups.values())


def test_rows_without_a_label_are_trained_on_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = photos(tmp_path / "x", 12)
    labels = ["a", "b", "", "a", "b", "", "a", "b", "a", "b", "a", "b"]
    data = opened(listed(tmp_path / "l.csv", ("path", "label"), *zip(paths, labels, strict=True)))
    assert data.test is not None
    assert len(data.train) + len(data.test) == 12
    assert len(data.bank) + len(data.test) == 10
    assert "l.csv, line 4: no label, as in 2 of 12 rows" in caplog.text


def test_of_test_and_val_in_a_list_the_first_is_used_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = photos(tmp_path / "x", 4)
    rows = zip(paths, "abab", ("train", "train", "val", "test"), strict=True)
    data = opened(listed(tmp_path / "l.csv", ("path", "label", "split"), *rows))
    assert contents(data) == {"0.png": ("train", 0), "1.png": ("train", 1), "3.png": ("test", 1)}
    assert "rows of a second split to evaluate on are not used (1)" in caplog.text


def test_several_folders_share_classes_and_bare_files_are_trained_on(tmp_path: Path) -> None:
    for name, classes, start in (("one", "ab", 0), ("two", "bc", 100)):
        for label in classes:
            photos(tmp_path / name / label, 10, start + 10 * ord(label))
    photos(tmp_path / "pile", 7)
    data = opened(*(tmp_path / name for name in ("one", "two", "pile")))
    assert data.classes == ("a", "b", "c")
    assert data.test is not None
    assert data.test.labels is not None
    assert (len(data.train), len(data.bank), len(data.test)) == (43, 36, 4)
    assert data.test.labels.bincount().tolist() == [1, 2, 1]
    assert data.name == "one, two, pile"


@pytest.mark.parametrize("prefix", [True, False])
def test_a_folder_for_each_split(prefix: bool, tmp_path: Path) -> None:
    names = ("mine", "yours") if prefix else ("x/train", "y/val")
    for name, start in zip(names, (0, 500), strict=True):
        for label in "ab":
            photos(tmp_path / name / label, 3, start + ord(label))
    before = ("train:", "test:") if prefix else ("", "")
    data = opened(*(f"{b}{tmp_path / name}" for b, name in zip(before, names, strict=True)))
    assert data.test is not None
    assert (len(data.train), len(data.test), data.classes) == (6, 6, ("a", "b"))


def test_a_glob_selects_files_of_its_folder_with_their_classes_and_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in "abc":
            photos(tmp_path / split / label, 3, 10 * ord(label) + len(split))
            (tmp_path / split / label / "notes.txt").write_text("x")
    data = opened(tmp_path / "*" / "[ab]" / "*")
    assert data.test is not None
    assert (len(data.train), len(data.test), data.classes) == (6, 6, ("a", "b"))
    assert data.facts.other_files == {".txt": 4}
    whole = opened(tmp_path / "t*")
    assert (len(whole.train), whole.classes) == (9, ("a", "b", "c"))
    assert len(opened(tmp_path / "**" / "*.png", labels="none").train) == 9
    assert source_name([str(tmp_path / "t*"), "digits"]) == f"{tmp_path.name}+digits"
    assert folder_of(str(tmp_path / "t*" / "a")) == tmp_path


def test_a_folder_with_brackets_in_its_name_is_no_glob(tmp_path: Path) -> None:
    photos(tmp_path / "photos [2020]", 3)
    assert len(opened(tmp_path / "photos [2020]").train) == 3


ARRAYS = {
    "npy": lambda file: np.save(file.with_suffix(".npy"), np.arange(64).reshape(8, 8)),
    "dcm": lambda file: dicom(file.with_suffix(".dcm"), SLICE),
    "export": lambda file: dicom(file, SLICE),
    "uid": lambda file: dicom(file.with_name(f"1.2.840.{file.name}"), SLICE),
    "siemens": lambda file: dicom(file.with_suffix(".IMA"), SLICE),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_and_dicom_files_are_images_in_a_folder_a_glob_and_a_list(
    kind: str, tmp_path: Path
) -> None:
    root = tmp_path / "scans"
    root.mkdir()
    for number in range(4):
        ARRAYS[kind](root / str(number))
    names = sorted(path.name for path in root.iterdir())
    file = listed(tmp_path / "l.csv", ("path",), *([f"scans/{name}"] for name in names))
    text = listed(tmp_path / "l.txt", ("path",), *([f"scans/{name}"] for name in names))
    for source in (root, root / "*", tmp_path / "s*", file, text):
        data = opened(source)
        assert sorted(contents(data)) == names
        assert data.facts.other_files == {}
    assert takes_files(f"unlabelled:{file}")
    advised = requested_comparison(None, {"data.source": str(file)}, ["few"], ["simclr"])
    assert advised.set["data.source"] == [f"unlabelled:{file}", "few"]
    assert index(str(file), tmp_path / "l.index").samples == {"train": 4}


def test_arrays_and_dicom_files_are_left_out_beside_images_unless_a_glob_selects_them(
    tmp_path: Path,
) -> None:
    photos(tmp_path / "x", 1)
    for kind in ARRAYS:
        ARRAYS[kind](tmp_path / "x" / "1")
    others = {".npy": 1, ".dcm": 1, "without suffix": 1, ".1": 1, ".ima": 1}
    for source in (tmp_path / "x", tmp_path / "x" / "*"):
        data = opened(source)
        assert (list(contents(data)), data.facts.other_files) == (["0.png"], others)
    assert list(contents(opened(tmp_path / "x" / "*.dcm"))) == ["1.dcm"]
    (tmp_path / "x" / "0.png").unlink()
    assert sorted(contents(opened(tmp_path / "x"))) == ["1.dcm", "1.npy"]


def test_other_files_without_a_suffix_and_an_index_of_dicom_files_are_no_images(tmp_path: Path) -> None:
    for name in ("x/0", "x/1", "y/DICOMDIR"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(128) + (b"DICM" if name[0] == "y" else b"JPEG"))
    os.mkfifo(tmp_path / "x" / "pipe")  # which would wait for somebody to write
    for name, number in (("x", 3), ("y", 1)):
        expected = rf"only other files \({number} without suffix\); give image files their suffix, such"
        for source in (tmp_path / name, tmp_path / name / "*"):
            with pytest.raises(UserError, match=expected) as error:
                opened(source)
            one_line(error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path\n0.png\ngone.png\n", r"l\.csv, line 3: .*gone\.png does not exist \(1 of 2 files"),
        ("file,label\n0.png,a\n", r"l\.csv has no column 'path' \(it has file, label\); name the"),
        ("path,split\n0.png,soon\n", r"l\.csv, line 2: split: is 'soon'; give train, test"),
        ("path,split\n0.png,\n", r"l\.csv, line 2: has no split; give train, test"),
        ("path,label\n0.png,a\n./0.png,b\n", r"line 3: \./0\.png is listed already in line 2; remove"),
        ("path,label\n,a\n", "line 2: has no path; give one, or remove the line"),
        ("path\n0.png,a\n", "line 2: has more columns than the first line"),
        ("path\n", r"l\.csv is an empty list; write a path in each line"),
        ("", r"l\.csv is an empty list"),
        ("path,split\n0.png,test\n", "has no images to train on, only some to evaluate on"),
        (
            "path,label,split\n0.png,a,train\n1.png,,test\n",
            "line 3: a file to evaluate on has no label, though others have; give it one",
        ),
        (b"path\n\xff.png\n", "line 2: is not valid UTF-8; save it as UTF-8"),
    ],
)
def test_a_wrong_list_is_refused_in_a_line(text: str | bytes, message: str, tmp_path: Path) -> None:
    for i in range(2):
        write(tmp_path / f"{i}.png")
    (tmp_path / "l.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message) as error:
        opened(tmp_path / "l.csv")
    one_line(error)


def test_columns_may_have_other_names_and_a_missing_one_is_refused(tmp_path: Path) -> None:
    paths = photos(tmp_path / "x", 2)
    file = listed(tmp_path / "l.csv", ("file", "kind"), *zip(paths, "ab", strict=True))
    options = {"path": "file", "label": "kind"}
    assert opened(file, options=options, holdout=0.5).classes == ("a", "b")
    with pytest.raises(UserError, match=r"data\.options\.split: l\.csv has no column 'fold'"):
        opened(file, options={**options, "split": "fold"})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", "path;label;split\r\nx/0.png;a;train\r\nx/1.png;b;test\r\n"),
        ("l.csv", "path\tlabel\tsplit\nx/0.png\ta\ttrain\nx/1.png\tb\ttest\n"),
        ("l.csv", '"path";"label";"split"\nx/0.png;"a";train\nx/1.png;"b";test\n'),
        ("l.csv", "Path,LABEL,Split\nx/0.png,a,train\nx/1.png,b,test\n"),
        ("l.tsv", "Path\tLabel\tSplit\nx/0.png\ta\ttrain\nx/1.png\tb\ttest\n"),
    ],
)
def test_a_list_as_excel_writes_it_is_read_as_any_other(name: str, text: str, tmp_path: Path) -> None:
    photos(tmp_path / "x", 2)
    plain = tmp_path / "plain.csv"
    plain.write_text("path,label,split\nx/0.png,a,train\nx/1.png,b,test\n")
    (tmp_path / name).write_bytes(text.encode())
    read, expected = read_list(tmp_path / name), read_list(plain)
    assert [file[:3] for file in read] == [file[:3] for file in expected]
    assert len(read) == 2
    assert set(contents(opened(tmp_path / name, labels="none"))) == {"0.png", "1.png"}


def test_columns_that_differ_in_case_alone_are_not_guessed(tmp_path: Path) -> None:
    photos(tmp_path / "x", 2)
    (tmp_path / "l.csv").write_text("Path,PATH\nx/0.png,x/1.png\n")
    with pytest.raises(UserError, match=r"has no column 'path' \(it has Path, PATH\)"):
        read_list(tmp_path / "l.csv")
    (tmp_path / "l.csv").write_text("path,Path\nx/0.png,x/1.png\n")
    assert [file.path.name for file in read_list(tmp_path / "l.csv")] == ["0.png"]


def test_a_comma_in_the_first_line_beats_semicolons_in_its_names(tmp_path: Path) -> None:
    photos(tmp_path / "x", 1)
    (tmp_path / "l.csv").write_text("path,a;b\nx/0.png,1;2\n")
    assert [file.row["a;b"] for file in read_list(tmp_path / "l.csv")] == ["1;2"]


def test_a_spreadsheet_and_a_broken_parquet_are_refused_in_a_line(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    for name in ("l.xlsx", "l.parquet"):
        (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(UserError, match=r"l\.xlsx' is a spreadsheet; save it as \.csv$") as error:
        opened(tmp_path / "l.xlsx")
    one_line(error)
    with pytest.raises(UserError, match=r"l\.parquet cannot be read: .*[^.]; write it again$") as error:
        opened(tmp_path / "l.parquet")
    one_line(error)


def test_a_text_with_labels_is_told_how_to_give_them(tmp_path: Path) -> None:
    write(tmp_path / "0.png")
    (tmp_path / "l.txt").write_text("0.png 3\n")
    with pytest.raises(UserError, match=r"is a path alone; give labels in a \.csv") as error:
        read_list(tmp_path / "l.txt")
    one_line(error)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (("a", "a"), "a is named twice; leave one out"),
        (("a", "a/../a/"), "is named twice"),
        (("a", "a/b"), "lies in .*, all of which is read; leave it out"),
        (("a/b/*.png", "a/*/0.png"), r"0\.png is in .* and in .*; name each file once"),
        (("a", "digits"), "cannot be one data set; several sources are folders, globs or lists"),
        (("a", "gone"), "gone' does not exist; correct the path$"),
        (("a", "gone.csv"), r"gone\.csv' does not exist; correct the path$"),
        (("a/*.jpg",), r"matches nothing; correct the pattern"),
        (("a/b/*.txt",), r"matches no images, only other files \(1 \.txt\)"),
    ],
)
def test_sources_that_overlap_or_are_empty_are_refused_in_a_line(
    sources: Sequence[str], message: str, tmp_path: Path
) -> None:
    photos(tmp_path / "a" / "b", 2)
    (tmp_path / "a" / "b" / "x.txt").write_text("x")
    with pytest.raises(UserError, match=message) as error:
        opened(*(s if s == "digits" else f"{tmp_path}/{s}" for s in sources))
    one_line(error)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("trian:photos", "'trian:photos': there is no split 'trian:'. Did you mean 'train:'?"),
        ("unlabeled:photos/", "there is no split 'unlabeled:'. Did you mean 'unlabelled:'?"),
        ("train:photos/gone", "'train:photos/gone' does not exist; correct the path"),
        ("digits.csv", "'digits.csv' does not exist; correct the path. Did you mean 'digits'?"),
        ("nowhere", "'nowhere' is neither a folder nor a known data set. Known are: digits"),
    ],
)
def test_a_source_that_is_nothing_is_told_what_it_looks_like(source: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        opened(source)
    assert message in str(error.value)
    one_line(error)
