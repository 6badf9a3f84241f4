"""Each wrong form on the command line is answered with the right one."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import typer

from ssl_zoo.cli.app import app
from ssl_zoo.config.load import load_config
from ssl_zoo.config.yaml import parse_yaml
from tests.conftest import Call

COMMANDS = [info.name for info in app.registered_commands if info.name is not None]

HINTS = [
    # Names as separate words.
    ("compare --tasks simclr rotation", "takes names separated by commas: --tasks simclr,rotation"),
    ("compare --tasks simclr, rotation byol", "--tasks simclr,rotation,byol"),
    ("compare --tasks 'simclr rotation'", "names are separated by commas: simclr,rotation"),
    ("compare simclr rotation", "Did you mean --tasks simclr,rotation?"),
    ("compare --tasks simclr --baselines pixels random-init", "--baselines pixels,random-init"),
    ("compare --protocol knn linear --tasks simclr", "--protocol knn,linear"),
    ("compare --columns knn linear --tasks simclr", "--columns knn,linear"),
    ("eval run --protocol knn linear", "--protocol knn,linear"),
    ("train --task simclr --observe tensorboard wandb", "--observe tensorboard,wandb"),
    # A task in another place.
    ("train simclr", "Did you mean --task simclr?"),
    ("train simcrl", "Did you mean --task simclr?"),
    ("simclr", "Did you mean ssl-zoo train --task simclr?"),
    ("--task simclr train", "It belongs after the command: ssl-zoo train --task"),
    ("eval simclr", "simclr is a task; train it first: ssl-zoo train --task simclr"),
    ("embed simclr -o x.npz", "simclr is a task"),
    ("export simclr --to x.onnx", "simclr is a task"),
    ("report simclr", "simclr is a task"),
    # Names of options elsewhere.
    ("trian", "Did you mean 'train'?"),
    ("train --task simclr --gpu 0", "Did you mean --device cuda:0?"),
    ("train --task simclr --gpus 2", "Did you mean --devices 2?"),
    ("train --task simclr --workers 4", "Did you mean --set data.workers=4?"),
    ("train --task simclr --num-workers=4", "Did you mean --set data.workers=4?"),
    ("train --task simclr --learning-rate 0.1", "Did you mean --lr 0.1?"),
    ("train --task simclr --temperature 0.1", "Did you mean --set task.temperature=0.1?"),
    ("train --task simclr --task.temperature 0.1", "Did you mean --set task.temperature=0.1?"),
    ("train --task simclr task.temperature=0.1", "Did you mean --set task.temperature=0.1?"),
    # Settings whose form is wrong.
    ("train --task simclr --set task.temperature 0.1", "Did you mean --set task.temperature=0.1?"),
    ("train --task simclr --set task.temperature: 0.1", "Did you mean --set task.temperature=0.1?"),
    ("train --task simclr --set task.temperature = 0.1", "Did you mean --set task.temperature=0.1?"),
    ("train --task simclr --set 'task.temperature: 0.1'", "write --set task.temperature=0.1"),
    ("train --task simclr --set task.temperature=0.1 train.lr=1", "Did you mean --set train.lr=1?"),
    (
        "train --task simclr --set task.temperature=0.1,train.lr=1",
        "give each setting its own --set: --set task.temperature=0.1 --set train.lr=1",
    ),
    ("train --task simclr --set 'data.source=photos #1'", "a # is a comment in YAML"),
    # Lists.
    (
        "train --task simclr --set task.jitter=0.8,0.8,0.8,0.2",
        "write --set 'task.jitter=[0.8, 0.8, 0.8, 0.2]'",
    ),
    (
        "train --task simclr --set task.jitter=[0.8, 0.8, 0.8, 0.2]",
        "Quote a value with spaces: --set 'task.jitter=[0.8, 0.8, 0.8, 0.2]'",
    ),
    ("train --task simclr --set task.crop_scale=0.2", "write --set 'task.crop_scale=[0.2, …]'"),
    # Numbers, truth values, text and nothing.
    ("train --task simclr --lr 0,1", "Did you mean --lr 0.1?"),
    ("train --task simclr --samples 1,000", "Did you mean --samples 1000?"),
    ("train --task simclr --set train.lr=0,1", "write --set train.lr=0.1"),
    ("train --task simclr --set train.samples=1,000", "write --set train.samples=1000"),
    ("train --task simclr --set train.lr=1,000", "write 1000 or 1.000"),
    ("train --task simclr --set data.holdout=10%", "write --set data.holdout=0.1"),
    ("train --task simclr --set train.minutes=1:30", "must be a valid number"),
    ("train --task simclr --set train.tune=ja", "write true or false"),
    ("train --task simclr --set train.lr=none", "write --set train.lr=null"),
    ("train --task simclr --set data.root=None", "is the text 'None'; write null for no value"),
    ("train --task simclr --set data.source=2024", "write --set 'data.source=\"2024\"'"),
    ("train --task simclr --set data.source=no", "put a text such as yes or off in double quotes"),
    # Shipped configurations.
    ("train --config fashion-mnist/simcl", "Did you mean 'fashion-mnist/simclr'"),
    ("config fashion-mnist/simcl", "Did you mean 'fashion-mnist/simclr'"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "right"), HINTS, ids=[line for line, _ in HINTS])
def test_a_wrong_form_is_answered_in_one_line_with_the_right_one(
    call: Call, line: str, right: str
) -> None:
    code, out, err = call(*shlex.split(line))
    assert (code, out) == (2, "")
    (complaint,) = err.splitlines()
    assert complaint.startswith("error: ")
    assert right in complaint


def test_the_newest_run_is_named_where_a_task_is_given_for_a_run(call: Call) -> None:
    Path("runs/simclr-digits-20260101-000000").mkdir(parents=True)
    assert "its newest run here: runs/simclr-digits-20260101-000000" in call("eval", "simclr")[2]


def test_lists_of_names_may_be_repeated(call: Call) -> None:
    wanted = ["--seeds", "1", "--baselines", "pixels", "--dry-run"]
    once = call("compare", "--tasks", "simclr,rotation", *wanted)
    twice = call("compare", "--tasks", "simclr", "--tasks", "rotation", *wanted)
    assert once == twice
    assert "--only rotation-0" in once[1]


def test_an_option_given_twice_is_said(call: Call) -> None:
    given = ["--task", "simclr", "--epochs", "1", "--epochs", "-1", "--set", "a.b=1", "--set", "a.b=2"]
    lines = call("train", *given)[2].splitlines()
    assert lines[:2] == [
        "--epochs is given 2 times; the last one counts: --epochs -1",
        "--set a.b is given 2 times; the last one counts: --set a.b=2",
    ]
    assert len(call("--quiet", "train", *given)[2].splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1E5", 1e5), ("-.5", -0.5), ("1_000", 1000), ("0x10", 16),
        ("010", "010"), ("1:30", "1:30"), ("1e5x", "1e5x"), ("0,1", "0,1"),
        ("True", True), ("off", False), ("~", None), ("", None), ("null", None),
    ],
)  # fmt: skip
def test_a_number_in_set_is_never_another_number(text: str, value: object) -> None:
    read = parse_yaml(text, "")
    assert (read, type(read)) == (value, type(value))


def test_a_number_with_leading_zeros_is_decimal() -> None:
    assert load_config(None, {"task.name": "simclr"}, ["train.batch_size=0100"]).train.batch_size == 100


# ---- help and completion


@pytest.mark.parametrize("command", COMMANDS)
def test_dash_h_is_help(call: Call, command: str) -> None:
    assert call(command, "-h") == call(command, "--help")
    assert call(command, "-h")[0] == 0


def test_help_names_every_command_and_the_options_that_may_stand_anywhere(call: Call) -> None:
    code, out, _ = call("-h")
    assert code == 0
    assert all(f"\n  {command} " in out for command in COMMANDS)
    assert all(option in out for option in ("--debug", "--quiet", "--plugin", "--no-plugin"))


@pytest.mark.parametrize(("shell", "line"), [("bash", "complete "), ("zsh", "#compdef"), ("fish", "")])
def test_completion_is_shown_for_the_shell_that_is_named(call: Call, shell: str, line: str) -> None:
    code, out, err = call("--show-completion", shell)
    assert (code, err) == (0, "")
    assert line in out
    assert f"_SSL_ZOO_COMPLETE=complete_{shell}" in out


def test_completion_is_installed(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typer._completion_shared.Path, "home", lambda: tmp_path)
    code, out, err = call("--install-completion", "bash")
    assert (code, err) == (0, "")
    assert "bash completion installed" in out
    assert "complete_bash" in (tmp_path / ".bash_completions" / "ssl-zoo.sh").read_text()


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("ssl-zoo rep", "report"),
        ("ssl-zoo train --task ro", "rotation"),
        ("ssl-zoo config fo", "folder"),
    ],
)
def test_tab_completes_commands_tasks_and_configurations(
    call: Call, monkeypatch: pytest.MonkeyPatch, line: str, completed: str
) -> None:
    monkeypatch.setenv("_SSL_ZOO_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    assert call()[:2] == (0, f"{completed}\n")


# ---- the configurations that ship


def test_shipped_configurations_are_listed_printed_and_written(call: Call) -> None:
    code, out, err = call("config", "--json")
    assert (code, err) == (0, "")
    listed = {entry["name"]: entry["summary"] for entry in json.loads(out)}
    assert listed["fashion-mnist/rotation"].startswith("Rotation prediction on Fashion-MNIST")
    assert "compare/digits" in call("config")[1]
    code, out, err = call("config", "fashion-mnist/simclr")
    assert (code, err) == (0, "")
    Path("mine.yaml").write_text(out)
    assert call("config", "fashion-mnist/simclr", "-o", "copy.yaml")[:2] == (0, "")
    assert Path("copy.yaml").read_text() == out
    assert call("config", "default", "-o", "copy.yaml")[0] == 2
    assert load_config("mine.yaml") == load_config("fashion-mnist/simclr")


@pytest.mark.parametrize("name", ["default", "default.yaml", "configs/default.yaml"])
def test_a_shipped_configuration_is_taken_by_name_anywhere(call: Call, name: str) -> None:
    code, _, err = call("train", "--config", name, "--batch-size", "5000")
    assert code == 2
    assert "train.batch_size: a batch of 5000 is larger than" in err


def test_a_file_is_taken_before_a_shipped_configuration_of_its_name(call: Call) -> None:
    Path("default").write_text("task: {name: rotation}\n")
    assert load_config("default").task.name == "rotation"


def test_a_shipped_comparison_is_taken_by_name(call: Call) -> None:
    code, out, _ = call("compare", "--config", "compare/digits", "--seeds", "1", "--dry-run")
    assert code == 0
    assert "--only byol-0" in out
