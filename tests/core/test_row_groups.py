"""Data sets in Parquet that are streamed by row group: of a folder, and of a hub on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import load
from ssl_zoo.data.fingerprint import hash_contents, hash_names
from ssl_zoo.data.lanes.split import LaneSplit
from ssl_zoo.data.row_groups import files
from ssl_zoo.data.row_groups.contents import RowGroupContents
from ssl_zoo.data.sample_files import LostData
from ssl_zoo.data.splits import Pass
from ssl_zoo.errors import UserError
from tests.conftest import Call
from tests.core.fake_hub import COMMIT, NAME, serving
from tests.core.parquet_files import CLASSES, image, parquet, pictures, streamed
from tests.core.pictures import CPU, encoded, everything, go_offline, one_line, write

pytest.importorskip("datasets", reason="Hugging Face's library is not installed")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up after the first attempt."""
    monkeypatch.setattr(files, "GIVE_UP_SECONDS", 0.0)


def contents_of(split: Any) -> RowGroupContents:
    """Return the contents of a split."""
    assert isinstance(split, LaneSplit)
    assert isinstance(split.contents, RowGroupContents)
    return split.contents


@pytest.mark.parametrize("labelled", [True, False])
def test_images_classes_and_splits_are_those_of_the_downloaded_data_set(
    tmp_path: Path, labelled: bool
) -> None:
    folder = pictures(tmp_path / "hub", labelled=labelled)
    ours = streamed(folder, tmp_path)
    theirs = streamed(folder, tmp_path, stream=False)
    assert ours.classes == theirs.classes == (tuple(CLASSES) if labelled else None)
    assert ours.spec == theirs.spec
    for mine, other, count in ((ours.train, theirs.train, 60), (ours.test, theirs.test, 16)):
        assert mine is not None
        assert other is not None
        assert len(mine) == len(other) == count
        every = torch.arange(count)
        assert torch.equal(mine.batch(every), other.batch(every))
        assert (mine.labels is not None) == (other.labels is not None) == labelled
        if mine.labels is not None and other.labels is not None:
            assert torch.equal(mine.labels, other.labels)
    assert ours.train.names is not None
    assert ours.train.names[31] == f"{folder}/data/train-00001-of-00002.parquet:1"


def test_a_part_is_held_out_as_of_the_downloaded_data_set_where_there_is_no_other_split(
    tmp_path: Path,
) -> None:
    folder = pictures(tmp_path / "hub", test=0)
    ours = streamed(folder, tmp_path, holdout=0.2)
    theirs = streamed(folder, tmp_path, stream=False, holdout=0.2)
    assert ours.facts.held_out == theirs.facts.held_out == "20 %, stratified"
    assert torch.equal(everything(ours), everything(theirs))
    seen = {int(i) for _, indices in ours.train.batches(Pass(0, 8, 0, 6)) for i in indices}
    assert len(seen) == 48


def test_names_of_classes_and_missing_ones_are_known_from_a_column_of_texts(tmp_path: Path) -> None:
    labels = ["dog", None, "cat", "", "dog", "cat"]
    parquet(tmp_path / "a" / "train-0.parquet", [*map(image, range(6))], labels)
    data = streamed(tmp_path / "a", tmp_path, holdout=0.5)
    assert data.classes == ("cat", "dog")
    assert (len(data.train), len(data.bank)) == (4, 2)
    data = streamed(tmp_path / "a", tmp_path, labels="none")
    assert (len(data.train), data.test, data.classes) == (6, None, None)


def test_of_the_hub_only_footers_classes_and_the_row_groups_that_are_read_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"bytes": encoded(i, (90, 60)), "path": None} for i in range(800)]
    names = [f"train-{part:05d}-of-00002.parquet" for part in range(2)]
    for part, name in enumerate(names):
        half = rows[400 * part : 400 * (part + 1)]
        parquet(tmp_path / "hub" / "data" / name, half, [i % 3 for i in range(400)], rows=10)
    size = sum((tmp_path / "hub" / "data" / name).stat().st_size for name in names)
    with serving(tmp_path / "hub", monkeypatch) as hub:
        data = streamed(NAME, tmp_path, options={"shuffle": 10}, holdout=0.1)
        assert (len(data.train), len(data.test or ())) == (720, 80)
        assert data.train.names is not None
        assert f"@{COMMIT}/data/{names[0]}:0" in data.train.names[0]
        contents = contents_of(data.train)
        group = int(contents.index.nbytes.max())
        footers = 3 * 2**16  # of 64 kB each, and classes
        measured = 30 * group  # as few row groups as have 256 images to train on
        assert hub.sent < footers + measured < 0.5 * size
        hub.ranges.clear()
        batches = list(data.train.batches(Pass(1, 16, 0, 5)))
        read = {contents.part(data.train.numbers[i]) for _, n in batches for i in n.tolist()}
        assert len(set(hub.ranges)) == len(hub.ranges) <= len(read) + 16  # one ahead in each lane
        assert hub.sent <= len(hub.ranges) * group  # of images alone
        again = streamed(NAME, tmp_path, options={"shuffle": 10}, holdout=0.1)
        assert hash_contents(again.train) == hash_contents(data.train)
        assert hash_names(again.train) == hash_names(data.train)
        assert max(end for _, _, end in hub.ranges) < size / 2 - 2**14  # footers are kept
        hub.down = True
        with pytest.raises(LostData, match=r"cannot read hf://.* then resume the run with --resume"):
            list(data.train.stream(torch.arange(720), 16))
        assert not data.train.skipped
        with pytest.raises(LostData, match="cannot read hf://"):  # where the index is known
            streamed(NAME, tmp_path, options={"shuffle": 10}, holdout=0.1)


def test_a_pass_holds_two_blocks_of_each_lane_and_as_many_lanes_as_memory_has_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pictures(tmp_path / "hub", train=400, labelled=False)
    index = contents_of(streamed(folder, tmp_path).train).index
    block = 7 * int(index.nbytes.sum()) / 400 + int(index.nbytes.max())
    for room, lanes in ((100, 48), (4.5, 4), (0.1, 1)):
        options = {"shuffle": 7, "memory_gb": room * 2 * block / 1e9}
        train = streamed(folder, tmp_path, options=options).train
        contents = contents_of(train)
        assert contents.max_lanes == lanes
        fetched: list[int] = []
        fetch, groups = contents._held._fetch, contents._held
        monkeypatch.setattr(groups, "spare", 1)
        monkeypatch.setattr(groups, "_fetch", partial(_noting, fetched, fetch))
        used = min(lanes, 8)
        for _ in train.batches(Pass(2, 8, 0, 48)):
            # Two blocks, of a row group or two each, or those of four batches; and one from before.
            assert len(groups._groups) <= used * max(4, 2 + 4 * 8 // used // 4) + 1
        # Lanes share the row groups that they cut; and nothing is fetched twice in one lane.
        assert len(fetched) <= len(contents.counts) + used
        assert not groups._owners


def _noting(fetched: list[int], fetch: Callable[..., Any], part: int, wanted: Any) -> Any:
    fetched.append(part)
    return fetch(part, wanted)


def test_broken_rows_and_damaged_row_groups_are_skipped_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = [image(i) for i in range(60)]
    images[3], images[4] = {"bytes": b"no image", "path": None}, None
    file = parquet(tmp_path / "hub" / "train-0.parquet", images)
    train = streamed(tmp_path / "hub", tmp_path).train
    batch = train.batch(torch.arange(60))
    assert torch.equal(batch[3], batch[5])
    assert sorted(train.skipped) == [f"{file}:3", f"{file}:4"]
    assert train.skipped[f"{file}:4"].startswith("the row has no image, or only the path of one outside")
    contents = contents_of(train)
    column = contents.index.footer(0).row_group(6).column(0)
    content = bytearray(file.read_bytes())
    content[column.data_page_offset : column.data_page_offset + 40] = bytes(40)
    file.write_bytes(content)
    train = streamed(tmp_path / "hub", tmp_path).train
    train.batch(torch.arange(40, 50))
    assert set(train.skipped) >= {f"{file}:{row}" for row in range(42, 49)}
    assert f"row group 6 of {file} is damaged (" in train.skipped[f"{file}:42"]


def test_what_cannot_be_streamed_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "files" / "train" / "a" / "0.png")
    good = pictures(tmp_path / "good", train=14, test=0)
    parquet(tmp_path / "split" / "validation-0.parquet", [image(0)])
    parquet(tmp_path / "floats" / "train-0.parquet", [image(0)], ["a"])
    cut = parquet(tmp_path / "cut" / "train-0.parquet", [image(i) for i in range(9)])
    cut.write_bytes(cut.read_bytes()[:-100])
    parquet(tmp_path / "differ" / "train-0.parquet", [image(0)], ["a"])
    parquet(tmp_path / "differ" / "train-1.parquet", [image(0)])
    for folder, options, problem in (
        ("files", {}, r"files has \.png files, and data\.options\.stream reads Parquet alone"),
        ("none", {}, "cannot be found: "),
        ("split", {}, "has no split named train; it has validation"),
        ("good", {"image": "caption"}, "the column caption has no images .there are image: struct, "),
        ("good", {"image": "x"}, r"data\.options\.image: there is no column 'x' .there are image: st"),
        ("good", {"label": "x"}, r"data\.options\.label: there is no column 'x'"),
        ("good", {"label": "image"}, r"data\.options\.label: the column 'image' is struct, not numb"),
        ("cut", {}, r"train-0\.parquet is damaged \(.*\); replace it, or leave it out"),
        ("differ", {}, r"train-1\.parquet has no column label, as the other files do"),
        ("good", {"stream": False, "subset": "x"}, "is known only with data.options.stream=true"),
    ):
        with pytest.raises(UserError, match=problem) as error:
            streamed(tmp_path / folder, tmp_path, options=options)
        one_line(error)
    file = next((good / "data").iterdir())
    with pytest.raises(UserError, match="images are in the file, give hf:FOLDER and data") as error:
        load(DataConfig(source=str(file)), CPU)
    one_line(error)
    go_offline(monkeypatch)
    with serving(good, monkeypatch) as hub:
        hub.down = True
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with pytest.raises(
            UserError, match=r"cannot read hf://.*; start again when it can be read"
        ) as error:
            streamed(NAME, tmp_path)
        one_line(error)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="needs Hugging Face's library: pip install datasets"):
        streamed(good, tmp_path)


def test_a_data_set_without_a_column_of_images_names_its_columns(tmp_path: Path) -> None:
    from datasets import Dataset

    (tmp_path / "texts").mkdir()
    Dataset.from_dict({"text": ["a"], "url": ["b"]}).to_parquet(tmp_path / "texts" / "train-0.parquet")
    with pytest.raises(
        UserError, match=r"has no column of images .there are text: string, url: str"
    ) as e:
        streamed(tmp_path / "texts", tmp_path)
    one_line(e)


def test_a_data_set_is_streamed_by_commands_and_its_samples_are_in_order(call: Call) -> None:
    pictures(Path("hub"))
    stream = ("--set", "data.options.stream=true", "--image-size", "16")
    code, _, err = call("check-source", "hf:hub", *stream)
    assert code == 0, err
    small = ("--backbone", "test_resnet", "--batch-size", "8", "--samples", "8", "--protocol", "knn")
    code, _, err = call("train", "--task", "simclr", "--data", "hf:hub", *stream, *small)
    assert code == 0, err
    assert "hf:hub: 76 images: 60 to train, 16 to evaluate on; 3 classes: ant 25, bee 26, cat 25" in err
