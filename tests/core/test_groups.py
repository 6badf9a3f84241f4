"""Samples that are parts of one thing: known as such, pooled, and held out together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data import ArraySplit, DataSet, LazySplit, MappedSplit, load
from ssl_zoo.data.image_files import ImageFiles
from ssl_zoo.data.mapped import ArrayFile
from ssl_zoo.data.pixels import ScaledSplit
from ssl_zoo.errors import UserError
from ssl_zoo.spec import Spec
from ssl_zoo.tools.rows import compute_rows, pool_parts
from tests.core.pictures import photo, write

CPU = torch.device("cpu")
SPEC = Spec("image")


def page(number: int, side: int) -> Image.Image:
    """Return a page of a book; number 2 cannot be read."""
    if number == 2:
        raise OSError("torn")
    return Image.new("L", (8, 8), number)


def books(*pages: int) -> LazySplit:
    """Return pages, two of each book, which are decoded when they are needed."""
    files = ImageFiles(
        open=page,
        name="page {}".format,
        group=lambda n: f"book {n // 2}",
        count=6,
        size=(8, 8),
        channels=1,
    )
    return LazySplit(files, None, torch.tensor(pages))


def test_groups_go_with_their_samples(tmp_path: Path) -> None:
    lazy = books(5, 4, 2, 0)
    assert lazy.groups == ["book 2", "book 2", "book 1", "book 0"]
    whole = lazy.to(CPU)
    assert whole.groups == whole.to(CPU).groups == ["book 2", "book 2", "book 0"]
    np.save(tmp_path / "a.npy", np.arange(4))
    mapped = MappedSplit(ArrayFile(tmp_path / "a.npy"), torch.arange(4), groups=lazy.groups)
    for split in (lazy, mapped, ScaledSplit(lazy, (0, 1)), whole):
        assert split.subset(torch.tensor([2, 1])).groups == [split.groups[2], "book 2"]


def test_rows_are_pooled_by_group_and_not_by_what_names_look_like() -> None:
    data = DataSet("books", SPEC, books(5, 4, 0), None, books(4, 5))
    rows, _ = compute_rows(data, ["books"], lambda split: torch.arange(2.0 * len(split)).view(-1, 2))
    pooled = pool_parts(rows)
    assert pooled.name.tolist() == ["book 2", "book 0", "book 2"]
    assert pooled.split.tolist() == ["train", "train", "bank"]
    assert pooled.values.tolist() == [[1, 2], [4, 5], [1, 2]]

    split = ArraySplit(torch.zeros(3, 1), None, names=[f"timm:x train[{i}]" for i in range(3)])
    alike, _ = compute_rows(DataSet("x", SPEC, split, None, split), ["x"], lambda _: torch.eye(3))
    with pytest.raises(UserError, match="--pool: the samples are not parts of"):
        pool_parts(alike)


@pytest.mark.parametrize("listed", [True, False])
def test_frames_of_a_clip_are_on_one_side_and_one_row(tmp_path: Path, listed: bool) -> None:
    """By a column of a list, in which a frame without a clip is alone, or by the folder."""
    rows = ["path,label,group"]
    for clip in range(8):
        for frame in range(3):
            name = f"{clip}/{frame}.png"
            write(tmp_path / name, photo((16, 16), seed=3 * clip + frame))
            rows.append(f"{name},{'ab'[clip % 2]},{'' if clip == 7 else f'clip {clip}'}")
    (tmp_path / "list.csv").write_text("\n".join(rows))
    source = (
        {"source": str(tmp_path / "list.csv")}
        if listed
        else {"source": str(tmp_path), "groups": "folder"}
    )
    data = load(
        DataConfig(image_size=8, holdout=0.25, labels="auto" if listed else "none", **source), CPU
    )
    assert data.test is not None
    train, test = ({Path(name).parent.name for name in split.names} for split in (data.train, data.test))
    assert train.isdisjoint({*test} - {"7"})
    assert len(data.train) + len(data.test) == 24
    assert data.facts.held_out.endswith(f"in whole groups, {10 if listed else 8} in all")
    table, _ = compute_rows(data, [source["source"]], lambda split: torch.ones(len(split), 1))
    wanted = (
        {f"clip {n}" for n in range(7)} | {f"7/{n}.png" for n in range(3)} if listed else set("01234567")
    )
    assert {*pool_parts(table).name.tolist()} == wanted
