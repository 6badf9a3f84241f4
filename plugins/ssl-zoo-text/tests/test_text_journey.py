"""The journey by command: each runs in a process of its own, on a corpus of two small classes."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from ssl_zoo_text.kjv import chapters

import ssl_zoo
from ssl_zoo.comparison import open_sweep

PAGE = Path(__file__).parents[3] / "docs" / "text.md"
RECORDS = Path(__file__).parents[3] / "results" / "text"

PRELOADED = [
    *("ssl_zoo.cli.app", "ssl_zoo.comparison", "ssl_zoo.evaluation.scoring", "ssl_zoo.training"),
    *("ssl_zoo.tools.bench", "ssl_zoo.tools.embed", "ssl_zoo.reporting", "ssl_zoo_text.backbones"),
]
"""Modules that take seconds to import, which the server of processes imports once."""

SMALL = {
    "backbone.name": "bert-tiny",
    "backbone.options": {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2},
    "data.options": {"length": 16, "vocabulary": 300, "passages": 40},
    "train.device": "cpu",
    "train.precision": "fp32",
    "train.tune": False,
}
SETTINGS = [part for k, v in SMALL.items() for part in ("--set", f"{k}={json.dumps(v)}")]
STEPS = 100


class Done(NamedTuple):
    """The exit code of a command, and what it wrote."""

    code: int | None
    out: str
    err: str


class Command:
    """A command in a process that is forked from a server; its interpreter is ready at once.

    Args:
        folder: the current folder of the process, in which its output is kept.
        arguments: those of ``ssl-zoo``.
    """

    def __init__(self, folder: Path, *arguments: str | Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.files = [folder / f".{time.monotonic_ns()}.{name}" for name in ("out", "err")]
        self.process = context.Process(
            target=become, args=(str(folder), [str(a) for a in arguments], list(map(str, self.files)))
        )
        self.process.start()

    def done(self) -> Done:
        """Return the result when the process has ended, or after five minutes without an exit code."""
        self.process.join(300)
        return Done(self.process.exitcode, *(file.read_text("utf-8") for file in self.files))


def become(folder: str, arguments: list[str], files: list[str]) -> None:
    """Run ssl-zoo in this process, as a new interpreter would."""
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (open(n, "w", encoding="utf-8", closefd=False) for n in (1, 2))  # noqa: SIM115
    os.chdir(folder)
    sys.argv = ["ssl-zoo", *arguments]
    from ssl_zoo.cli.app import main

    try:
        main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def ssl_zoo_ends(folder: Path, *arguments: str | Path) -> Done:
    """Run a command that must end well."""
    done = Command(folder, *arguments).done()
    assert done.code == 0, done.err
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `corpus`, short chapters of two parts, and `run`, trained on it."""
    here = tmp_path_factory.mktemp("text")
    for label in ("law", "letters"):
        documents = sorted((d for d in chapters() if d.label == label), key=lambda d: len(d.text))
        (here / "corpus" / label).mkdir(parents=True)
        for document in documents[:12]:
            (here / "corpus" / label / f"{document.name}.txt").write_text(document.text)
    ssl_zoo_ends(here, *training("run"))
    return here


def training(out: str) -> list[str]:
    """Return the arguments that train BERT, with a checkpoint after each step."""
    arguments = ["train", "--task", "bert", "--data", "corpus", *SETTINGS, "--out", out]
    return [*arguments, "--samples", str(32 * STEPS), "--set", "train.checkpoint_seconds=0"]


def results(run: Path) -> dict[str, Any]:
    """Return the scores and the number of steps of a run."""
    read = json.loads((run / "results.json").read_text())
    return {name: read[name] for name in ("scores", "steps")}


def test_a_run_killed_midway_and_resumed_ends_with_the_same_weights_and_scores(folder: Path) -> None:
    killed = Command(folder, *training("killed"))
    log, limit = folder / "killed" / "metrics.jsonl", time.monotonic() + 60
    while not (log.is_file() and '"loss"' in log.read_text()) and time.monotonic() < limit:
        time.sleep(0.005)
    assert killed.process.pid is not None
    os.kill(killed.process.pid, signal.SIGKILL)
    assert killed.done().code == -signal.SIGKILL
    assert not (folder / "killed" / "backbone.safetensors").exists()
    resumed = ssl_zoo_ends(folder, "train", "--resume", "killed")
    assert "resuming from step" in resumed.err
    ours, theirs = (load_file(folder / run / "backbone.safetensors") for run in ("killed", "run"))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    assert results(folder / "killed") == results(folder / "run")
    assert results(folder / "run")["steps"] == STEPS
    assert results(folder / "run")["scores"].keys() == {"bert", "bag of words", "random-init"}


def test_evaluation_gives_the_same_knn_again_and_bits_per_byte_to_language_models_alone(
    folder: Path,
) -> None:
    done = ssl_zoo_ends(folder, "eval", "run", "--protocol", "knn,linear,likelihood", "--json")
    rows = json.loads(done.out)["scores"]
    assert rows["bert"]["knn"] == results(folder / "run")["scores"]["bert"]["knn"]
    assert {"linear", "knn"} <= rows["bert"].keys()
    assert not any("bits-per-byte" in row for row in rows.values())
    reason = "likelihood: bert gives none; train a language model, such as gpt"
    assert done.out.count(reason) == 1
    unasked = ssl_zoo_ends(folder, "eval", "run", "--json")
    assert "likelihood" not in unasked.out + unasked.err
    notices = json.loads((folder / "run" / "results.json").read_text())["notices"]
    assert notices
    assert not any("likelihood" in notice["text"] for notice in notices)


def test_other_samples_than_texts_are_refused_in_a_short_line(folder: Path) -> None:
    code, _, err = Command(folder, "eval", "run", "--data", "digits").done()
    assert code == 2
    assert len(err) < 300, "the tokenizer is not printed"
    assert err.startswith("error: --data digits: the network takes texts")
    assert err.endswith("digits has no options; leave them out\n")


def test_each_text_has_a_row_of_features_a_name_and_a_class(folder: Path) -> None:
    ssl_zoo_ends(folder, "embed", "run", "-o", "e.npz")
    with np.load(folder / "e.npz") as arrays:
        features, names, labels, splits = (arrays[n] for n in ("features", "name", "label", "split"))
        classes = arrays["classes"].tolist()
    assert classes == ["law", "letters"]
    assert features.shape == (len(names), 16)
    assert np.isfinite(features).all()
    assert set(splits) == {"train", "bank", "test"}
    for name, label, split in zip(names, labels, splits, strict=True):
        if split != "train":  # blocks to train on span documents
            assert name.split("/")[0] == classes[label]


def test_an_exported_folder_gives_the_features_of_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "In the beginning was the Word."
    exported = ssl_zoo_ends(folder, "export", "run", "--to", "model/")
    assert "Writing" not in exported.err, "progress bars of transformers"
    code = exported.out
    namespace: dict[str, Any] = {}
    monkeypatch.chdir(folder)
    exec(code, namespace)
    model: Any = ssl_zoo.load_backbone(folder / "run")
    x = model.ssl_zoo_preprocess(text)
    with torch.no_grad():
        states = model(input_ids=x.ids, attention_mask=x.valid().long()).last_hidden_state
    expected = states[x.ordinary()].mean(0, keepdim=True)
    torch.testing.assert_close(namespace["features"]([text]), expected, rtol=1e-4, atol=1e-5)


def test_a_report_shows_the_texts_escaped_and_loads_nothing(folder: Path) -> None:
    ssl_zoo_ends(folder, "report", "run", "-o", "r.html")
    page = (folder / "r.html").read_text("utf-8")
    assert "[MASK]" in page
    assert "bag of words" in page
    assert 'src="http' not in page


def test_views_are_printed_as_source_masked_predicted(folder: Path) -> None:
    ssl_zoo_ends(folder, "views", "--run", "run", "--rows", "2", "-o", "v.txt")
    lines = [line.split()[0] for line in (folder / "v.txt").read_text("utf-8").splitlines() if line]
    assert lines == ["source", "masked", "predicted"] * 2


def test_training_is_measured_in_texts(folder: Path) -> None:
    arguments = ["--task", "bert", "--data", "corpus", "--seconds", "0.5", "--no-tune", *SETTINGS]
    assert "texts/s" in ssl_zoo_ends(folder, "bench", *arguments).out


def test_a_task_is_checked(folder: Path) -> None:
    done = ssl_zoo_ends(folder, "check", "bert", "--data", "corpus", *SETTINGS)
    assert re.search(r"^passed +two_processes_are_one: ", done.out, re.MULTILINE)
    assert re.search(r"^\d+ passed, \d+ skipped$", done.out, re.MULTILINE)


def test_two_processes_train_as_one_with_their_own_numbers_of_targets(folder: Path) -> None:
    """Documents are short, so that blocks are padded; targets are means over those of both processes."""
    few = [*training("two")[:-4], "--samples", "320", "--set", "train.log_every=1", "--protocol", "knn"]
    few[few.index("two")] = "one"
    ssl_zoo_ends(folder, *few)
    few[few.index("one")] = "both"
    ssl_zoo_ends(folder, *few, "--devices", "2")
    alone, shared = (
        [json.loads(line)["loss"] for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "both")
    )
    assert len(alone) == 10
    assert shared == pytest.approx(alone, rel=1e-3)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["empty.txt"], "bad has no text, and two are needed, one to train and one to evaluate on;"),
        (["a.png", "b.png"], "bad has no texts (it has 2 .png); texts are files ending in .txt, .md,"),
    ],
)
def test_a_folder_without_texts_is_refused_in_a_line_and_nothing_is_written(
    tmp_path: Path, names: list[str], message: str
) -> None:
    (tmp_path / "bad").mkdir()
    for name in names:
        (tmp_path / "bad" / name).touch()
    code, out, err = Command(tmp_path, "train", "--task", "bert", "--data", "bad", "--out", "run").done()
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith(f"error: data.source: {message}")
    assert not (tmp_path / "run").exists()


def test_two_tasks_on_text_are_compared(folder: Path) -> None:
    arguments = ["--data", "corpus", "--seeds", "1", "--samples", "640", *SETTINGS]
    protocols = ["--protocol", "knn", "--baselines", "raw,random-init,supervised-text"]
    done = ssl_zoo_ends(
        folder, "compare", "--tasks", "bert,simcse", *arguments, *protocols, "--out", "c"
    )
    table = json.loads((folder / "c" / "table.json").read_text())
    baselines = {"bag of words", "random-init", "supervised-text"}
    assert {row["name"] for row in table["rows"]} == {"bert", "simcse", *baselines}
    # The labels are those of passages, and the other tasks train on blocks.
    assert "warning" not in done.err


@pytest.mark.parametrize("data", [[], ["--data", "corpus"]])
def test_tasks_on_text_and_on_images_are_not_compared(folder: Path, data: list[str]) -> None:
    code, out, err = Command(folder, "compare", "--tasks", "bert,simclr", *data, "--out", "no").done()
    assert (code, out) == (2, "")
    assert err == (
        "error: --tasks: tasks that take different kinds of data cannot be compared "
        "(bert: text; simclr: image); choose those of one kind\n"
    )
    assert not (folder / "no").exists()


@pytest.mark.skipif(not RECORDS.is_dir(), reason="the distribution is tested without the records")
def test_the_records_of_the_comparison_are_gone_on_with(tmp_path: Path) -> None:
    """Defaults that have changed are no reason to refuse the command that the page prints."""
    file = Path(__file__).parents[1] / "compare.yaml"
    open_sweep(file, tmp_path, record=RECORDS).write()
    assert (tmp_path / "compare.yaml").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not PAGE.is_file(), reason="the distribution is tested without the documentation")
def test_the_commands_of_the_page_on_text_work(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "corpus", tmp_path / "corpus")
    comparison = Path("plugins", "ssl-zoo-text", "compare.yaml")
    (tmp_path / comparison).parent.mkdir(parents=True)
    shutil.copy(PAGE.parents[1] / comparison, tmp_path / comparison)
    rows = [{"text": d.text, "label": d.label} for d in chapters()[::20]]
    (tmp_path / "fortunes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = re.findall("^    ssl-zoo (.*)$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert len(lines) > 10
    for line in lines:
        arguments = shlex.split(line, comments=True)
        arguments += ["--samples", "64"] if arguments[0] in ("train", "compare") else []
        arguments += ["--seeds", "1"] if arguments[0] == "compare" else []
        ssl_zoo_ends(tmp_path, *arguments)
