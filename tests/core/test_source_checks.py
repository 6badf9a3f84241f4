"""The checks of data sources: sound sources pass, and each broken one is caught by its check."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_zoo import UserError
from ssl_zoo.data import DataSet
from ssl_zoo.plugins.registry import registry
from ssl_zoo.testing import (
    Check,
    CheckFailed,
    check_source,
    parametrize_with_source_checks,
    run_checks,
    source_checks,
    source_checks_of,
)
from ssl_zoo.testing.catalogue import SOURCE_CHECKS
from tests.core.broken_sources import BROKEN, Line, sound

PLUGINS = Path(__file__).parents[1] / "plugins" / "thirdparty"

Source = Callable[[Any, torch.device], DataSet]


@pytest.mark.parametrize(("source", "check", "message", "also"), BROKEN)
def test_what_is_broken_is_caught(source: Source, check: str, message: str, also: set[str]) -> None:
    failed = {o.check.name: o.note for o in run_checks(source_checks(source)) if o.bad}
    assert re.search(message, failed.get(check, "it passes")), failed
    assert failed.keys() <= {check, *also}, failed


def test_each_check_catches_some_source() -> None:
    assert {parameters.values[1] for parameters in BROKEN} == set(SOURCE_CHECKS)


def of_arrays(config: Any, device: torch.device) -> DataSet:
    return sound()


def as_a_stream(config: Any, device: torch.device) -> DataSet:
    return sound(Line(), spec=sound().spec.without_classes(), test=Line2())


class Line2(Line):
    """Other samples."""

    def __init__(self) -> None:
        self.images = 255 - Line().images


@parametrize_with_source_checks(of_arrays)
def test_a_sound_source_passes(check: Check) -> None:
    check()


@parametrize_with_source_checks(as_a_stream)
def test_a_sound_stream_passes(check: Check) -> None:
    check()


def states(source: Any, config: Any = None) -> dict[str, str]:
    """Return the notes of failed checks, and of those skipped, of a source."""
    results = run_checks(source_checks(source, config))
    return {result.check.name: result.note for result in results if result.status != "passed"}


NO_STREAM = {name for name in SOURCE_CHECKS if name.startswith("streams_")}


@pytest.mark.usefixtures("isolated_registry")
def test_a_source_of_a_modality_of_its_own_passes(tmp_path: Path) -> None:
    registry.load_file(PLUGINS / "waveform.py")
    registry.load_file(PLUGINS / "numbers_table.py")
    assert states("waves", {"options": {"number": 60}}).keys() == NO_STREAM
    rows = np.random.default_rng(0).normal(size=(60, 4)).round(3)
    rows = np.c_[rows, np.arange(60) % 2]
    np.savetxt(tmp_path / "rows.csv", rows, "%g", ",", header="a,b,c,d,class")
    assert states(str(tmp_path / "rows.csv")).keys() == NO_STREAM
    assert states(f"csv:{tmp_path / 'rows.csv'}").keys() == NO_STREAM


@pytest.mark.usefixtures("isolated_registry")
def test_a_stream_of_archives_passes(tmp_path: Path) -> None:
    registry.load_file(PLUGINS / "image_stream.py")
    generator = np.random.default_rng(0)
    for i in range(4):
        with tarfile.open(tmp_path / f"{i}.tar", "w") as archive:
            for j in range(15):
                file, pixels = io.BytesIO(), generator.integers(255, size=(16, 16)).astype(np.uint8)
                Image.fromarray(pixels).save(file, "PNG")
                info = tarfile.TarInfo(f"{j % 3}-{j}.png")
                info.size = file.tell()
                file.seek(0)
                archive.addfile(info, file)
    assert states(f"tars:{tmp_path}") == {}


def test_a_folder_of_images_passes_and_copies_in_both_splits_are_told(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for split, label, n in (("train", "a", 20), ("train", "b", 20), ("test", "a", 5), ("test", "b", 5)):
        folder = tmp_path / split / label
        folder.mkdir(parents=True)
        for i in range(n):
            Image.fromarray(generator.integers(255, size=(20, 20, 3)).astype(np.uint8)).save(
                folder / f"{i}.png"
            )
    assert states(str(tmp_path), {"image_size": 16}).keys() == NO_STREAM
    (tmp_path / "train" / "a" / "0.png").replace(tmp_path / "train" / "a" / "moved.png")
    (tmp_path / "test" / "a" / "0.png").write_bytes((tmp_path / "train/a/moved.png").read_bytes())
    note = states(str(tmp_path), {"image_size": 16})["test_split_is_apart"]
    assert note.startswith("1 of 10 samples of the test split are in the train split too")


def test_check_source_has_a_line_for_each_fault() -> None:
    source = next(p.values[0] for p in BROKEN if p.id == "cannot_be_opened")
    with pytest.raises(CheckFailed) as raised:
        check_source(source)
    first, *lines = str(raised.value).splitlines()
    assert first == f"source 'source' fails 1 of {len(SOURCE_CHECKS)} checks"
    assert len(lines) == 1
    expected = {"can_be_opened": "not yet written"}
    notes = {o.check.name: o.note for o in check_source(source, expected_failures=expected)}
    assert notes["can_be_opened"].startswith("not yet written (ZeroDivisionError")
    assert notes["names_are_as_many"] == "not run: the source cannot be opened"


@pytest.mark.parametrize(
    ("name", "sets", "message"),
    [
        ("digitz", [], r"'digitz' is neither a folder nor a known data set. Did you mean 'digits'"),
        ("digits", ["data.options.size=3"], r"data.options: digits has no options"),
        ("digits", ["data.sizes=3"], r"data.sizes: there is no such setting"),
        ("digits", ["task.name=simclr"], r"task.name: there is no task here; leave it out"),
    ],
)
def test_what_is_no_fault_of_a_source_is_refused(name: str, sets: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        source_checks_of(name, sets=sets)
