"""Observers, TensorBoard and Weights & Biases among them, receive exactly what a run logs."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from ssl_zoo.errors import UserError
from ssl_zoo.plugins.hookspecs import hookimpl
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runs.run import Run
from ssl_zoo.training import RunSummary
from ssl_zoo_observers import tensorboard, weights_biases
from ssl_zoo_observers.scores import named_scores
from ssl_zoo_vision.contrastive.simclr import SimCLR
from tests.conftest import KNN, flags, small_config, ssl_zoo, train
from tests.robustness.killing import start_and_signal

STEPS = 1437 // 128
MISSING = "the extra ssl-zoo[tensorboard] is not installed"
POSITION = ("epoch", "samples", "seconds", "progress")
RESULTS = {
    "task": "moco",
    "steps": 7,
    "samples": 896,
    "device": "cpu",
    "passes_per_sample": None,
    "scores": {"moco": {"knn": 91.25, "rankme": 3.0}, "pixels": {"knn": 97.0}},
}

Series = dict[str, list[tuple[int, float]]]
"""By name the steps and values, in order."""


class FailsAtFourthStep(SimCLR):
    """A task whose fourth step raises, after three lines were logged."""

    name = "fails"
    steps = 0

    def after_step(self, progress: float) -> None:
        self.steps += 1
        if self.steps == 4:
            raise RuntimeError("no more")


@pytest.fixture(autouse=True)
def no_run_left() -> Iterator[None]:
    yield
    for left in (tensorboard._writers, weights_biases._runs):
        assert left == {}


def test_loading_the_observers_imports_nothing_heavy() -> None:
    script = (
        "import sys, ssl_zoo_observers.tensorboard, ssl_zoo_observers.weights_biases\n"
        "print({name.partition('.')[0] for name in sys.modules} & {'torch', 'tensorboard', 'wandb'})"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")


@pytest.mark.parametrize(
    ("observer", "library"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")]
)
def test_a_library_that_is_missing_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, observer: str, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError) as caught:
        train(small_config("simclr", train__observers=[observer]), out=tmp_path / "run")
    message = f"--observe {observer} needs the extra: pip install 'ssl-zoo[{observer}]'"
    assert str(caught.value) == message
    assert not (tmp_path / "run").exists()


def test_each_score_has_a_name_of_its_own() -> None:
    assert named_scores(RESULTS) == {
        "score/knn": 91.25,
        "score/rankme": 3.0,
        "baseline/pixels/knn": 97.0,
    }


@pytest.mark.parametrize("observer", [tensorboard, weights_biases])
def test_a_run_whose_start_was_not_seen_is_let_be(tmp_path: Path, observer: Any) -> None:
    run = Run.create(tmp_path / "run", small_config("moco"))
    observer.ssl_zoo_step_logged(run, {"step": 1, "loss": 2.0})
    observer.ssl_zoo_run_ended(run, RESULTS)
    assert {file.name for file in run.path.iterdir()} == {"config.yaml", ".lock"}


# ---- observers that are objects


class Recorder:
    """An observer that records the calls of its hooks."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    @hookimpl
    def ssl_zoo_run_started(self, step: int, summary: RunSummary) -> None:
        self.calls.append(("started", (step, summary)))

    @hookimpl
    def ssl_zoo_step_logged(self, metrics: Any) -> None:
        self.calls.append(("logged", dict(metrics)))

    @hookimpl
    def ssl_zoo_run_ended(self, results: Any) -> None:
        self.calls.append(("ended", results))


def test_an_object_observes_the_runs_within_a_block_and_no_others(tmp_path: Path) -> None:
    recorder, config = Recorder(), small_config("simclr", train__epochs=0.3, train__knn_points=0)
    with registry.observing(recorder):
        run = train(config, out=tmp_path / "run", with_baselines=False)
    assert [name for name, _ in recorder.calls] == ["started", *["logged"] * 3, "ended"]
    assert [metrics for name, metrics in recorder.calls if name == "logged"] == run.metrics()
    assert [metrics["progress"] for metrics in run.metrics()] == [0.33333, 0.66667, 1.0]
    assert recorder.calls[-1][1] == run.results()
    train(resume=run.path, with_baselines=False)
    assert len(recorder.calls) == 5


def test_a_summary_says_what_is_trained_and_for_how_long(tmp_path: Path) -> None:
    recorder = Recorder()
    brief: dict[str, Any] = {"protocol": (), "with_baselines": False}
    with registry.observing(recorder):
        config = small_config("moco", train__lr_scaling="linear", train__lr=0.3, train__accumulate=2)
        run = train(config, out=tmp_path / "run", **brief)
        train(resume=run.path, **brief)
        timed = {"train__epochs": None, "train__minutes": 0.005, "train__lr_scaling": "sqrt"}
        train(small_config("moco", train__lr=0.5, **timed), out=tmp_path / "timed", **brief)
    begun, resumed, in_minutes = (value for name, value in recorder.calls if name == "started")
    step, summary = begun
    assert step == summary.progress == 0
    assert (summary.task, summary.data, summary.backbone) == ("moco", "digits", "test_resnet")
    assert (summary.samples, summary.noun, summary.step_samples) == (1438, "images", 256)
    assert (summary.steps, summary.minutes) == (5, None)
    assert summary.budget == "5 steps of 256 images"
    assert summary.parameters == run.results()["parameters"]
    assert summary.device.startswith("cpu, fp32, channels last, ")
    assert summary.learning_rate == "0.3 = 0.3 · 256/256"
    assert (resumed[0], resumed[1].progress) == (5, 1.0)
    _, summary = in_minutes
    assert summary.budget == "0.005 minutes in steps of 128 images"
    assert (summary.steps, summary.minutes) == (None, 0.005)
    assert summary.learning_rate == "0.354 = 0.5 · √(128/256)"


# ---- TensorBoard


def events(run: Path) -> Any:
    """Load the events that TensorBoard shows of a run."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.plugin_event_accumulator", reason=MISSING
    )
    return accumulator.EventAccumulator(str(run / "tensorboard"), {"tensors": 0}).Reload()


def drawn(run: Path) -> Series:
    shown = events(run)
    return {
        tag: [(e.step, e.tensor_proto.float_val[0]) for e in shown.Tensors(tag)]
        for tag in shown.PluginTagToContent("scalars")
    }


def logged(run: Path, lines: int | None = None) -> Series:
    """Return the series expected for a run's first `lines` lines, and for its results if it has any."""
    series: Series = {}
    for line in Run.open(run).metrics()[:lines]:
        for name, value in line.items():
            if name != "step":
                tag = f"position/{name}" if name in POSITION else name
                series.setdefault(tag, []).append((line["step"], np.float32(value)))
    if results := Run.open(run).results():
        for name, value in named_scores(results).items():
            series[name] = [(results["steps"], np.float32(value))]
    return series


def texts(run: Path, tag: str) -> list[tuple[int, str]]:
    tensors = events(run).Tensors(f"{tag}/text_summary")
    return [(e.step, e.tensor_proto.string_val[0].decode()) for e in tensors]


def test_what_is_drawn_is_what_was_logged(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason=MISSING)
    config = small_config("simclr", train__knn_points=2, train__observers=["tensorboard"])
    run = train(config, out=tmp_path / "run", protocol=["knn", "health"])
    series = drawn(run.path)
    assert series == logged(run.path)
    assert [step for step, _ in series["loss"]] == list(range(1, STEPS + 1))
    assert [step for step, _ in series["knn"]] == [6, STEPS]
    assert series["score/knn"] == [(STEPS, np.float32(run.results()["scores"]["simclr"]["knn"]))]

    ((step, text),) = texts(run.path, "config")
    assert step == 0
    assert all(line.startswith("    ") for line in text.splitlines())  # a code block in Markdown
    assert yaml.safe_load(text) == yaml.safe_load(run.config_file.read_text())
    ((step, text),) = texts(run.path, "scores")
    assert step == STEPS
    head, _, first, *_ = text.splitlines()
    assert head.startswith("|  | knn | ")
    assert first.startswith(f"| simclr | {run.results()['scores']['simclr']['knn']:.4g} | ")


@pytest.mark.parametrize("checkpoint_seconds", [0.3, 60])
@pytest.mark.slow
def test_a_run_that_was_killed_and_goes_on_has_each_step_once(
    tmp_path: Path, checkpoint_seconds: float
) -> None:
    pytest.importorskip("tensorboard", reason=MISSING)
    run = tmp_path / "run"
    settings = {"train__epochs": 2, "train__checkpoint_seconds": checkpoint_seconds}
    arguments = [*KNN, *flags("moco", **settings), "--observe", "tensorboard"]
    assert start_and_signal(["train", *arguments], run, signal.SIGKILL, after=14) == -signal.SIGKILL
    # The last line may be missing if the run was killed before its observers were called.
    before = len(drawn(run)["loss"])
    assert before >= len(Run.open(run).metrics()) - 1
    assert drawn(run) == logged(run, before)

    resumed = ssl_zoo("train", *KNN, "--resume", run)
    assert resumed.returncode == 0, resumed.stderr
    series = drawn(run)
    assert series == logged(run)
    assert [step for step, _ in series["loss"]] == list(range(1, 2 * STEPS + 1))
    assert [len(texts(run, tag)) for tag in ("config", "scores")] == [1, 1]


def test_a_finished_run_that_is_resumed_has_each_score_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason=MISSING)
    run = train(small_config("simclr", train__observers=["tensorboard"]), out=tmp_path / "run")
    before = drawn(run.path)
    train(resume=run.path)
    assert drawn(run.path) == before == logged(run.path)
    assert len(texts(run.path, "scores")) == 1


def test_a_run_that_was_not_observed_is_drawn_from_its_first_line(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason=MISSING)
    run = train(small_config("simclr"), out=tmp_path / "run")
    tensorboard.ssl_zoo_run_started(run, STEPS)
    tensorboard.ssl_zoo_run_ended(run, run.results())
    assert drawn(run.path) == logged(run.path)
    assert len(texts(run.path, "config")) == 1


def test_runs_of_one_process_are_drawn_apart_and_one_that_failed_is_closed(
    tmp_path: Path, isolated_registry: None
) -> None:
    pytest.importorskip("tensorboard", reason=MISSING)
    config = small_config("simclr", train__observers=["tensorboard"])
    registry.register_task(FailsAtFourthStep)
    with pytest.raises(RuntimeError, match="no more"):
        train(small_config("fails", train__observers=["tensorboard"]), out=tmp_path / "failed")
    assert drawn(tmp_path / "failed") == logged(tmp_path / "failed", 3)
    assert not tensorboard._writers  # closed
    runs = [train(config, out=tmp_path / name) for name in ("one", "two")]
    for run in runs:
        assert drawn(run.path) == logged(run.path)


# ---- Weights & Biases


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """W&B's client, offline and without the settings of this machine's user."""
    module = pytest.importorskip("wandb", reason="the extra ssl-zoo[wandb] is not installed")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    module.teardown()  # it reads the environment once per process
    yield module
    module.teardown()


def folders(run: Path) -> list[Path]:
    """Return a run's folders in W&B's offline mode, oldest first."""
    paths = (run / "wandb").glob("offline-run-*")
    return sorted(paths, key=lambda folder: folder.stat().st_ctime_ns)


def records(folder: Path) -> list[Any]:
    """Read the records that W&B's client would send: protocol buffers in a log of LevelDB's format."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("*.wandb")
    size = -1
    while size < (size := file.stat().st_size):  # the client's process writes with a delay
        time.sleep(1)
    data, position, part, complete = file.read_bytes(), len(":W&B") + 3, b"", []
    while position + 7 <= len(data):
        if (left := 2**15 - position % 2**15) < 7:  # a header does not cross the end of a block
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        part += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            complete.append(Record.FromString(part))
            part = b""
    return complete


def of_kind(folder: Path, kind: str) -> list[Any]:
    return [getattr(r, kind) for r in records(folder) if r.WhichOneof("record_type") == kind]


def as_dict(items: Any) -> dict[str, Any]:
    return {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}


def sent(folder: Path) -> list[dict[str, Any]]:
    """Return the steps to send, without the fields that W&B's client adds."""
    rows = [as_dict(history.item) for history in of_kind(folder, "history")]
    return [
        {"step": row["_step"], **{k: v for k, v in row.items() if not k.startswith("_")}} for row in rows
    ]


def by_step(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge the lines of a run that belong to the same step."""
    steps: dict[int, dict[str, Any]] = {}
    for line in lines:
        steps.setdefault(line["step"], {}).update(line)
    return list(steps.values())


def test_what_is_sent_is_what_was_logged_and_no_more(tmp_path: Path, wandb: ModuleType) -> None:
    config = small_config("simclr", train__knn_points=2, train__observers=["wandb"])
    run = train(config, out=tmp_path / "of-mine")
    (folder,) = folders(run.path)
    assert sent(folder) == by_step(run.metrics())
    assert [line["step"] for line in sent(folder)] == list(range(1, STEPS + 1))

    (begun,) = of_kind(folder, "run")
    assert (begun.project, begun.display_name) == ("ssl-zoo", "of-mine")
    resolved = run.config().model_dump(mode="json", exclude={"provenance"})
    assert as_dict(begun.config.update) == {**resolved, "_wandb": {}}
    summary: dict[str, Any] = {}
    for update in of_kind(folder, "summary"):
        summary |= as_dict(update.update)
    results = run.results()
    assert named_scores(results).items() <= summary.items()
    assert summary["parameters"] == results["parameters"]
    assert summary["score/knn"] == results["scores"]["simclr"]["knn"]
    assert of_kind(folder, "exit")[0].exit_code == 0

    kinds = {r.WhichOneof("record_type") for r in records(folder)} - {"request"}
    assert kinds == {"header", "run", "telemetry", "history", "summary", "exit"}
    assert (begun.host, begun.HasField("git")) == ("", False)
    (file,) = folder.glob("*.wandb")
    assert str(tmp_path).encode() not in file.read_bytes()
    assert not any((folder / "files").glob("*"))


def test_a_killed_run_goes_on_under_its_name_with_all_of_it(tmp_path: Path, wandb: ModuleType) -> None:
    run = tmp_path / "run"
    settings = {"train__epochs": 2, "train__checkpoint_seconds": 0.3}
    arguments = [*KNN, *flags("moco", **settings), "--observe", "wandb"]
    assert start_and_signal(["train", *arguments], run, signal.SIGKILL, after=14) == -signal.SIGKILL
    assert len(Run.open(run).metrics()) < 2 * STEPS
    (tmp_path / "elsewhere").mkdir()
    run = run.rename(tmp_path / "elsewhere" / "run")
    resumed = ssl_zoo("train", *KNN, "--resume", run)
    assert resumed.returncode == 0, resumed.stderr
    killed, latest = folders(run)
    assert killed.name.rpartition("-")[2] == latest.name.rpartition("-")[2]
    assert (run / "wandb" / "latest-run").resolve().name == latest.name
    assert sent(latest) == by_step(Run.open(run).metrics())
    assert [line["step"] for line in sent(latest)] == list(range(1, 2 * STEPS + 1))


def test_steps_that_wandb_has_are_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    online = SimpleNamespace(  # W&B has steps 1 to 4; the run resumes from step 3
        starting_step=5,
        log=lambda line, step: calls.append((step, line)),
        summary={},
        finish=lambda: calls.append("finished"),
    )
    monkeypatch.setattr(weights_biases, "_begin", lambda run: online)
    run = Run.create(tmp_path / "run", small_config("moco"))
    run.metrics_file.write_text("".join(f'{{"step": {s}, "loss": 0.5}}\n' for s in (1, 2, 3)))
    weights_biases.ssl_zoo_run_started(run)
    for step in (4, 5, 6):
        weights_biases.ssl_zoo_step_logged(run, {"step": step, "loss": 0.25})
    weights_biases.ssl_zoo_run_ended(run, RESULTS)
    assert calls == [(5, {"loss": 0.25}), (6, {"loss": 0.25}), "finished"]
    assert online.summary == {"steps": 7, "samples": 896, **named_scores(RESULTS)}


def test_runs_of_one_process_are_sent_apart_and_one_that_failed_is_ended(
    tmp_path: Path, wandb: ModuleType, isolated_registry: None
) -> None:
    own = wandb.init(project="mine", dir=tmp_path)
    config = small_config("simclr", train__observers=["wandb"])
    registry.register_task(FailsAtFourthStep)
    with pytest.raises(RuntimeError, match="no more"):
        train(small_config("fails", train__observers=["wandb"]), out=tmp_path / "failed")
    runs = [train(config, out=tmp_path / name) for name in ("one", "two")]
    assert wandb.run is own
    own.finish()
    (failed,) = folders(tmp_path / "failed")
    assert sent(failed) == Run.open(tmp_path / "failed").metrics()[:3]
    assert of_kind(failed, "exit")[0].exit_code == 1
    for run in runs:
        (folder,) = folders(run.path)
        assert sent(folder) == run.metrics()
    names = {folder.name for path in ("failed", "one", "two") for folder in folders(tmp_path / path)}
    assert len({name.rpartition("-")[2] for name in names}) == 3


def test_disabled_means_disabled(
    tmp_path: Path, wandb: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run = train(small_config("simclr", train__observers=["wandb"]), out=tmp_path / "run")
    assert len(run.metrics()) == STEPS
    assert not (run.path / "wandb").exists()


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({}, "not logged in to Weights & Biases; run `wandb login`, or "),
        ({"WANDB_API_KEY": "short"}, "WANDB_API_KEY invalid: "),
        pytest.param(
            {
                "WANDB_API_KEY": "0123456789" * 4,
                "WANDB_BASE_URL": "http://127.0.0.1:9",
                "WANDB_INIT_TIMEOUT": "3",
            },
            "; WANDB_MODE=offline keeps the run on this machine",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["no key", "a bad key", "no network"],
)
def test_a_run_that_cannot_be_sent_is_refused(
    tmp_path: Path,
    wandb: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    reason: str,
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config = small_config("simclr", train__observers=["wandb"])
    with pytest.raises(UserError) as caught:
        train(config, out=tmp_path / "run")
    message = str(caught.value)
    assert message.startswith("--observe wandb: ")
    assert reason in message
    assert "WANDB_MODE=offline" in message
    assert len(message.splitlines()) == 1
    assert not (tmp_path / "run").exists()
