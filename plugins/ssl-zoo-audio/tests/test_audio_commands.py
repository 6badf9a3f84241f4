"""The journey by command: a run that is killed in a process of its own, and what is made of a run."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from ssl_zoo.cli import app
from ssl_zoo.runs.checkpoints import read_checkpoint

PAGE = Path(__file__).parents[3] / "docs" / "audio.md"

FAST = [*("--device", "cpu", "--precision", "fp32", "--no-tune", "--batch-size", "16")]
TINY = ["--set", "backbone.options={width: 16, layers: 2, heads: 2, channels: 16, layer: 1}"]
HUBERT = ["--task", "hubert", *(f"--set=task.{x}" for x in ("clusters=8", "sample=128", "layer=2"))]
WAVE = [*HUBERT, "--backbone", "hubert-mini", *TINY, *FAST]
LOGGED = ["--set", "train.checkpoint_seconds=0", "--set", "train.log_every=1"]
TRAIN = ["train", *WAVE, *LOGGED, "--epochs", "0.35", "--protocol", "knn"]

KILLED_AT = 12
"""The step of 18 at which a run is killed; the targets change after a third of them."""
KILL = f"""
import os, signal
from ssl_zoo import hookimpl


@hookimpl
def ssl_zoo_step_logged(step):
    if step == {KILLED_AT}:
        os.kill(os.getpid(), signal.SIGKILL)
"""
READER = """
import sys
sys.modules["ssl_zoo"] = sys.modules["ssl_zoo_audio"] = None  # an import of these fails
import numpy, soundfile
{code}
waves = [soundfile.read(f"sounds/{{name}}.wav", dtype="float32")[0] for name in "ab"]
numpy.save("read.npy", torch.cat([features(wave) for wave in waves]).numpy())
"""


Zoo = Callable[..., tuple[str, str]]
"""A command in the folder of the run, which must end with an exit code: what it writes."""


def run_command(folder: Path, *arguments: str) -> object:
    """Run a command of ssl-zoo in this process and return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["ssl-zoo", *arguments])
        with pytest.raises(SystemExit) as ended:
            app.main()
    return ended.value.code or 0


def python(folder: Path, *arguments: str, code: int = 0) -> None:
    """Run a new interpreter, which must end with an exit code."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `run`, of HuBERT, in which the targets have changed, and two clips."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "sounds").mkdir()
    for name, seconds in (("a", 0.5), ("b", 0.3)):
        wave = 0.1 * np.random.default_rng(0).standard_normal(round(16000 * seconds))
        soundfile.write(folder / "sounds" / f"{name}.wav", wave, 16000, "FLOAT")
    assert run_command(folder, *TRAIN, "--out", "run") == 0
    return folder


@pytest.fixture
def zoo(folder: Path, capfd: pytest.CaptureFixture[str]) -> Zoo:
    """Return a function that runs a command in the folder."""

    def zoo(*arguments: str, code: int = 0) -> tuple[str, str]:
        capfd.readouterr()
        ended = run_command(folder, *arguments)
        out, err = capfd.readouterr()
        assert ended == code, err
        return out, err

    return zoo


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_run_ends_as_one_that_was_not(folder: Path, zoo: Zoo) -> None:
    (folder / "kill.py").write_text(KILL)
    killed_run = ["--plugin", "kill.py", *TRAIN, "--out", "killed"]
    python(folder, "-m", "ssl_zoo", *killed_run, code=-signal.SIGKILL)
    state = read_checkpoint(folder / "killed" / "checkpoint.pt")
    assert 8 < state["step"] <= KILLED_AT
    assert state["task"]["own.filled"] == 128  # the targets are clusters of its own features
    _, err = zoo("train", "--resume", "killed", "--protocol", "knn")
    assert re.search(rf"resuming from step {state['step']}\b", err)
    runs = [folder / name for name in ("run", "killed")]
    whole, killed = (load_file(run / "backbone.safetensors") for run in runs)
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    scores, again = (json.loads((run / "results.json").read_text())["scores"] for run in runs)
    assert scores == again


def test_two_processes_train_as_one_with_their_own_numbers_of_hidden_places(
    folder: Path, zoo: Zoo
) -> None:
    train = [
        "--task",
        "wav2vec2",
        "--backbone",
        "mel-mini",
        *TINY[:1],
        "backbone.options={width: 16, layers: 2, heads: 2}",
    ]
    train += [*FAST, *LOGGED, "--samples", "160", "--protocol", "knn"]
    zoo("train", *train, "--out", "one")
    python(folder, "-m", "ssl_zoo", "train", *train, "--out", "two", "--devices", "2")
    logs = [(folder / name / "metrics.jsonl").read_text().splitlines() for name in ("one", "two")]
    alone, shared = ([json.loads(line)["contrastive"] for line in lines] for lines in logs)
    assert len(alone) == 10
    assert shared == pytest.approx(alone, rel=1e-3)


@pytest.mark.parametrize("name", ["film.mp4", "photo.png"])
def test_a_folder_without_sound_is_refused_in_a_line_and_nothing_is_written(
    folder: Path, zoo: Zoo, name: str
) -> None:
    (folder / name).mkdir()
    (folder / name / name).write_bytes(b"\0" * 100)
    out, err = zoo("train", "--task", "wav2vec2", "--data", name, "--out", "none", code=2)
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"error: data.source: {name} has no audio")
    assert not (folder / "none").exists()


def test_eval_measures_what_training_did(folder: Path, zoo: Zoo) -> None:
    measured = json.loads((folder / "run" / "results.json").read_text())["scores"]
    scores = json.loads(zoo("eval", "run", "--protocol", "knn", "--json")[0])["scores"]
    assert scores.keys() == {"hubert", "random-init", "log-mel statistics"}
    for name, values in scores.items():
        assert values["knn"] == pytest.approx(measured[name]["knn"])


def test_the_exported_folder_gives_the_embedded_features_without_ssl_zoo(folder: Path, zoo: Zoo) -> None:
    zoo("embed", "run", "--data", "sounds", "-o", "rows.npz")
    code, _ = zoo("export", "run", "--to", "model")
    python(folder, "-c", READER.format(code=code))
    with np.load(folder / "rows.npz") as rows:
        order = np.argsort(rows["name"])
        assert rows["name"][order].tolist() == ["a.wav", "b.wav"]
        features = rows["features"][order]
    np.testing.assert_allclose(np.load(folder / "read.npy"), features, atol=1e-4)


def test_report_and_views_show_spectrograms(folder: Path, zoo: Zoo) -> None:
    zoo("report", "run", "-o", "page.html")
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") > 2
    zoo("views", "--run", "run", "--rows", "2", "-o", "views.png")
    assert (folder / "views.png").stat().st_size > 1000


def test_bench_counts_clips(folder: Path, zoo: Zoo) -> None:
    measured = json.loads(zoo("bench", *WAVE, "--seconds", "0", "--json")[0])
    assert measured["notices"][0]["text"].startswith("syllables: 1,147 clips")


def test_tasks_on_sound_are_compared(folder: Path, zoo: Zoo) -> None:
    network = ["--backbone", "mel-mini", "--set", "backbone.options={width: 16, layers: 2, heads: 2}"]
    few = ["--seeds", "1", "--epochs", "0.05", "--protocol", "knn", *FAST[:4]]
    tasks = "wav2vec2,data2vec-audio"
    out, _ = zoo("compare", "--tasks", tasks, *network, *few, "--out", "table", "--json")
    table = json.loads(out)
    assert {row["name"] for row in table["rows"]} == {
        "wav2vec2", "data2vec-audio", "log-mel statistics", "random-init", "supervised-audio"
    }  # fmt: skip


def test_tasks_on_sound_and_on_images_are_not_compared(folder: Path, zoo: Zoo) -> None:
    _, err = zoo("compare", "--tasks", "hubert,simclr", "--out", "mixed", code=2)
    error = err.splitlines()[-1]
    assert error == (
        "error: --tasks: tasks that take different kinds of data cannot be compared "
        "(hubert: audio; simclr: image); choose those of one kind"
    )
    assert not (folder / "mixed").exists()


@pytest.mark.slow
@pytest.mark.skipif(not PAGE.is_file(), reason="the distribution is tested without the documentation")
def test_the_commands_of_the_page_on_sound_work(tmp_path: Path) -> None:
    """Those on data of Debian's packages are left out where these are not installed."""
    rng = np.random.default_rng(0)
    for name in [f"{kind}/{i}" for kind in ("dog", "cat") for i in range(40)]:
        (tmp_path / "sounds" / name).parent.mkdir(parents=True, exist_ok=True)
        wave = 0.1 * rng.standard_normal(8000)
        soundfile.write(tmp_path / "sounds" / f"{name}.wav", wave, 16000, "FLOAT")
    comparison = Path("plugins", "ssl-zoo-audio", "compare.yaml")
    (tmp_path / comparison).parent.mkdir(parents=True)
    shutil.copy(PAGE.parents[1] / comparison, tmp_path / comparison)
    lines = re.findall("^    ssl-zoo (.*)$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert len(lines) > 10
    rows = [
        f"sounds/{kind}/{i}.wav,{kind},{'train' if i < 20 else 'test'}"
        for i in range(40)
        for kind in ("dog", "cat")
    ]
    (tmp_path / "speakers.csv").write_text("\n".join(["path,label,split", *rows]))
    for line in lines:
        arguments = shlex.split(line, comments=True)
        needed = [a for a in arguments if a.startswith("/usr/")]
        needed += arguments[1:2] if arguments[0] == "eval" else []
        if all((tmp_path / name).exists() for name in needed):
            python(tmp_path, "-m", "ssl_zoo", *briefly(arguments))


def briefly(arguments: list[str]) -> list[str]:
    """Return the arguments of a command with a budget of few clips, where it trains."""
    command = arguments[0]
    if command not in ("train", "compare"):
        return arguments
    for option in ("--minutes", "--samples", "--epochs"):
        if option in arguments:
            place = arguments.index(option)
            arguments = [*arguments[:place], *arguments[place + 2 :]]
    return [*arguments, "--samples", "64", *(["--seeds", "1"] if command == "compare" else [])]
