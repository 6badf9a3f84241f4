"""A run or a comparison with a damaged file works, or fails with one line that names the file."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ssl_zoo.comparison import compare
from ssl_zoo.errors import UserError
from ssl_zoo.runs.backbone import load_backbone
from ssl_zoo.runs.run import Run
from tests.conftest import SMALL, small_config, train
from tests.robustness.command_line import say

RUN_FILES = (
    "config.yaml", "metrics.jsonl", "checkpoint.pt", "checkpoint.before.pt", "backbone.safetensors",
    "results.json",
)  # fmt: skip


@pytest.fixture(name="photos", scope="module")
def few_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make forty small images of two classes."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(40):
        file = folder / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    return folder


@pytest.fixture(name="run", scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """Train a run of a few steps, with every file that a run can have."""
    given = {"data__source": str(photos), "train__batch_size": 8, "train__checkpoint_seconds": 0}
    return train(small_config("rotation", **given), out=tmp_path_factory.mktemp("run") / "run").path


@pytest.fixture(name="comparison", scope="module")
def finished_comparison(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """Make a comparison of one task, one run of which has failed."""
    out = tmp_path_factory.mktemp("comparison") / "c"
    settings = {**SMALL, "train.batch_size": 8, "data.source": str(photos)}
    compare(out=out, tasks=["rotation"], seeds=2, protocols=["knn"], baselines=["pixels"], set=settings)
    (out / "rotation-1" / "results.json").unlink()
    (out / "rotation-1" / "failed.json").write_text('{"failed": "no reason"}')
    return out


JSONS: list[Any] = [
    None, [], {}, 3, "text", [[]], {"a": 1}, {"failed": 3}, {"failed": None},
    {"scores": 3}, {"scores": {"rotation": 3}}, {"scores": {"rotation": {"knn": "x"}}}, {"scores": {}},
    {"scores": {"rotation": {"knn": float("nan")}}}, {"scores": {"\x1b[2J": {"knn": 1e308}, "": {}}},
    {"cell": 3}, {"cell": {"protocols": 3}}, {"cell": {"protocols": ["knn"], "seconds": "x"}},
    {"steps": "x"}, {"steps": True}, {"steps": 10**400}, {"steps": 1}, {"samples": 10**400},
    {"transfer": []}, {"skipped": [3]}, {"config": {"train": {"lr": "x"}}}, {"seconds": -1},
]  # fmt: skip


def rewrite(content: bytes, at: int, value: Any) -> bytes:
    """Return JSON with some fields replaced or left out, or other content in its place."""
    try:
        whole = json.loads(content)
    except ValueError:
        whole = None
    if isinstance(whole, dict) and whole and isinstance(value, dict):
        value = {**whole, **value}
        del value[list(value)[at % len(value)]]
    return json.dumps(value).encode() + b"\n"


def replaced(path: Path, make: Callable[[], object]) -> None:
    """Put something that is not a file in the place of one."""
    path.unlink(missing_ok=True)
    make()


DAMAGE: dict[str, Callable[[Path, int, Any], object]] = {
    "cut off": lambda f, at, _: os.truncate(f, at % (f.stat().st_size + 1)),
    "emptied": lambda f, *_: f.write_bytes(b""),
    "one bit": lambda f, at, _: f.write_bytes(flipped(f.read_bytes(), at)),
    "garbage": lambda f, at, _: f.write_bytes(at.to_bytes(9, "big") * 20),
    "another shape": lambda f, at, value: f.write_bytes(rewrite(f.read_bytes(), at, value)),
    "other text": lambda f, _, value: f.write_text(str(value)),
    "a folder": lambda f, *_: replaced(f, f.mkdir),
    "a dangling link": lambda f, *_: replaced(f, lambda: f.symlink_to("nowhere")),
    "a link to itself": lambda f, *_: replaced(f, lambda: f.symlink_to(f.name)),
    "removed": lambda f, *_: f.unlink(),
}


def flipped(content: bytes, at: int) -> bytes:
    """Return the content with one bit flipped."""
    changed = bytearray(content)
    if changed:
        changed[at // 8 % len(changed)] ^= 1 << at % 8
    return bytes(changed)


DAMAGES = st.tuples(st.sampled_from(sorted(DAMAGE)), st.integers(0, 2**40), st.sampled_from(JSONS))


def damaged(original: Path, copy: Path, name: str, how: tuple[str, int, Any]) -> Path:
    """Copy a folder and damage one file of the copy."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(original, copy)
    kind, at, value = how
    DAMAGE[kind](copy / name, at, value)
    return copy


def content(folder: Path) -> dict[str, bytes | None]:
    """Return all files of a folder without locks."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if "lock" not in path.name
    }


READERS = [
    "eval RUN --protocol knn",
    "compare RUN",
    "export RUN --to OUT.safetensors",
    "embed RUN -o OUT.npz --device cpu",
    "views --run RUN -o OUT.png --rows 1",
    "train --resume RUN --protocol knn",
    "train --resume RUN --protocol knn --json",
]
CONTINUING = ["compare --config RUN/compare.yaml --out RUN", "compare RUN"]
CONTINUING += [f"{CONTINUING[0]} {rest}" for rest in ("--dry-run", "--only rotation-1", "--only pixels")]
WRITTEN = {
    "eval": {"results.json"},
    "train": {*RUN_FILES} - {"config.yaml"},
    "compare": {"compare.yaml", "failed.json", "table.csv", "table.html", "table.json", "table.md",
                "table.tex", *RUN_FILES} - {"config.yaml"},
}  # fmt: skip
"""The files in a folder that each command may change in any case."""
SETTING = re.compile(r"\b(data|backbone|train|task)\.\w+: ")
"""The messages about a damaged file with valid syntax, but settings that do not exist."""


def attempt(original: Path, place: Path, command: str, name: str, how: tuple[str, int, Any]) -> None:
    """Call a command on a damaged copy: it works, or one line names the damage; nothing is lost."""
    folder = damaged(original, place / "run", name, how)
    before = content(folder)
    words = command.replace("RUN", str(folder)).replace("OUT", str(place / "out")).split()
    result = say(words, place)
    assert result.code in (0, 1, 2), result
    assert "Traceback" not in result.err
    assert "--debug" not in result.err
    if result.code:
        # What was going on, such as that another checkpoint is used, stands before it.
        line = result.err.splitlines()[-1] if words[0] in WRITTEN else f"error: {result.complaint}"
        assert str(folder) in line or SETTING.search(line) or "failed: " in result.err, result
    after = content(folder)
    lost = {file for file, its in before.items() if file not in after or after[file] != its}
    assert {Path(file).name for file in lost} <= WRITTEN.get(words[0], set())


@given(command=st.sampled_from(READERS), name=st.sampled_from(RUN_FILES), how=DAMAGES)
def test_a_damaged_run_works_or_names_its_file(
    run: Path, tmp_path: Path, tried: Counter[str], command: str, name: str, how: tuple[str, int, Any]
) -> None:
    attempt(run, tmp_path, command, name, how)
    tried["damaged runs"] += 1


@given(command=st.sampled_from(CONTINUING), number=st.integers(0, 50), how=DAMAGES)
def test_a_damaged_comparison_goes_on_or_names_its_file(
    comparison: Path,
    tmp_path: Path,
    tried: Counter[str],
    command: str,
    number: int,
    how: tuple[str, int, Any],
) -> None:
    names = sorted(name for name, its in content(comparison).items() if its is not None)
    attempt(comparison, tmp_path, command, names[number % len(names)], how)
    tried["damaged comparisons"] += 1


@pytest.mark.parametrize("folder", ["run", "comparison"])
def test_a_report_of_what_is_damaged_says_so(
    folder: str, request: pytest.FixtureRequest, tmp_path: Path, tried: Counter[str]
) -> None:
    original: Path = request.getfixturevalue(folder)
    for name in ("config.yaml", "metrics.jsonl", "checkpoint.pt", "results.json"):
        inside = name if folder == "run" else f"rotation-0/{name}"
        attempt(original, tmp_path, "report RUN --map pca -o OUT.html", inside, ("garbage", 3, None))
        tried["damaged runs"] += 1


# ---- from Python


@given(name=st.sampled_from(["metrics.jsonl", "results.json", "backbone.safetensors"]), how=DAMAGES)
def test_readers_in_python_give_what_they_promise_or_name_the_file(
    run: Path, tmp_path: Path, tried: Counter[str], name: str, how: tuple[str, int, Any]
) -> None:
    folder = damaged(run, tmp_path / "run", name, how)
    read: dict[str, Callable[[], Any]] = {
        "metrics.jsonl": Run(folder).metrics,
        "results.json": Run(folder).results,
        "backbone.safetensors": lambda: load_backbone(folder),
    }
    value, message = None, ""
    try:
        value = read[name]()
    except UserError as error:
        message = str(error)
    assert value is not None or str(folder / name) in message
    if value and name == "metrics.jsonl":
        assert all(isinstance(v, int | float) for line in value for v in line.values())
    if value and name == "results.json":
        assert all(isinstance(row, dict) for row in value.get("scores", {}).values())
    tried["damaged runs"] += 1


def test_a_broken_line_of_metrics_is_named(run: Path, tmp_path: Path) -> None:
    folder = damaged(run, tmp_path / "run", "metrics.jsonl", ("emptied", 0, None))
    (folder / "metrics.jsonl").write_text('{"step": 1}\n{"step": \n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2 cannot be read: .*remove the line"):
        Run(folder).metrics()


def test_broken_results_are_told_before_anything_is_computed(run: Path, tmp_path: Path) -> None:
    folder = damaged(run, tmp_path / "run", "results.json", ("emptied", 0, None))
    result = say(["train", "--resume", str(folder)], tmp_path)
    assert result.complaint.startswith(f"{folder / 'results.json'} cannot be read: ")


def test_a_comparison_of_which_a_settings_file_is_lost_still_has_its_table(
    comparison: Path, tmp_path: Path
) -> None:
    folder = damaged(comparison, tmp_path / "c", "rotation-0/config.yaml", ("emptied", 0, None))
    result = say(["compare", str(folder), "--json"], tmp_path)
    assert (result.code, result.err) == (0, "")
    assert "rotation" in [row["name"] for row in json.loads(result.out)["rows"]]
