"""Fetching row groups: ahead, by several threads, and what becomes of it when files cannot be read."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ssl_zoo.data.row_groups import files
from ssl_zoo.data.row_groups.files import ParquetReader, Unreachable
from ssl_zoo.data.row_groups.held import FETCHING, HeldGroups
from ssl_zoo.data.sample_files import LostData
from ssl_zoo.data.splits import Pass
from tests.core.fake_hub import NAME, serving
from tests.core.parquet_files import pictures, streamed

pytest.importorskip("datasets", reason="Hugging Face's library is not installed")

TRAINING = """
import sys
import time
from pathlib import Path
from ssl_zoo.data.row_groups import files
from ssl_zoo.data.splits import Pass
from tests.core.parquet_files import streamed

files.GIVE_UP_SECONDS = 1.0
train = streamed(sys.argv[1], Path(sys.argv[2])).train
print("training", flush=True)
if sys.stdin.readline().strip() == "stop":
    train.contents._held.hold("owner", range(len(train.contents.counts)))
    time.sleep(1)
    sys.exit("stopped")
list(train.batches(Pass(0, 8, 0, 100)))
"""


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, at most ten seconds."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(("order", "last_words"), [("go on", "cannot read hf://"), ("stop", "stopped")])
def test_a_process_ends_at_once_though_other_row_groups_are_being_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, last_words: str
) -> None:
    folder = pictures(tmp_path / "hub", train=800, test=0, labelled=False)
    with serving(folder, monkeypatch) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        child = subprocess.Popen(
            [sys.executable, "-c", TRAINING, NAME, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert child.stdin
        assert child.stdout
        assert child.stderr
        try:
            assert child.stdout.readline() == "training\n"
            hub.busy, hub.down = True, order != "stop"
            print(order, file=child.stdin, flush=True)
            assert any(last_words in line for line in child.stderr)
            child.wait(5)  # not the half minute of those that wait in Hugging Face's library
            assert child.returncode == 1
        finally:
            child.kill()
            child.communicate()


def test_a_failed_pass_holds_nothing_though_the_error_keeps_its_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "GIVE_UP_SECONDS", 0.0)
    folder = pictures(tmp_path / "hub", train=400, test=0, labelled=False)
    with serving(folder, monkeypatch) as hub:
        train = streamed(NAME, tmp_path, options={"shuffle": 7}).train
        hub.down = True
        with pytest.raises(LostData) as error:
            list(train.batches(Pass(1, 8, 0, 50)))
        groups = train.contents._held  # type: ignore[attr-defined]
        assert error.tb
        assert not groups._owners
        wait_until(lambda: groups._threads == 0)
        hub.down = False
        assert all(groups._owners for _ in train.batches(Pass(1, 8, 0, 50)))  # to the last batch
        assert not groups._owners


def test_a_row_group_that_comes_short_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pictures(tmp_path / "hub", test=0, labelled=False)
    with serving(folder, monkeypatch) as hub:
        train = streamed(NAME, tmp_path).train
        whole = streamed(folder, tmp_path).train.batch(torch.arange(60))
        train.contents._held.spare = 1  # type: ignore[attr-defined]
        hub.cut = 1
        assert torch.equal(train.batch(torch.arange(60)), whole)
        assert hub.cut == 0
        assert not train.skipped
        monkeypatch.setattr(files, "GIVE_UP_SECONDS", 0.0)
        hub.cut = 100
        with pytest.raises(LostData, match=r"cannot read hf://.*: \d+ bytes came instead of \d+"):
            train.batch(torch.arange(60))


def test_a_row_group_that_pyarrow_cannot_read_for_its_size_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow
    from pyarrow import parquet

    def refuse(*arguments: Any, **options: Any) -> None:
        raise pyarrow.ArrowNotImplementedError("Nested data conversions for chunked array outputs")

    train = streamed(pictures(tmp_path / "hub", test=0), tmp_path).train
    train.contents._held._groups.clear()  # type: ignore[attr-defined]
    monkeypatch.setattr(parquet.ParquetFile, "read_row_group", refuse)
    with pytest.raises(
        LostData, match=r"pyarrow cannot read row group .* of .*Nested.*with smaller row groups"
    ):
        train.batch(torch.arange(7))
    assert not train.skipped


def test_reading_is_tried_again_for_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(files, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))
    (tmp_path / "file").write_bytes(b"content")
    outage = 50.0
    attempts: list[float] = []

    def read(opened: Any) -> bytes:
        attempts.append(now)
        if now < outage:
            raise Unreachable
        return bytes(opened.read())

    assert ParquetReader().read(str(tmp_path / "file"), read) == b"content"
    assert len(attempts) < 12
    now, outage = 0.0, 100.0
    with pytest.raises(Unreachable):
        ParquetReader().read(str(tmp_path / "file"), read)
    assert 50 < now <= files.GIVE_UP_SECONDS
    now, wanted = 0.0, iter([True] * 20)
    with pytest.raises(Unreachable):
        ParquetReader().read(str(tmp_path / "file"), read, wanted=lambda: next(wanted, False))
    assert now < 3


def test_evaluation_fetches_the_row_groups_of_the_next_batches_at_the_same_time(tmp_path: Path) -> None:
    train = streamed(pictures(tmp_path / "hub", test=0, labelled=False), tmp_path, workers=1).train
    groups = train.contents._held  # type: ignore[attr-defined]
    groups.spare = 4
    groups._groups.clear()
    fetch, together = groups._fetch, threading.Barrier(4)

    def fetch_with_others(group: int, wanted: Callable[[], bool]) -> Any:
        if group < 4:
            together.wait(10)
        return fetch(group, wanted)

    groups._fetch = fetch_with_others
    stream = train.stream(torch.arange(60), 14)  # two row groups each
    next(stream)
    assert len(groups._groups) <= 2 * groups.spare
    stream.close()
    assert not groups._owners


def test_a_group_that_was_not_fetched_ahead_is_fetched_when_it_is_needed() -> None:
    broken = [True]

    def fetch(group: int, wanted: Callable[[], bool]) -> int:
        if broken[0]:
            raise LostData("no network")
        return group

    groups = HeldGroups(fetch, 4)
    groups.hold("owner", range(20))
    wait_until(lambda: groups._threads == 0)
    with pytest.raises(LostData, match="no network"):
        groups.get(3)
    broken[0] = False
    assert [groups.get(group) for group in range(20)] == [*range(20)]


def test_the_first_group_that_is_lost_ends_all_fetches_and_the_end_of_an_owner_its_own() -> None:
    begun: list[int] = []
    lost = threading.Event()

    def fetch(group: int, wanted: Callable[[], bool]) -> int:
        begun.append(group)
        while wanted():
            if group == 0 and lost.wait(0.01):
                raise LostData("no network")
            time.sleep(0.01)
        raise Unreachable("not wanted")

    groups = HeldGroups(fetch, 4)
    groups.hold("owner", range(FETCHING + 2))
    wait_until(lambda: len(begun) == FETCHING)
    groups.end("owner")
    wait_until(lambda: groups._threads == 0)
    assert len(begun) == FETCHING
    assert not groups._groups
    begun.clear()
    with ThreadPoolExecutor(FETCHING + 4) as pool:
        waiting = [pool.submit(groups.get, group) for group in range(FETCHING + 4)]
        wait_until(lambda: len(groups._owners) == FETCHING + 4)
        lost.set()
        assert {str(future.exception(10)) for future in waiting} == {"no network"}
    assert len(begun) == FETCHING
    assert not groups._owners


def test_threads_that_need_different_groups_do_not_drop_those_of_each_other() -> None:
    fetched: Counter[int] = Counter()

    def fetch(group: int, wanted: Callable[[], bool]) -> int:
        fetched[group] += 1
        time.sleep(0.002)
        return group

    groups = HeldGroups(fetch, 1)
    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(groups.get, range(100))) == [*range(100)]
    assert fetched == dict.fromkeys(range(100), 1)
    assert len(groups._groups) == 1


def test_an_owner_may_end_as_garbage_while_its_thread_has_the_lock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    groups = HeldGroups(lambda group, wanted: group, 1)
    ended = []

    def hold() -> Iterator[None]:
        try:
            groups.hold("owner", [1, 2])
            yield
        finally:
            groups.end("owner")
            ended.append(groups._lock.locked())

    class Collecting(threading.Thread):
        def start(self) -> None:
            gc.collect()
            super().start()

    cycle: list[Any] = [hold()]
    cycle.append(cycle)
    next(cycle[0])
    wait_until(lambda: groups._threads == 0)
    thread = threading.Thread(target=groups.get, args=(3,), daemon=True)
    monkeypatch.setattr(threading, "Thread", Collecting)
    gc.disable()
    try:
        del cycle
        thread.start()
        thread.join(10)
    finally:
        gc.enable()
    assert not thread.is_alive()
    assert ended == [True]
    assert not groups._owners
