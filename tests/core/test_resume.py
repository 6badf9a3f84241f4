"""Runs are resumed from every state in which they may have been left, and over another budget."""

from __future__ import annotations

import math
import re
import shutil
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from ssl_zoo.config.yaml import PlainDumper
from ssl_zoo.data import ArraySplit
from ssl_zoo.data.fingerprint import hash_contents, hash_names
from ssl_zoo.errors import Interrupted, UserError
from ssl_zoo.evaluation import evaluate
from ssl_zoo.notices import collect_notices
from ssl_zoo.plugins.hookspecs import hookimpl
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runs.run import Run
from tests.conftest import Call, small_config, train
from tests.core.pictures import photo, write
from tests.robustness.killing import losses

QUICK: dict[str, Any] = {"protocol": (), "with_baselines": False}

ELEVEN = 11 / 179
"""Epochs of eleven steps, as an epoch of the digits is 179 steps of 8 images."""

TINY: dict[str, Any] = {
    "train__epochs": ELEVEN,
    "train__batch_size": 8,
    "train__schedule": "cosine",
    "train__lr": 0.01,
    "train__lr_scaling": "none",
}


class Stop:
    """An observer that stops a run as a signal does, at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    @hookimpl
    def ssl_zoo_step_logged(self, run: Run, step: int) -> None:
        if step == self.step - 1:  # the run ends after the next step
            signal.raise_signal(signal.SIGTERM)


def begin(path: Path, task: str = "rotation", stop: int | None = None, **settings: Any) -> Run:
    """Train a run of eleven steps, or only so many of them."""
    config = small_config(task, **{**TINY, **settings})
    if stop is None:
        return train(config, out=path, **QUICK)
    with registry.observing(Stop(stop)), pytest.raises(Interrupted):
        train(config, out=path, **QUICK)
    return Run.open(path)


def rates(run: Run) -> list[float]:
    return [line["lr"] for line in run.metrics()]


def warmed_up(steps: int) -> list[float]:
    """Return the rates of a warm-up from 1/n of 0.01 in n steps, and the peak after it."""
    first = 0.01 / steps
    return [first + (0.01 - first) * i / steps for i in range(steps + 1)]


def edit(run: Run, section: str, **values: Any) -> None:
    config = yaml.safe_load(run.config_file.read_text())
    config[section] |= values
    run.config_file.write_text(yaml.dump(config, Dumper=PlainDumper))  # a hash may look like a number


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    run = train(small_config("simclr"), out=tmp_path / "run")
    before = losses(run.path), run.results()["scores"]
    train(resume=run.path)
    assert (losses(run.path), run.results()["scores"]) == before


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path: Path) -> None:
    whole = train(small_config("simclr"), out=tmp_path / "whole")
    early = Run.create(tmp_path / "early", small_config("simclr"))
    early.metrics_file.write_text('{"step": 1, "loss": 0.5}\n')
    train(resume=early.path)
    assert losses(early.path) == losses(whole.path)


def test_scores_of_weights_that_move_on_do_not_stay(tmp_path: Path) -> None:
    early = Run.create(tmp_path / "early", small_config("simclr"))
    early.add_scores({"simclr": {"finetune": 1.0}})  # as `eval` does for a run that has not ended
    assert "finetune" not in train(resume=early.path).results()["scores"]["simclr"]


# ---- edited settings


@pytest.fixture(name="finished", scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return begin(tmp_path_factory.mktemp("finished") / "run", train__warmup=0.2)


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Run:
    return Run(shutil.copytree(finished.path, tmp_path / "run"))


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("train", {"weight_decay": 0.1}),
        ("train", {"momentum": 0.5}),
        ("train", {"batch_size": 16}),
        ("train", {"optimizer": "adamw"}),
        ("train", {"ema": 0.9}),
        ("train", {"lr": 0.5, "seed": 3}),
        ("data", {"image_size": 20}),
        ("task", {"stage": -2}),
    ],
)
def test_a_setting_edited_in_a_run_is_refused_with_the_difference_and_the_commands(
    run: Run, section: str, values: dict[str, Any]
) -> None:
    before = run.config().model_dump()[section]
    edit(run, section, **values)
    with pytest.raises(UserError) as caught:
        train(resume=run.path)
    message = str(caught.value)
    for name, value in values.items():
        assert (
            f"{section}.{name}: {before[name]!r} in the checkpoint, {value!r} in config.yaml" in message
        )
    assert "put the old value" in message
    assert f"ssl-zoo train --from {run.path} --config {run.config_file}" in message
    assert "\n" not in message


def test_edited_epochs_are_refused_with_the_command_that_extends_the_run(run: Run) -> None:
    edit(run, "train", epochs=2.0)
    with pytest.raises(UserError) as caught:
        train(resume=run.path)
    (command,) = re.findall(r"ssl-zoo train --resume .*", str(caught.value))
    assert command == f"ssl-zoo train --resume {run.path} --epochs 2"
    assert "--from" not in str(caught.value)
    train(resume=run.path, settings={"train.epochs": 2 * ELEVEN}, **QUICK)
    assert run.results()["steps"] == 22
    train(resume=run.path, **QUICK)


def test_settings_of_the_machine_may_be_edited(run: Run) -> None:
    edit(run, "train", device="cpu", log_every=5, checkpoint_seconds=5, precision="bf16")
    edit(run, "data", workers=1)
    train(resume=run.path, settings={"train.epochs": 2 * ELEVEN}, **QUICK)
    assert [line["step"] for line in run.metrics()] == [*range(1, 12), 15, 20, 22]


def test_an_edited_backbone_or_task_is_refused_by_what_rebuilds_it(run: Run) -> None:
    edit(run, "train", weight_decay=0.1)
    assert evaluate(str(run.path), ["knn"])  # which does not use it
    edit(run, "backbone", name="test_convnext")
    with pytest.raises(UserError, match=r"backbone.name: 'test_resnet' in the checkpoint, 'test_conv"):
        evaluate(str(run.path), ["knn"])


def test_a_checkpoint_of_an_older_version_is_resumed_and_extended(run: Run) -> None:
    whole = Run(shutil.copytree(run.path, run.path.with_name("whole")))
    state = run.checkpoints.load()
    for key in ("settings", "samples", "names", "contents", "test", "budget"):
        del state[key]
    run.checkpoints.save(state)
    edit(run, "train", weight_decay=0.1)  # is not noticed, as before
    train(resume=run.path, **QUICK)
    edit(run, "train", weight_decay=1e-4)
    for folder in (run.path, whole.path):
        train(resume=folder, settings={"train.epochs": 2 * ELEVEN}, **QUICK)
    assert rates(run) == rates(whole)


@pytest.mark.parametrize("path", ["train.lr", "train.optimizer_options.nesterov", "task.stage"])
def test_only_the_length_and_the_machine_can_be_changed_when_resuming(run: Run, path: str) -> None:
    with pytest.raises(UserError, match=f"^{path}: cannot be changed for an existing run; start a new"):
        train(resume=run.path, settings={path: 1})


# ---- changed data


def test_files_added_to_the_folder_of_a_run_are_refused_and_a_moved_folder_is_not(
    tmp_path: Path,
) -> None:
    photos = tmp_path / "photos"
    for i in range(40):
        write(photos / f"{i:02}.png")
    settings = {"data__source": str(photos), "train__batch_size": 8, "train__epochs": 2}
    run = begin(tmp_path / "run", stop=5, **settings)
    moved = photos.rename(tmp_path / "elsewhere")
    edit(run, "data", source=str(moved))
    with registry.observing(Stop(7)), pytest.raises(Interrupted):
        train(resume=run.path, **QUICK)
    first, *_ = sorted(moved.rglob("*.png"))
    first.rename(first.with_name("renamed.png"))
    with pytest.raises(UserError, match=r"trained on 40 samples, and others have taken their place"):
        train(resume=run.path, **QUICK)
    first.with_name("renamed.png").rename(first)
    for i in range(5):
        write(moved / "more" / f"{i}.png")
    with pytest.raises(UserError) as caught:
        train(resume=run.path, **QUICK)
    assert re.search(r"trained on 40 samples, and there are \d+ now, .*--config", str(caught.value))
    shutil.rmtree(moved / "more")
    assert train(resume=run.path, **QUICK).results()["steps"] == 10


def test_other_data_of_the_same_size_without_names_are_refused(run: Run) -> None:
    state = run.checkpoints.load()
    assert (state["samples"], state["names"]) == (1438, None)
    state["settings"]["data.source"] = "mnist"
    run.checkpoints.save(state)
    with pytest.raises(UserError, match=r"data.source: digits: the run was trained on mnist"):
        train(resume=run.path, **QUICK)


def test_a_million_names_are_compared_in_time_proportional_to_their_number() -> None:
    names = [f"/data/some/folder/class{i % 1000}/{i:07}.jpg" for i in range(1_000_000)]
    split = ArraySplit(torch.empty(1, 0).expand(len(names), 0), None, names=names)
    tenth = ArraySplit(torch.empty(1, 0).expand(100_000, 0), None, names=names[:100_000])
    start = time.process_time()
    hash_names(tenth)
    middle = time.process_time()
    first = hash_names(split)
    assert time.process_time() - middle < 30 * (middle - start)
    split._names = [name.replace("/data/some/", "/mnt/") for name in names]
    assert hash_names(split) == first


@pytest.fixture(name="photographs", scope="module")
def trained_on_photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run and the photos that it was trained and is evaluated on."""
    path = tmp_path_factory.mktemp("photographs")
    for split, number in (("train", 16), ("test", 4)):
        for i in range(number):
            write(path / "photos" / split / f"{split}{i:02}.png")
    begin(path / "run", data__source=str(path / "photos"), data__image_size=16, train__epochs=1)
    return path


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("train", "trained on 16 samples, and their contents have changed"),
        ("test", "the samples evaluated on are not those of the run"),
    ],
)
def test_images_replaced_under_the_same_names_are_refused_when_resuming_and_said_by_eval(
    photographs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, split: str, message: str
) -> None:
    run = Run(shutil.copytree(photographs / "run", tmp_path / "run"))
    photos = shutil.copytree(photographs / "photos", tmp_path / "photos")
    edit(run, "data", source=str(photos))
    with registry.observing(Stop(4)), pytest.raises(Interrupted):  # they are moved, but the same
        train(resume=run.path, settings={"train.samples": 5 * 8}, **QUICK)
    for file in (photos / split).iterdir():
        write(file, photo((30, 30), seed=7))
    with pytest.raises(UserError, match=message):
        train(resume=run.path, **QUICK)
    evaluate(str(run.path), ["health"], with_baselines=False)
    assert message in caplog.text
    state = run.checkpoints.load()
    del state["contents"], state["test"]  # as an earlier version wrote it
    run.checkpoints.save(state)
    assert train(resume=run.path, **QUICK).results()["steps"] == 5


def test_the_sizes_of_files_and_the_values_of_samples_without_files_are_compared(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(b"1")
    split = ArraySplit(torch.empty(1, 0).expand(20_000, 0), None, names=[str(file)] * 20_000)
    first = hash_contents(split)
    file.write_bytes(b"22")
    assert hash_contents(split) != first
    values = torch.arange(10_000 * 4, dtype=torch.float32).view(-1, 4)
    before = hash_contents(ArraySplit(values, None))
    assert before == hash_contents(ArraySplit(values.clone(), None))
    assert before != hash_contents(ArraySplit(values + 1, None))
    assert hash_contents(ArraySplit(values, None, names=["hf:x train[0]"] * 10_000)) is None


# ---- another budget


def test_a_longer_budget_stretches_the_rest_of_the_schedule_and_the_rate_is_continuous(
    tmp_path: Path,
) -> None:
    run = begin(tmp_path / "run", stop=6)
    before = rates(run)
    with collect_notices() as notices:
        train(resume=run.path, settings={"train.epochs": 3 * ELEVEN}, **QUICK)
    (notice,) = (n["text"] for n in notices if n["notice"] == "changed-budget")
    assert "budget: 33 steps of 8 images in place of 11 steps of 8 images, at step 6: what is" in notice
    assert rates(run)[:6] == before
    # Progress 6/11 at step 6, and the rest of the cosine over the 27 steps left.
    progress = [6 / 11 + 5 / 11 * i / 27 for i in range(27)]
    expected = [0.005 * (1 + math.cos(math.pi * p)) for p in progress]
    assert rates(run)[6:] == pytest.approx(expected, abs=1e-7)
    assert notice.endswith("the learning rate goes from 0.00429 to 0.00429")
    logged = [line["progress"] for line in run.metrics()]
    assert logged == sorted(logged)
    assert logged[-1] == 1
    assert run.config().train.epochs == 3 * ELEVEN
    (change,) = run.config().provenance["changes"]
    assert re.fullmatch(r"train.epochs: 0.06\d+ → 0.18\d+, at step 6", change)


def test_an_extended_run_that_is_stopped_again_goes_on_to_the_bit(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("whole", "stopped")]
    for path in paths:
        begin(path, "byol", stop=4, train__epochs=0.6 * ELEVEN)
    train(resume=paths[0], settings={"train.epochs": ELEVEN}, **QUICK)
    with registry.observing(Stop(8)), pytest.raises(Interrupted):
        train(resume=paths[1], settings={"train.epochs": ELEVEN}, **QUICK)
    train(resume=paths[1], **QUICK)
    lines = [[{**line, "seconds": 0} for line in Run(path).metrics()] for path in paths]
    assert lines[0] == lines[1]
    states: list[dict[str, Tensor]] = [Run(path).checkpoints.load()["task"] for path in paths]
    assert all(value.equal(states[1][name]) for name, value in states[0].items())


def test_a_finished_run_begins_its_schedule_anew_from_near_zero(run: Run) -> None:
    before = rates(run)
    train(resume=run.path, settings={"train.epochs": 3 * ELEVEN}, **QUICK)
    again = rates(run)[11:]
    assert len(again) == 22
    # A warm-up of 10 of the 22 steps, from a tenth of the rate; then down the cosine to near 0.
    assert again[:11] == pytest.approx(warmed_up(10), rel=1e-4)
    assert max(again) == pytest.approx(0.01, rel=0.02)
    assert again[-1] == pytest.approx(0.005 * (1 + math.cos(math.pi * 11 / 12)), rel=1e-3)
    assert all(abs(b - a) < 0.0025 for a, b in pairwise([before[-1], *again]))
    assert run.results()["steps"] == 33


def test_a_finished_run_without_warm_up_warms_up_when_it_goes_on(tmp_path: Path) -> None:
    run = begin(tmp_path / "run", train__samples=8, train__epochs=None, train__warmup=0.0)
    train(resume=run.path, settings={"train.samples": 8 * 41}, **QUICK)
    assert rates(run)[1:12] == pytest.approx(warmed_up(10), rel=1e-4)


def test_a_few_epochs_added_to_a_finished_run_do_not_begin_at_the_peak_rate(
    call: Call, run: Run
) -> None:
    code, _, err = call("train", "--resume", run.path, "--samples", 8 * 17)
    assert code == 0, err
    assert "begin anew, with a warm-up over 3 steps (or --replan)" in err
    assert rates(run)[11:15] == pytest.approx(warmed_up(3), rel=1e-4)


@pytest.mark.parametrize(("schedule", "last"), [("constant", 0.01), ("step", 0.01 * 0.2**3)])
def test_a_finished_run_whose_rate_did_not_end_near_zero_goes_on_at_it(
    tmp_path: Path, schedule: str, last: float
) -> None:
    run = begin(tmp_path / "run", train__schedule=schedule, train__decay=0.2)
    assert rates(run)[-1] == pytest.approx(last)
    train(resume=run.path, settings={"train.epochs": 1.5 * ELEVEN}, **QUICK)
    assert rates(run)[11:] == pytest.approx([last] * 5)
    train(resume=run.path, settings={"train.epochs": 2 * ELEVEN}, **QUICK)
    assert rates(run)[11:] == pytest.approx([last] * 11)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_finished_run_with_a_floor_goes_on_there_or_begins_anew_if_it_is_near_zero(
    tmp_path: Path, schedule: str
) -> None:
    high, low = (
        begin(tmp_path / f"run{floor}", train__schedule=schedule, train__lr_min=floor)
        for floor in (0.3, 0.01)
    )
    for run in (high, low):
        train(resume=run.path, settings={"train.epochs": 2 * ELEVEN}, **QUICK)
    assert rates(high)[11:] == pytest.approx([0.003] * 11)
    assert max(rates(low)[11:]) > 0.009


def test_replanning_jumps_to_the_schedule_of_a_run_that_was_planned_so(run: Run, tmp_path: Path) -> None:
    planned = begin(tmp_path / "planned", train__epochs=2 * ELEVEN, train__warmup=0.2)
    with collect_notices() as notices:
        train(resume=run.path, settings={"train.epochs": 2 * ELEVEN}, replan=True, **QUICK)
    assert rates(run)[11:] == pytest.approx(rates(planned)[11:])
    (notice,) = (n["text"] for n in notices if n["notice"] == "changed-budget")
    assert re.search(r"jump .* the learning rate goes from 0 to 0.00691$", notice)


def test_replanning_without_another_length_is_said_to_have_no_effect(call: Call, run: Run) -> None:
    before = rates(run)
    code, _, err = call("train", "--resume", run.path, "--replan")
    assert code == 0, err
    assert "--replan has no effect: the length of the run stays 11 steps of 8 images" in err
    assert rates(run) == before


def test_a_budget_can_be_shortened_but_not_below_what_is_done(tmp_path: Path) -> None:
    run = begin(tmp_path / "run", stop=6)
    with pytest.raises(UserError, match=r"^train.samples: .* has done 48 samples \(6 steps\) already"):
        train(resume=run.path, settings={"train.samples": 5 * 8}, **QUICK)
    length = (
        r"has done 0.03352 epochs \(6 steps\) already, and its new length is 0.01 epochs \(2 steps\)"
    )
    with pytest.raises(UserError, match=rf"^train.epochs: the run {length}; choose more$"):
        train(resume=run.path, settings={"train.epochs": 0.01}, **QUICK)
    assert run.config().train.epochs == ELEVEN
    train(resume=run.path, settings={"train.samples": 8 * 8}, **QUICK)
    assert run.results()["steps"] == 8
    assert rates(run)[6:] == pytest.approx(
        [0.005 * (1 + math.cos(math.pi * p)) for p in (6 / 11, 17 / 22)], rel=1e-4
    )


def test_evaluations_due_follow_the_new_length(tmp_path: Path) -> None:
    run = begin(tmp_path / "run", train__knn_points=2)
    train(resume=run.path, settings={"train.epochs": 2 * ELEVEN}, **QUICK)
    assert [line["step"] for line in run.metrics() if "knn" in line] == [6, 11, 17, 22]


def test_a_user_extends_a_run_on_the_command_line(call: Call, run: Run) -> None:
    code, out, err = call(
        "train", "--resume", run.path, "--epochs", "0.123", "--device", "cpu", "--json"
    )
    assert code == 0, err
    assert '"steps": 22' in out
    texts = [notice["text"] for notice in run.results()["notices"]]  # --json does not print them
    assert any(text.startswith("budget: 22 steps of 8 images in place of 11") for text in texts)
    assert run.config().train.epochs == 0.123
    code, out, _ = call("train", "--resume", run.path, "--epochs", "0.123", "--json")
    assert (code, '"steps": 22' in out) == (0, True)
    assert len(run.config().provenance["changes"]) == 1
