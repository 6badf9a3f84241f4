"""Which row groups of streamed data sets are sampled, and which files of the hub are read."""

from __future__ import annotations

import pickle
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_zoo import distributed
from ssl_zoo.data.lanes import index, sample
from ssl_zoo.data.lanes.contents import Contents
from ssl_zoo.data.lanes.dataset import _to_look_at
from ssl_zoo.data.lanes.index import SPLITS
from ssl_zoo.data.lanes.sample import sample_of_parts
from ssl_zoo.errors import UserError
from ssl_zoo.notices import collect_notices
from tests.core.fake_hub import COMMIT, NAME, serving
from tests.core.parquet_files import image, parquet, streamed
from tests.core.pictures import one_line

pytest.importorskip("datasets", reason="Hugging Face's library is not installed")
pa = pytest.importorskip("pyarrow")
parquet_files = pytest.importorskip("pyarrow.parquet")


def parts_of(indices: Tensor, size: int) -> int:
    """Return the number of parts of `size` samples that have any of these."""
    return len((indices // size).unique())


@pytest.mark.parametrize(("of_class", "limit"), [(1000, 3000), (50, 600)])
def test_a_sample_of_few_parts_has_the_classes_of_a_random_one_though_data_are_sorted(
    of_class: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = torch.arange(300).repeat_interleave(of_class)
    counts = torch.full((len(labels) // 100,), 100)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    of_random = len(labels[order[:limit]].unique())
    with collect_notices() as notices:
        indices = sample_of_parts(counts, limit, labels)
        assert len(indices) == limit
        assert bool((indices.diff() > 0).all())
        assert len(labels[indices].unique()) >= 0.9 * of_random
        assert parts_of(indices, 100) <= 300  # one for each class
        shuffled = sample_of_parts(counts, limit, labels[order])
        assert parts_of(shuffled, 100) <= max(limit // 100 + 1, sample.MIN_PARTS)
        assert parts_of(sample_of_parts(counts, 256), 100) == sample.MIN_PARTS
        assert not notices
        monkeypatch.setattr(sample, "MAX_PARTS", 60)
        few = sample_of_parts(counts, limit, labels)
        assert parts_of(few, 100) == 60
        classes = len(labels[few].unique())
    assert f"{classes} of 300 classes" in notices[0]["text"]


def test_samples_of_a_streamed_split_have_all_classes_of_sorted_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "MIN_PARTS", 1)
    labels = [number // 20 for number in range(60)]
    parquet(tmp_path / "hub" / "train-0.parquet", [*map(image, range(60))], labels)
    data = streamed(tmp_path / "hub", tmp_path, holdout=0.5)
    for split in (data.bank, data.test):
        assert split is not None
        assert split.labels is not None
        assert set(split.labels[split.sample(9)].tolist()) == {0, 1, 2}


def test_images_to_look_at_are_of_parts_to_train_on() -> None:
    counts, (train, test) = torch.tensor([3, 0, 5, 2]), map(SPLITS.index, ("train", "test"))
    splits = torch.tensor([test] * 3 + [train] * 5 + [test] * 2, dtype=torch.uint8)
    parts: Any = SimpleNamespace(counts=counts, ends=counts.cumsum(0))
    parts.sample = partial(Contents.sample, parts)
    known: Any = SimpleNamespace(splits=splits)
    assert _to_look_at(parts, known, 9) == [3, 4, 5, 6, 7]
    assert len(set(_to_look_at(parts, known, 2)) & {3, 4, 5, 6, 7}) == 2


def test_copies_of_the_hub_are_read_by_subset_and_refused_where_they_are_not_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, count in (("a/train", 9), ("a/test", 4), ("b/train", 5), ("c/partial-train", 3)):
        parquet(tmp_path / "hub" / name / "0000.parquet", [*map(image, range(count))])
    options = {"revision": "refs/convert/parquet"}
    with serving(tmp_path / "hub", monkeypatch):
        data = streamed(NAME, tmp_path, options={**options, "subset": "a"})
        assert (len(data.train), len(data.test or ())) == (9, 4)
        for subset, problem in (
            (None, r"several subsets \(a, b, c\); data\.options\.subset names one"),
            ("c", r"has only the first part of a split \(partial-train\)"),
        ):
            with pytest.raises(UserError, match=problem) as error:
                streamed(NAME, tmp_path, options={**options, "subset": subset})
            one_line(error)


def typed(file: Path, labels: Any, images: Any | None = None) -> None:
    """Write a file with images as plain binary values, or others, and classes of any type."""
    content = pa.array([image(i)["bytes"] for i in range(len(labels))]) if images is None else images
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet_files.write_table(pa.table({"content": content, "label": labels}), file)


@pytest.mark.parametrize(
    ("first", "second", "classes"),
    [
        (pa.array([0, 1], pa.int32()), pa.array([1, None, 2]), [0, 1, 1, -1, 2]),
        (pa.array([3, 0], pa.uint64()), pa.nulls(1), [3, 0, -1]),
        (pa.array(["b", "a"]), pa.array(["a", ""], pa.large_string()), [1, 0, 0, -1]),
        (pa.array(["b", "a"]).dictionary_encode(), pa.array(["c"]), [1, 0, 2]),
        (pa.array([True, False]), pa.array([2**63], pa.uint64()), r"has a number in .*train-1\.parq"),
        (pa.array([1]), pa.array(["a"]), r"is string in .*-1\.parquet, and numbers of classes in the f"),
        (pa.array(["a"]), pa.array([0.5]), r"is double in .*-1\.parquet, and names of classes in the f"),
    ],
)
def test_files_may_have_classes_of_several_types_and_the_only_binary_column_is_that_of_images(
    tmp_path: Path, first: Any, second: Any, classes: list[int] | str
) -> None:
    for number, labels in enumerate((first, second)):
        typed(tmp_path / "hub" / f"train-{number}.parquet", labels)
    if isinstance(classes, str):
        with pytest.raises(
            UserError, match=rf"^data\.options\.label: the column 'label' {classes}"
        ) as e:
            streamed(tmp_path / "hub", tmp_path)
        one_line(e)
        return
    train: Any = streamed(tmp_path / "hub", tmp_path).train
    assert train.contents.index.labels.tolist() == classes


def test_images_outside_of_the_files_and_options_without_effect_are_one_line(tmp_path: Path) -> None:
    paths = pa.array(
        [{"bytes": None, "path": "0.png"}], pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )
    typed(tmp_path / "hub" / "train-0.parquet", pa.array([0]), paths)
    with pytest.raises(
        UserError, match="column content has only paths, of files outside of it; wr"
    ) as e:
        streamed(tmp_path / "hub", tmp_path)
    one_line(e)
    for name, value in (("shuffle", 8), ("memory_gb", 1.0)):
        with pytest.raises(UserError, match=f"data.options.{name}: is known only with data.options.str"):
            streamed(tmp_path / "hub", tmp_path, stream=False, options={name: value})


def test_an_index_is_that_of_equal_files_and_all_processes_have_the_files_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened() -> Any:
        """Open the data, and return where the index is, and the files."""
        train: Any = streamed(NAME, tmp_path).train
        return train.contents.index.folder, train.contents.files

    file = parquet(tmp_path / "hub" / "train-0.parquet", [*map(image, range(9))])
    locks: list[str] = []
    monkeypatch.setattr(index, "file_lock", lambda file, **_: locks.append(file.name) or nullcontext())
    sent: list[bytes] = []
    with serving(tmp_path / "hub", monkeypatch) as hub:
        with monkeypatch.context() as first:
            first.setattr(
                distributed, "exchange", lambda value: sent.append(pickle.dumps(value)) or [value]
            )
            folder, files = opened()
        hub.commit = "f" * 40
        with monkeypatch.context() as second:
            second.setattr(distributed, "rank", lambda: 1)
            second.setattr(distributed, "exchange", lambda value: [pickle.loads(sent.pop(0)), value])
            assert opened() == (folder, files)
        again, changed = opened()
        assert (again, changed.names) == (folder, files.names)
        assert changed.urls[0] == files.urls[0].replace(COMMIT, hub.commit)
        assert locks == [f"{folder.name}.lock"]
        parquet(file, [*map(image, range(1, 9))])
        hub.commit = "e" * 40
        assert opened()[0] != folder
