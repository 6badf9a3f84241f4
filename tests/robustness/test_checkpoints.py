"""A damaged checkpoint is recognised by its checksums, and the one before it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssl_zoo.errors import UserError
from ssl_zoo.runs.checkpoints import Checkpoints, pack_state, read_checkpoint
from ssl_zoo.runs.run import Run
from tests.conftest import KNN, small_config, ssl_zoo, train
from tests.robustness.conftest import TRIED
from tests.robustness.killing import losses


def state(step: int) -> dict[str, Any]:
    """Return a small checkpoint: tensors of several types, and plain values."""
    generator = torch.Generator().manual_seed(step)
    weights = torch.randn(20, 3, generator=generator)
    return {
        "task": {"w": weights, "half": weights.half(), "count": torch.tensor(step)},
        "optimizer": {"state": {0: {"momentum": weights.neg()}}, "param_groups": [{"lr": 0.1}]},
        "step": step,
        "ema": None,
    }


def same(one: Any, other: Any) -> bool:
    """Return whether two states are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and one.equal(other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


WHOLE = bytes(pack_state(state(7)))


@pytest.fixture(name="file", scope="module")
def one_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoint") / "checkpoint.pt"


def recognised(file: Path, content: bytes) -> bool:
    """Return whether a damaged checkpoint is recognised; if not, its content must be unchanged."""
    file.write_bytes(content)
    TRIED["damaged checkpoints"] += 1
    try:
        found = read_checkpoint(file)
    except UserError as error:
        message = str(error)
    else:
        assert same(found, state(7))
        return False
    assert message.startswith(f"{file} cannot be read: ")
    assert len(message.splitlines()) == 1
    return True


@given(bit=st.integers(0, 8 * len(WHOLE) - 1))
def test_a_wrong_bit_is_recognised_or_changes_nothing(file: Path, bit: int) -> None:
    content = bytearray(WHOLE)
    content[bit // 8] ^= 1 << bit % 8
    recognised(file, bytes(content))


@given(length=st.integers(0, len(WHOLE) - 1))
def test_what_was_cut_off_is_recognised(file: Path, length: int) -> None:
    assert recognised(file, WHOLE[:length])


@given(start=st.integers(0, len(WHOLE) - 1), garbage=st.binary(min_size=1, max_size=600))
def test_overwritten_blocks_are_recognised_or_change_nothing(
    file: Path, start: int, garbage: bytes
) -> None:
    content = WHOLE[:start] + garbage + WHOLE[start + len(garbage) :]
    recognised(file, content[: len(WHOLE)])


def test_every_wrong_bit_of_a_tensor_is_recognised(file: Path) -> None:
    weights = state(7)["task"]["w"].numpy().tobytes()
    begin = WHOLE.index(weights)
    for bit in range(8 * len(weights)):
        content = bytearray(WHOLE)
        content[begin + bit // 8] ^= 1 << bit % 8
        assert recognised(file, bytes(content))


# ---- the last two


def damage(file: Path) -> None:
    """Flip a bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert not checkpoints
    for step in (1, 2, 3):
        checkpoints.save(state(step))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint.before.pt", "checkpoint.pt"]
    assert [read_checkpoint(file)["step"] for file in (checkpoints.file, checkpoints.before)] == [3, 2]


def test_a_damaged_one_gives_way_to_the_one_before_it_and_never_takes_its_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(state(step))
    damage(checkpoints.file)
    taken_up = Checkpoints(tmp_path)
    assert taken_up.load()["step"] == 1
    (line,) = caplog.messages
    assert line.startswith(f"{checkpoints.file} cannot be read: ")
    assert line.endswith("; the one before it is used, of step 1")
    taken_up.save(state(3))
    assert [read_checkpoint(file)["step"] for file in (checkpoints.file, checkpoints.before)] == [3, 1]


@pytest.mark.parametrize("killed_after", ["the last became the one before", "nothing"])
def test_between_two_names_there_is_always_one_to_go_on_with(tmp_path: Path, killed_after: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1))
    if killed_after != "nothing":
        checkpoints.file.replace(checkpoints.before)
    assert checkpoints
    assert checkpoints.load()["step"] == 1


def test_where_both_are_damaged_the_last_is_named(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(state(step))
    damage(checkpoints.file)
    damage(checkpoints.before)
    with pytest.raises(UserError, match=f"^{checkpoints.file} cannot be read: "):
        checkpoints.load()


def test_a_run_goes_on_from_the_one_before_as_if_nothing_had_happened(tmp_path: Path) -> None:
    settings = {"train__epochs": 2, "train__checkpoint_seconds": 0, "train__threads": 1}
    whole = train(small_config("moco", **settings), out=tmp_path / "whole")
    cut = train(small_config("moco", **settings), out=tmp_path / "cut")
    damage(cut.checkpoints.file)
    before = read_checkpoint(cut.checkpoints.before)["step"]
    done = ssl_zoo("train", *KNN, "--resume", cut.path)
    assert done.returncode == 0, done.stderr
    message = done.stderr.splitlines()
    assert f"; the one before it is used, of step {before}" in message[0]
    assert f"resuming from step {before}" in message
    assert losses(cut.path) == losses(whole.path)
    assert Run(cut.path).results()["scores"] == whole.results()["scores"]


def test_a_run_whose_checkpoints_are_all_damaged_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    run = train(small_config("simclr"), out=tmp_path / "run")
    damage(run.checkpoints.file)
    run.checkpoints.before.unlink(missing_ok=True)
    before = {file: file.read_bytes() for file in run.path.iterdir()}
    done = ssl_zoo("train", *KNN, "--resume", run.path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(f"error: {run.checkpoints.file} cannot be read: ")
    assert {file: file.read_bytes() for file in run.path.iterdir()} == before


def test_lines_that_the_log_has_lost_do_not_stop_a_run(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"train__epochs": 2, "train__checkpoint_seconds": 0}
    run = train(small_config("simclr", **settings), out=tmp_path / "run")
    run.checkpoints.before.replace(run.checkpoints.file)
    run.metrics_file.write_bytes(run.metrics_file.read_bytes()[:-1000])
    kept = run.metrics_file.read_bytes().count(b"\n")
    done = ssl_zoo("train", *KNN, "--resume", run.path)
    assert done.returncode == 0, done.stderr
    assert f"{run.metrics_file}: the last lines before the checkpoint are missing" in done.stderr
    steps = [line["step"] for line in run.metrics()]
    assert steps == [*range(1, kept + 1), 22]
