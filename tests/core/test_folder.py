"""Folders of images, with and without classes, and with other files among them."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from ssl_zoo.data import LazySplit
from ssl_zoo.data.image_files import ImageFiles
from ssl_zoo.data.listing import list_files
from ssl_zoo.data.survey import survey
from ssl_zoo.errors import UserError
from tests.core.pictures import broken, folder, one_line, photo, write

# Files and classes


def test_nested_hidden_odd_and_linked_names(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    expected = [
        write(root / "Ünïcödé 写真.png"),
        write(root / "deep" / "er" / "b.JPG"),
        write(root / "line\nbreak.png"),
    ]
    write(root / ".hidden.png")
    write(root / ".trash" / "c.png")
    broken(root / "notes.txt")
    broken(root / "film.mpg")
    broken(root / "paper.pdf")
    write(elsewhere / "linked.png")
    (root / "link").symlink_to(elsewhere)
    (root / "file link.png").symlink_to(elsewhere / "linked.png")
    (root / "deep" / "circle").symlink_to(root)
    expected += [root / "file link.png", root / "link" / "linked.png"]
    assert sorted(list_files(root).images) == sorted(expected)
    assert len(folder(root, holdout=0.2).train) == 4


def test_two_folders_that_link_to_each_other_end(tmp_path: Path) -> None:
    for one, other in (("a", "b"), ("b", "a")):
        write(tmp_path / one / "x.png")
        (tmp_path / one / "link").symlink_to(tmp_path / other)
    assert len(list_files(tmp_path).images) == 2


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    for name in ("cat", "dög", "cat/young"):
        for i in range(4):
            write(tmp_path / name / f"{i}.png")
    data = folder(tmp_path)
    assert data.classes == ("cat", "dög")
    assert data.train.labels is not None
    assert data.test is not None
    assert data.test.labels is not None
    assert data.bank is data.train
    assert torch.cat([data.train.labels, data.test.labels]).bincount().tolist() == [8, 4]


def test_labels_stay_with_their_images(tmp_path: Path) -> None:
    colours = {"blue": (0, 0, 255), "green": (0, 128, 0), "red": (255, 0, 0)}
    for colour in colours:
        for i in range(7):
            write(tmp_path / colour / f"{i}.png", Image.new("RGB", (9, 9 + i), colour))
        broken(tmp_path / colour / "3.png")
    for resident in ("always", "never"):
        data = folder(tmp_path, resident=resident, holdout=0.3)
        for split in (data.train, data.test):
            assert split is not None
            assert split.labels is not None
            seen = split.batch(torch.arange(len(split)))[:, :, 4, 4]
            expected = torch.tensor([*colours.values()])[split.labels]
            assert torch.equal(seen.long(), expected)


@pytest.mark.parametrize(
    "files", [["a.png", "b.png"], ["a.png", "x/b.png", "y/c.png"]],
    ids=["flat", "some images in no folder"],
)  # fmt: skip
def test_without_classes_there_are_no_labels(files: list[str], tmp_path: Path) -> None:
    for file in files:
        write(tmp_path / file)
    data = folder(tmp_path)
    assert (data.train.labels, data.classes) == (None, None)


@pytest.mark.parametrize("name", ["test", "val", "valid", "validation"])
def test_train_and_test_sub_folders_are_the_splits(name: str, tmp_path: Path) -> None:
    for split, n in (("train", 5), (name, 3)):
        for label in ("x", "y"):
            for i in range(n):
                write(tmp_path / split / label / f"{i}.png")
    data = folder(tmp_path)
    assert data.test is not None
    assert (len(data.train), len(data.test), data.classes) == (10, 6, ("x", "y"))
    assert data.test.labels is not None
    assert data.test.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_test_folder_numbers_its_classes_as_train_does(tmp_path: Path) -> None:
    for file in ("train/a/1.png", "train/b/1.png", "train/c/1.png", "val/c/1.png", "test/1.png"):
        write(tmp_path / file)
    data = folder(tmp_path)
    assert data.test is not None
    assert data.test.labels is not None  # of the two folders, val has labels
    assert data.test.labels.tolist() == [2]


def test_a_class_that_train_lacks_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for file in ("train/a/1.png", "train/b/1.png", "val/a/1.png", "val/z/1.png"):
        write(tmp_path / file)
    data = folder(tmp_path)
    assert data.test is not None
    assert data.test.labels is None
    assert "(z)" in caplog.text


def test_a_train_folder_alone_is_what_is_in_it(tmp_path: Path) -> None:
    for file in ("train/a/1.png", "train/a/2.png", "train/b/1.png", "train/b/2.png"):
        write(tmp_path / file)
    assert folder(tmp_path).classes == ("a", "b")


def test_gray_folders_have_one_channel_and_a_single_colour_image_makes_three(tmp_path: Path) -> None:
    for i in range(300):
        write(tmp_path / f"{i:03}.png", Image.new("L", (4, 4), i % 256))
    assert folder(tmp_path).spec.channels == 1
    write(tmp_path / "150.png", Image.new("RGB", (4, 4), "red"))
    data = folder(tmp_path)
    assert data.spec.channels == 3
    assert data.train.batch(torch.tensor([0])).shape == (1, 3, 16, 16)


def test_the_probe_for_colour_is_spread_over_all_files(tmp_path: Path) -> None:
    gray = [write(tmp_path / "g.png", Image.new("L", (4, 4)))] * 5000
    colour = [write(tmp_path / "c.png", Image.new("RGB", (4, 4)))] * 100
    for files, channels in ((gray, 1), ([*gray, *colour], 3)):
        looked_at = survey(lambda i, files=files: Image.open(files[i]), len(files), 4)
        assert looked_at.channels == channels


def test_one_image_is_trained_on_and_nothing_is_evaluated(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    data = folder(tmp_path)
    assert (len(data.train), data.test) == (1, None)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("n", [2, 3, 11])
def test_a_holdout_leaves_something_to_both_and_shares_nothing(
    n: int, share: float, tmp_path: Path
) -> None:
    for i in range(n):
        write(tmp_path / f"{i}.png", Image.new("L", (4, 4), i * 20))
    data = folder(tmp_path, holdout=share)
    assert data.test is not None
    train, test = (s.batch(torch.arange(len(s)))[:, 0, 0, 0] for s in (data.train, data.test))
    assert len(train) > 0
    assert len(test) > 0
    assert sorted([*train.tolist(), *test.tolist()]) == [i * 20 for i in range(n)]


# Unreadable files


@pytest.mark.parametrize("resident", ["always", "never"])
def test_an_unreadable_file_is_skipped_counted_and_named(
    resident: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for i in range(20):
        write(tmp_path / f"{i:02}.png")
    bad = {broken(tmp_path / "07.png"), tmp_path / "20.png", tmp_path / "21.jpg"}
    (tmp_path / "20.png").symlink_to(tmp_path / "gone.png")
    whole = write(tmp_path / "21.jpg", photo((400, 400)), quality=95).read_bytes()
    (tmp_path / "21.jpg").write_bytes(whole[: len(whole) * 3 // 4])
    data = folder(tmp_path, resident=resident, holdout=0.1)
    assert data.test is not None
    for split in (data.train, data.test):
        assert len(split.batch(torch.arange(len(split)))) == len(split)
    assert set(data.train.skipped) == set(map(str, bad))
    assert data.train.skipped[str(tmp_path / "07.png")] == "not an image"
    assert data.train.skipped[str(tmp_path / "20.png")] == "No such file or directory"
    assert "truncated" in data.train.skipped[str(tmp_path / "21.jpg")]
    assert len([r for r in caplog.records if r.levelname == "WARNING"]) == 1
    if resident == "always":
        assert len(data.train) + len(data.test) == 19


def test_a_test_split_of_which_nothing_can_be_read_is_none(tmp_path: Path) -> None:
    for i in range(5):
        write(tmp_path / "train" / f"{i}.png")
    broken(tmp_path / "test" / "a.png")
    data = folder(tmp_path)
    assert (len(data.train), data.test) == (5, None)


def test_an_unreadable_image_is_stood_in_for_by_one_of_its_class(tmp_path: Path) -> None:
    for label, colour in (("a", "black"), ("b", "white")):
        for i in range(3):
            write(tmp_path / "train" / label / f"{i}.png", Image.new("RGB", (9, 9), colour))
    broken(tmp_path / "train" / "a" / "2.png")
    write(tmp_path / "test" / "a" / "1.png")
    data = folder(tmp_path, resident="never")
    assert data.train.batch(torch.tensor([2, 0, 3]))[:, 0, 0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize("resident", ["always", "never"])
def test_a_class_without_a_readable_file_does_not_stop_the_run(resident: str, tmp_path: Path) -> None:
    for label in ("a", "b"):
        for i in range(6):
            write(tmp_path / label / f"{i}.png")
    for i in range(4):
        broken(tmp_path / "c" / f"{i}.png")
    data = folder(tmp_path, resident=resident)
    assert data.classes == ("a", "b", "c")
    assert data.train.batch(torch.arange(len(data.train))).shape[0] == len(data.train)


def test_broken_files_that_lie_together_do_not_count_as_more_than_they_are(tmp_path: Path) -> None:
    for i in range(15):
        broken(tmp_path / f"a{i:02}.png")  # the first fifteen to be decoded, but 8 % of all
    for i in range(170):
        write(tmp_path / f"b{i:03}.png", Image.new("L", (4, 4)))
    assert len(folder(tmp_path).train.skipped) == 15


@pytest.mark.parametrize("resident", ["always", "never"])
@pytest.mark.parametrize(("good", "bad"), [(50, 11), (0, 3)], ids=["too many", "all"])
def test_too_many_unreadable_files_stop_with_one_line(
    good: int, bad: int, resident: str, tmp_path: Path
) -> None:
    for i in range(good):
        write(tmp_path / f"good{i:02}.png", Image.new("L", (4, 4)))
    for i in range(bad):
        broken(tmp_path / f"bad{i:02}.png")

    def read() -> None:
        train = folder(tmp_path, resident=resident).train
        train.batch(torch.arange(len(train)))

    whole = f"{bad} of {good + bad} images cannot be read, the last being"
    part = "none of the 2 images of a split can be read, such as"  # the third one is held out
    with pytest.raises(UserError, match=rf"({whole}|{part}) .*/bad\d\d.png: not an image;") as error:
        read()
    one_line(error)


def test_a_name_with_a_line_break_stays_on_one_line(tmp_path: Path) -> None:
    odd = os.fsdecode(b"not utf-8 \xff.png")
    for name in ("line\nbreak.png", odd):
        broken(tmp_path / name)
    for i in range(8):
        write(tmp_path / f"{i}.png")
    skipped = folder(tmp_path, holdout=0.2).train.skipped
    assert len(skipped) == 2
    assert "line\\nbreak.png" in "".join(skipped)
    assert "".join(skipped).encode()


# Folders without images


def test_wrong_folders_get_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("a.txt", "b.txt", "c"):
        broken(tmp_path / "texts" / name)
    broken(tmp_path / "phone" / "IMG_1.HEIC")
    write(tmp_path / "half" / "train" / "a.png")
    (tmp_path / "half" / "test").mkdir()
    expected = {
        "empty": "there are no images in .*empty, the folder is empty; name another folder",
        "texts": r"no images in .*texts, only other files \(2 .txt, 1 without suffix\)",
        "texts/a.txt": r"a\.txt, line 1: .*not an image does not exist \(1 of 1 files are missing\)",
        "gone": "gone' does not exist; correct the path",
        "half": "no images in .*half/test; remove it",
    }
    if importlib.util.find_spec("pillow_heif") is None:
        expected["phone"] = "only other files .* pip install pillow-heif"
    for name, message in expected.items():
        with pytest.raises(UserError, match=message) as error:
            folder(tmp_path / name)
        one_line(error)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    (tmp_path / "locked").mkdir(mode=0)
    with pytest.raises(UserError, match=r"cannot read .*locked: Permission denied"):
        folder(tmp_path)


def test_an_image_is_decoded_once_for_each_time_it_is_asked_for(tmp_path: Path) -> None:
    # So loading takes time in proportion to the number of files.
    paths = [write(tmp_path / f"{i}.png", Image.new("L", (4, 4), i)) for i in range(30)]
    data = folder(tmp_path, resident="never", workers=3)
    assert isinstance(data.train, LazySplit)
    files = data.train.files
    assert isinstance(files, ImageFiles)
    opened: list[int] = []
    inner = files.open
    object.__setattr__(files, "open", lambda i, side: (opened.append(i), inner(i, side))[1])
    data.train.batch(torch.arange(len(data.train)))
    assert len(opened) == len(data.train) == len(paths)
