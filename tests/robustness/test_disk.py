"""A disk that is full, read-only or gone causes one clear line, and no lost checkpoint."""

from __future__ import annotations

import json
import resource
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ssl_zoo.evaluation.lowshot import LOWSHOT
from ssl_zoo.runs.run import Run
from tests import processes
from tests.conftest import KNN, SMALL, flags, small_config, ssl_zoo, train
from tests.processes import Child
from tests.robustness.disks import Disk, need_disks
from tests.robustness.killing import check_whole, losses, saved_step, start, until

MIB = 2**20
SETTINGS = {"train__epochs": 4, "train__checkpoint_seconds": 0}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Disk]]:
    """Mount a disk of this size in bytes."""
    need_disks()
    made: list[Disk] = []

    def make(size: int) -> Disk:
        place = tmp_path / f"disk-{len(made)}"
        place.mkdir()
        made.append(Disk(place, size))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(name="whole", scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("disk") / "whole"
    done = ssl_zoo("train", *KNN, *flags("simclr", **SETTINGS), "--out", run, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    return run


def complaint(process: Child) -> str:
    """Return the last line of a command that fails while working, which is its only error."""
    _, output = process.communicate(timeout=120)
    assert process.returncode == 1, output
    assert "Traceback" not in output
    assert output.count("error: ") == 1
    return output.splitlines()[-1]


@pytest.mark.parametrize("trouble", ["full", "read-only", "gone"])
def test_trouble_while_training_costs_no_checkpoint(
    trouble: str, disk: Callable[[int], Disk], whole: Path, tried: Counter[str]
) -> None:
    place = disk(64 * MIB)
    run = place.path / "run"
    process = start(["train", *KNN, *flags("simclr", **SETTINGS), "--out", str(run)])
    assert until(process, lambda: len(Run(run).metrics()) > 2)
    filler = place.fill() if trouble == "full" else None
    if trouble == "read-only":
        place.become_read_only()
    elif trouble == "gone":
        (moved := place.path / "elsewhere").mkdir()
        run.rename(moved / "run")
    why = {"full": "No space left on device", "read-only": "Read-only file system"}
    last = complaint(process)
    assert last.startswith(f"error: cannot write {run}/")
    assert why.get(trouble, "No such file or directory") in last
    assert last.endswith(f"; fix this, then resume with: ssl-zoo train --resume {run}")

    if trouble == "full":
        filler.unlink()
    elif trouble == "read-only":
        place.become_writable()
    else:
        (place.path / "elsewhere" / "run").rename(run)
    check_whole(run)
    saved = saved_step(run)
    assert saved > 0
    resumed = ssl_zoo("train", *KNN, "--resume", run, OMP_NUM_THREADS="1")
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming from step {saved}" in resumed.stderr
    assert losses(run) == losses(whole)
    tried["troubles with a disk"] += 1


@pytest.mark.parametrize("size", [4096, 16 * 1024, 64 * 1024])
def test_a_disk_too_small_for_the_run_is_said_in_a_line(
    size: int, disk: Callable[[int], Disk], tried: Counter[str]
) -> None:
    run = disk(size).path / "run"
    done = ssl_zoo("train", *KNN, *flags("simclr"), "--out", run)
    assert done.returncode in (1, 2)
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "Traceback" not in done.stderr
    assert "No space left on device" in line
    assert str(run) in line
    tried["troubles with a disk"] += 1


def limit_file_size() -> None:
    """Let this process write files of at most 32 KiB, with an error instead of a signal."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**15, 2**15))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def test_a_limit_on_the_size_of_files_is_a_full_disk_too(tmp_path: Path, tried: Counter[str]) -> None:
    run = tmp_path / "run"
    main = ["-m", "ssl_zoo", "train", *KNN, *flags("simclr", **SETTINGS), "--out", str(run)]
    done = processes.run(main, prepare=limit_file_size)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"error: cannot write {run}/checkpoint.pt: File too large; "
        f"fix this, then resume with: ssl-zoo train --resume {run}"
    )
    assert not list(run.glob("*.part"))
    assert not list(run.glob(".*.part"))
    tried["troubles with a disk"] += 1


def test_a_read_only_place_is_refused_before_anything_is_computed(
    disk: Callable[[int], Disk], tried: Counter[str]
) -> None:
    place = disk(MIB)
    place.become_read_only()
    done = ssl_zoo("--quiet", "train", *KNN, *flags("simclr"), "--out", place.path / "run")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: --out {place.path}/run: ")
    assert "Read-only file system" in line
    tried["troubles with a disk"] += 1


@pytest.mark.parametrize("what", ["report", "embed", "export", "views"])
@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_what_is_made_of_a_run_is_made_whole_or_not_at_all(
    what: str, trouble: str, disk: Callable[[int], Disk], tmp_path: Path, tried: Counter[str]
) -> None:
    place = disk(64 * MIB)
    run = train(small_config("inpainting", train__epochs=0.2), out=place.path / "run").path
    before = {file: file.read_bytes() for file in run.iterdir()}
    arguments = {
        "report": [run],
        "embed": [run, "-o", place.path / "features.npz"],
        "export": [run, "--to", place.path / "backbone.safetensors"],
        "views": ["--run", run, "-o", place.path / "views.png"],
    }[what]
    if trouble == "full":
        place.fill()
    else:
        place.become_read_only()
    done = ssl_zoo(what, *arguments)
    assert done.returncode in (1, 2), done.stdout
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "Traceback" not in done.stderr
    assert "--debug" not in line
    assert str(place.path) in line
    left = {file: file.read_bytes() for file in run.iterdir()}
    assert left == before
    assert {file.name for file in place.path.iterdir()} <= {"run", "filler"}
    tried["troubles with a disk"] += 1


@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_the_scores_of_a_run_that_cannot_be_written_are_printed_and_said_not_to_be_kept(
    trouble: str, disk: Callable[[int], Disk], tried: Counter[str]
) -> None:
    place = disk(64 * MIB)
    config = small_config("inpainting", train__epochs=0.2)
    run = train(config, out=place.path / "run", protocol=["knn"]).path
    before = {file: file.read_bytes() for file in run.iterdir()}
    if trouble == "full":
        place.fill()
    else:
        place.become_read_only()
    done = ssl_zoo("eval", run, "--protocol", "linear", "--json")
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        f"warning: the scores are not kept in {run}/results.json: cannot write {run}/"
    )
    assert {"full": "No space left on device", "read-only": "Read-only file system"}[trouble] in line
    printed = json.loads(done.stdout)
    assert printed["scores_kept"] is False
    assert printed["notices"][-1]["text"] in line
    assert set(printed["scores"]) == {"inpainting", "pixels", "random-init"}

    table = ssl_zoo("compare", run, "--protocol", "linear", "--json")
    assert table.returncode == 0, table.stderr
    assert "not kept" in table.stderr
    figures = {row["name"]: row["figures"]["linear"] for row in json.loads(table.stdout)["rows"]}
    for row, scores in printed["scores"].items():
        assert figures[row]["mean"] == pytest.approx(scores["linear"])
    assert {file: file.read_bytes() for file in run.iterdir()} == before
    tried["troubles with a disk"] += 1


@pytest.mark.parametrize("command", ["compare", "bench"])
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_measured(
    command: str, disk: Callable[[int], Disk], whole: Path, tried: Counter[str]
) -> None:
    place = disk(MIB)
    place.become_read_only()
    arguments = {
        "compare": [str(whole), "--protocol", "lowshot"],
        "bench": [*flags("simclr"), "--profile"],
    }[command]
    done = ssl_zoo("--quiet", command, *arguments, "--out", place.path / "out")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (f"error: --out {place.path}/out: cannot be made: Read-only file system\n")
    assert not LOWSHOT.metrics.keys() & Run(whole).results()["scores"]["simclr"].keys()
    tried["troubles with a disk"] += 1


def test_a_comparison_on_a_full_disk_goes_on_when_there_is_room(
    disk: Callable[[int], Disk], tmp_path: Path, tried: Counter[str]
) -> None:
    given: dict[str, Any] = {
        "tasks": ["simclr", "rotation"], "seeds": 1, "baselines": [], "protocols": ["knn"],
        "set": {**SMALL, "train.checkpoint_seconds": 0},
    }  # fmt: skip
    place, file = disk(64 * MIB), tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(given))
    out = place.path / "c"
    process = start(["compare", "--config", str(file), "--out", str(out)])
    assert until(process, lambda: len(Run(out / "simclr-0").metrics()) > 2)
    filler = place.fill()
    assert "No space left on device" in complaint(process)
    check_whole(out)
    filler.unlink()
    again = ssl_zoo("compare", "--config", file, "--out", out)
    assert again.returncode == 0, again.stderr
    for name in ("simclr-0", "rotation-0"):
        assert [line["step"] for line in losses(out / name) if "loss" in line] == [*range(1, 12)]
    tried["troubles with a disk"] += 1
