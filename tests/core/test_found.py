"""The line that says what was found in a folder: splits, classes, and what is left out."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_zoo.config.schema import DataConfig, TrainConfig
from ssl_zoo.data.summary import DataSummary
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation import Subject, evaluate
from ssl_zoo.notices import collect_notices
from ssl_zoo.runs.build import load_data
from ssl_zoo.runtime.device import Device
from tests.conftest import small_config, train
from tests.core.pictures import CPU, broken, folder, photo, write


def photos(root: Path, number: int, start: int = 0) -> None:
    """Write different images into a folder."""
    for i in range(start, start + number):
        write(root / f"{i}.png", photo(seed=1000 * len(str(root)) + i))


def line(path: Path, **settings: object) -> str:
    """Return the line that says what was found."""
    config = DataConfig.model_validate({"source": str(path), "image_size": 14, **settings})
    with collect_notices() as notices:
        load_data(config, CPU)
    (text,) = (notice["text"] for notice in notices if notice["notice"] == "data")
    return text


def test_one_line_says_what_was_found(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    photos(root / "cats", 30)
    photos(root / "dogs", 20, start=100)
    for i in range(3):
        broken(root / "cats" / f"{i}.npy")
    broken(root / "notes" / "scan.dcm")
    assert line(root) == (
        "photos: 50 images: 45 to train, 5 held out (10 %, stratified); 2 classes: cats 30, dogs 20; "
        "4 files of other kinds left out (.npy 3, .dcm 1); 1 folder not used: notes (0 images)"
    )
    assert line(root, labels="none") == (
        "photos: 50 images: 50 to train, none to evaluate on; no labels (data.labels=none); "
        "4 files of other kinds left out (.npy 3, .dcm 1); 1 folder not used: notes (0 images)"
    )


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Training", "Testing"),
        ("Train", "Test"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("train", "dev"),
        ("train2017", "val2017"),
        ("archive/train", "archive/valid"),
        ("a/b/train", "a/b/test"),
        ("TrainSet", "TestSet"),
        ("trainval", "holdout"),
        ("train_images", "test_images"),
    ],
)
def test_test_images_are_not_trained_on_however_the_folders_are_named(
    train: str, test: str, tmp_path: Path
) -> None:
    root = tmp_path / "brains"
    for label in ("glioma", "healthy"):
        photos(root / train / label, 4)
        photos(root / test / label, 2, start=50)
    data = folder(root)
    assert data.test is not None
    assert (len(data.train), len(data.test), data.classes) == (8, 4, ("glioma", "healthy"))
    assert data.bank is data.train
    names = [part.split("/")[-1] for part in (train, test)]
    assert f"8 to train ({names[0]}), 4 to evaluate on ({names[1]})" in line(root)


def test_images_in_a_folder_unlabeled_are_trained_on_without_a_label(tmp_path: Path) -> None:
    for label in ("a", "b"):
        photos(tmp_path / "train" / label, 4)
        photos(tmp_path / "val" / label, 2, start=50)
    photos(tmp_path / "unlabeled", 6, start=80)
    data = folder(tmp_path)
    assert data.test is not None
    assert (len(data.train), len(data.bank), len(data.test)) == (14, 8, 4)
    assert data.train.labels is None
    assert data.bank.labels is not None
    assert data.bank.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    train = "14 to train (train, unlabeled), 8 labelled ones for evaluation to learn from"
    assert train in line(tmp_path)


def test_beside_classes_too_and_nothing_unlabelled_is_held_out(tmp_path: Path) -> None:
    for label in ("a", "b", "Unlabelled"):
        photos(tmp_path / label, 10, start=100 * ord(label[0]))
    data = folder(tmp_path)
    assert data.test is not None
    assert data.test.labels is not None
    assert (len(data.train), len(data.bank), len(data.test)) == (28, 18, 2)
    assert data.test.labels.tolist() == [0, 1]
    trained, held = (s.batch(torch.arange(len(s))).flatten(1).tolist() for s in (data.train, data.test))
    assert not [sample for sample in held if sample in trained]


def test_a_class_named_train_among_classes_is_a_class(tmp_path: Path) -> None:
    for label in ("bus", "car", "train"):
        photos(tmp_path / label, 4)
    assert folder(tmp_path).classes == ("bus", "car", "train")


def test_two_train_folders_are_not_guessed_between(tmp_path: Path) -> None:
    for name in ("train", "training", "test"):
        photos(tmp_path / name, 2)
    with pytest.raises(UserError, match=r"could be the train split \(train, training\); name one"):
        folder(tmp_path)


def test_a_folder_with_one_class_is_told_that_it_has_one(tmp_path: Path) -> None:
    photos(tmp_path / "photos" / "cats", 12)
    data = folder(tmp_path / "photos")
    assert not data.labelled
    subject = Subject("x", data, Device.choose(TrainConfig()), lambda x: x.flatten(1))
    with pytest.raises(UserError, match=r"photos has only one class \(cats\), so accuracy means"):
        _ = subject.features


def test_images_beside_class_folders_are_why_there_are_no_labels(tmp_path: Path) -> None:
    photos(tmp_path / "a", 5)
    photos(tmp_path / "b", 5)
    write(tmp_path / "stray.png")
    assert "no labels (1 of 11 images are in no sub-folder)" in line(tmp_path)


def test_a_folder_per_patient_is_a_warning_and_labels_can_be_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for i in range(30):
        photos(tmp_path / f"patient{i}", 1, start=i)
    line(tmp_path, holdout=0.2)
    assert "30 classes for 30 labelled images" in caplog.text
    assert "--set data.labels=none" in caplog.text
    caplog.clear()
    data = folder(tmp_path, labels="none")
    assert (data.train.labels, data.bank.labels, data.classes) == (None, None, None)
    assert data.spec.classes is None
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_summary_counts_the_samples_of_each_class(tmp_path: Path) -> None:
    photos(tmp_path / "a", 9)
    photos(tmp_path / "b", 1, start=50)
    summary = DataSummary.of(folder(tmp_path))
    assert summary.classes == {"a": 9, "b": 1}
    assert (summary.train, summary.test, summary.no_accuracy) == (9, 1, "")


def test_what_decoding_loses_is_said_once(tmp_path: Path) -> None:
    write(tmp_path / "wide.png", photo((40, 20)))
    write(tmp_path / "small.png", photo((9, 9)))
    write(tmp_path / "alpha.png", photo().convert("RGBA"))
    write(tmp_path / "deep.png", Image.fromarray(np.full((40, 40), 4000, np.uint16)))
    photo().save(tmp_path / "film.gif", save_all=True, append_images=[photo(seed=1), photo(seed=2)])
    with collect_notices() as notices:
        load_data(DataConfig(source=str(tmp_path), image_size=None), CPU)
    texts = {notice["notice"]: notice["text"].partition(": ")[2] for notice in notices}
    assert texts["image-size"] == "the network sees 224×224 pixels, the default; --image-size changes it"
    assert texts["not-square"] == "1 of 5 images is not square; evaluation sees the central square"
    assert texts["enlarged"] == (
        "all 5 images are smaller than the 224×224 pixels that the network sees; enlarged; "
        "a smaller --image-size avoids it"
    )
    assert texts["transparency"] == (
        "1 of 5 images has an alpha channel; transparent pixels become white; data.channels=4 takes it "
        "as a channel"
    )
    assert texts["bit-depth"] == "1 of 5 images has more than 8 bits; kept as uint16"
    assert texts["first-frame"] == (
        "1 of 5 images has several pages; the first one is used; data.pages=samples takes each as a "
        "sample"
    )
    assert texts["gray"] == "1 of 5 images is gray; repeated to three channels"
    assert "mirror" not in texts  # which only training is about


def test_images_as_small_as_the_network_sees_are_not_said_to_be_enlarged_or_shrunk(
    tmp_path: Path,
) -> None:
    for i in range(6):
        write(tmp_path / f"{i}.png", photo((16, 16), seed=i))
    with collect_notices() as notices:
        data = load_data(DataConfig(source=str(tmp_path), image_size=16), CPU)
        data.spec.raw(data.train.batch(torch.arange(2)))
    assert {notice["notice"] for notice in notices} == {"data"}


def test_one_is_not_said_in_the_plural(tmp_path: Path) -> None:
    for name in "abcdefgh":
        photos(tmp_path / "few" / name, 1, start=ord(name))
    broken(tmp_path / "few" / "a" / "notes.npy")
    copy = tmp_path / "few" / "b" / "copy.png"
    copy.write_bytes((tmp_path / "few" / "b" / f"{ord('b')}.png").read_bytes())
    assert line(tmp_path / "few") == (
        "few: 9 images: 9 to train, none to evaluate on; 8 classes of 1 to 2 images; "
        "1 exact copy, on the same side as the original; 1 file of other kinds left out (.npy 1)"
    )
    photos(tmp_path / "one", 1)
    assert line(tmp_path / "one") == "one: 1 image: 1 to train, none to evaluate on; no labels"


def test_a_holdout_that_has_no_effect_is_said_and_groups_are_refused(tmp_path: Path) -> None:
    for name in ("train", "test"):
        photos(tmp_path / name, 3)
    with collect_notices() as notices:
        folder(tmp_path, holdout=0.3)
    assert "data.holdout=0.3 has no effect" in [n["text"] for n in notices][-1]
    with pytest.raises(UserError, match=r"data\.groups: nothing is held out of .*, as it has a test"):
        folder(tmp_path, groups="folder")


def test_copies_of_test_images_among_those_trained_on_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photos(tmp_path / "train", 5)
    photos(tmp_path / "test", 3, start=20)
    for i in range(2):
        (tmp_path / "test" / f"copy{i}.png").write_bytes((tmp_path / "train" / f"{i}.png").read_bytes())
    with caplog.at_level(logging.WARNING):
        folder(tmp_path)
    assert "2 of the 5 images to evaluate on are exact copies of images trained on" in caplog.text


def test_evaluating_a_run_whose_folder_has_changed_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photos(tmp_path / "photos" / "a", 10)
    photos(tmp_path / "photos" / "b", 10, start=50)
    settings = {"train__batch_size": 8, "data__source": str(tmp_path / "photos")}
    run = train(small_config("simclr", **settings), out=tmp_path / "run", with_baselines=False)
    evaluate(run.path, ["knn"], with_baselines=False)
    assert "held out now" not in caplog.text
    photos(tmp_path / "photos" / "b", 10, start=100)
    evaluate(run.path, ["knn"], with_baselines=False)
    assert (
        "trained on 18 samples, and there are 27 now; samples that are held out now may" in caplog.text
    )


def test_a_run_of_a_version_with_another_holdout_is_not_resumed_and_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for i, label in enumerate("ab"):
        photos(tmp_path / "photos" / label, 10, start=50 * i)
    settings = {"train__batch_size": 8, "data__source": str(tmp_path / "photos")}
    run = train(small_config("simclr", **settings), out=tmp_path / "run", with_baselines=False)
    state = run.checkpoints.load()
    for key in ("settings", "samples", "names"):
        del state[key]
    run.checkpoints.save(state)
    with pytest.raises(
        UserError, match="an earlier version trained the run, and held out other samples"
    ):
        train(resume=run.path)
    evaluate(run.path, ["knn"], with_baselines=False)
    assert "held out other samples; samples that are held out now may have been" in caplog.text


@pytest.mark.parametrize(
    ("names", "classes"),
    [(["bullet_train", "plane", "val_gardena"], 3), (["plane", "test_tube", "train"], 3)],
)
def test_names_that_share_a_word_with_a_split_are_classes_with_a_warning(
    names: list[str], classes: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in names:
        photos(tmp_path / name, 4)
    data = folder(tmp_path)
    assert data.classes is not None
    assert len(data.classes) == classes
    assert "is taken as a class, and its files are trained on" in caplog.text


def test_splits_inside_classes_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for label in ("cat", "dog"):
        photos(tmp_path / label / "train", 4)
        photos(tmp_path / label / "test", 2, start=50)
    assert folder(tmp_path).classes == ("cat", "dog")
    assert "test is inside classes, so not a split" in caplog.text


LAYOUTS = {
    "flat": ["a.png", "b.png", "c.jpg", "notes.txt"],
    "classes": ["cat/1.png", "cat/2.png", "dog/1.png", "dog/sub/2.png", "dog/x.npy"],
    "stray": ["cat/1.png", "dog/1.png", "stray.png", ".hidden.png"],
    "splits": ["train/a/1.png", "train/b/1.png", "val/a/1.png", "test/b/1.png", "stray.png", "x.csv"],
    "wrapped": ["archive/train/1.png", "archive/test/1.png", "README.md", "__MACOSX/archive/._1.png"],
    "unlabelled": ["train/a/1.png", "train/b/1.png", "train/unlabeled/1.png", "unlabeled/2.png"],
    "others": ["train/a/1.png", "train/b/1.png", "test/a/1.png", "extra/deep/1.png", "extra/x.txt"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_file_is_trained_on_evaluated_on_or_counted(layout: str, tmp_path: Path) -> None:
    images = 0
    for number, name in enumerate(LAYOUTS[layout]):
        if name.endswith(("png", "jpg")) and "__MACOSX" not in name:
            write(tmp_path / name, photo(seed=number))
            images += not Path(name).name.startswith(".")
        else:
            broken(tmp_path / name)
    data = folder(tmp_path, holdout=0.3)
    summary = DataSummary.of(data)
    assert summary.train + summary.test + sum(summary.facts.unused.values()) == images
    others = len(LAYOUTS[layout]) - images - sum("__MACOSX" in name for name in LAYOUTS[layout])
    assert sum(summary.facts.other_files.values()) == others
