"""A wrong setting is reported in one line that names it, with exit code 2, and leaves no files."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from ssl_zoo.cli import app as cli
from ssl_zoo.cli.options import FLAGS
from ssl_zoo.config.load import dump_config, load_config
from ssl_zoo.config.schema import RunConfig
from ssl_zoo.errors import UserError
from ssl_zoo.plugins.registry import registry
from tests.conftest import TASKS, small_config
from tests.robustness.command_line import say

NOWHERE = "/no/such/folder"
NOT_YET = ("--set", f"data.source={NOWHERE}")
"""With this as the last setting, no command gets as far as its work."""
COMMAND: Any = typer.main.get_command(cli.app)
CONFIGS = Path(__file__).parents[2] / "configs"

BEGINNINGS: dict[str, list[str]] = {
    "train": ["--task", "simclr"],
    "bench": ["--task", "simclr"],
    "views": ["--task", "simclr", "-o", "views.png"],
    "compare": ["--tasks", "simclr"],
    "eval": [NOWHERE],
    "export": [NOWHERE, "--to", "file.onnx"],
    "embed": [NOWHERE, "-o", "file.npz"],
    "report": [NOWHERE],
    "check": ["simclr", "--data", NOWHERE],
    "new-task": ["Wrong Name"],
    "tasks": ["no-such-task"],
    "plugins": ["too-many"],
}
"""Arguments with which each command soon ends with an error."""
ENDINGS = dict.fromkeys(("train", "bench", "views", "compare"), NOT_YET)

ODD = [
    "", "0", "-1", "1.5", "nan", "inf", "-inf", "1e999", "9" * 400, "9" * 5000, "0x", "1_000", "1:30",
    "a\nb", "\x1b[31m", "\r", "\u2028", "\ufeff", "\udcff", "🙈", "%s", "{0}", "~", "null", "yes", "=",
    "[", "{", "[" * 5000, "{a: " * 2000, "a" * 5000, "&a [*a]", "!!python/object/apply:os.system [x]",
    "!!binary x", "!!float x", "<<: 1", "? a", "!", "*a", "@", "`", "'", '"', "| \n a", "2024-01-01",
    "/dev/null", "/", "..", "~nobody/x", "timm:", "hf:", "-", "--", ",", "a,,b", "a=b", "a: b: c",
]  # fmt: skip
TEXT = st.sampled_from(ODD) | st.text(st.characters(), max_size=12)


def options(command: str) -> Iterator[str]:
    """Yield the options of a command that take a value."""
    for option in COMMAND.commands[command].params:
        if option.param_type_name == "option" and not option.is_flag:
            yield max(option.opts, key=len)


def complain(folder: Path, *arguments: str) -> str:
    """Return the error of wrong arguments, and check that they had no other effect."""
    result = say(arguments, folder)
    assert result.code == 2, result
    assert list(folder.iterdir()) == []
    return result.complaint


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Return an empty folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


# ---- the command line


@given(
    command=st.sampled_from(sorted(BEGINNINGS)),
    numbers=st.lists(st.tuples(st.integers(0, 50), TEXT), max_size=3),
    rest=st.lists(TEXT, max_size=2),
)
def test_whatever_options_and_values_are_given(
    here: Path, tried: Counter[str], command: str, numbers: list[tuple[int, str]], rest: list[str]
) -> None:
    known = [*options(command), "--plugin", "--no-plugin"]
    given = [known[number % len(known)] + "=" + value for number, value in numbers]
    complain(here, command, *BEGINNINGS[command], *given, *rest, *ENDINGS.get(command, ()))
    tried["command lines"] += 1


@pytest.mark.slow
@pytest.mark.parametrize("command", sorted(BEGINNINGS))
def test_every_option_of_every_command_with_every_odd_value(
    here: Path, tried: Counter[str], command: str
) -> None:
    for option in options(command):
        for value in ODD:
            complain(here, command, *BEGINNINGS[command], option, value, *ENDINGS.get(command, ()))
            tried["command lines"] += 1


PATHS = [
    NOWHERE,
    "/",
    "/dev/null",
    "/dev/null/x",
    "a" * 5000,
    "\udcff",
    "\x1b[2J",
    "",
    ".",
    __file__,
]


@pytest.mark.parametrize(
    "command",
    [
        "train --resume PATH",
        f"train --config PATH --set data.source={NOWHERE} --task simclr",
        f"bench --config PATH --set data.source={NOWHERE} --task simclr",
        f"compare --config PATH --set data.source={NOWHERE}",
        "compare PATH",
        "compare PATH other",
        "eval PATH",
        "report PATH",
        "export PATH --to file.safetensors",
        "embed PATH -o file.npz",
        "views --run PATH -o file.png",
        "--plugin PATH tasks",
    ],
)
def test_every_reader_of_a_path_names_it(here: Path, tried: Counter[str], command: str) -> None:
    for path in PATHS:
        message = complain(here, *(path if word == "PATH" else word for word in command.split()))
        shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in path)
        assert shown in message or path == "/dev/null", message  # which is an empty file of settings
        tried["paths"] += 1


# ---- every field

WRONG: list[Any] = [{"a": 1}, [[1]], [{}], "x y", "", None, True, -1e18, 1e18, 10**30, 0.3, "9" * 5000]


def fields() -> Iterator[tuple[str, str]]:
    """Yield each setting as a task and a dotted path."""
    for section in ("data", "backbone", "train"):
        model = RunConfig.model_fields[section].annotation
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        yield from (("simclr", f"{section}.{name}") for name in model.model_fields)
    for task in TASKS:
        yield from ((task, f"task.{name}") for name in registry.load_task(task).Options.model_fields)


@pytest.mark.parametrize(("task", "path"), list(fields()))
def test_a_wrong_value_is_called_by_the_path_of_its_field(
    tmp_path: Path, tried: Counter[str], task: str, path: str
) -> None:
    file, (section, name) = tmp_path / "given.yaml", path.split(".")
    refused = 0
    for value in WRONG:
        file.write_text(yaml.safe_dump({"task": {"name": task}, section: {"name": task, name: value}}
                                       if section == "task" else {section: {name: value}}))  # fmt: skip
        text = f"{path}={yaml.safe_dump(value, default_flow_style=True, width=math.inf).splitlines()[0]}"
        origins = {
            f"--config {file}: ": (file, {"task.name": task}, ()),
            f"--set {text}"[:60]: (None, {"task.name": task}, [text]),
            "--its-flag: ": (None, {"task.name": task, path: value}, ()),
        }
        for origin, (given_file, overrides, sets) in origins.items():
            try:
                load_config(given_file, overrides, sets, flags={path: "--its-flag"})
            except UserError as error:
                message = str(error)
                assert message.startswith(origin), message
                assert re.search(rf": {path}(\.[\w.]+)?: |: {section}: .*\b{name}\b", message), message
                assert len(message) < 600
                refused += 1
            tried["settings"] += 1
    assert refused


@pytest.mark.parametrize(("parameter", "path"), list(FLAGS.items()))
def test_a_wrong_flag_is_called_by_its_name(here: Path, parameter: str, path: str) -> None:
    flag = f"--{parameter.replace('_', '-')}"
    if flag in options("train") and path not in ("data.source", "backbone.name"):
        message = complain(here, "train", "--task", "simclr", f"{flag}=-3 x", *NOT_YET)
        assert flag in message or path in message, message


# ---- files


def mutated(original: bytes, draw: st.DrawFn) -> bytes:
    """Return a damaged copy of a file of settings."""
    content = bytearray(original)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        length = draw(st.integers(0, 20))
        lines = bytes(content).splitlines(keepends=True) or [b""]
        line = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "drop", "double", "swap", "value"]))
        if kind == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del content[at : at + length]
        elif kind == "insert":
            content[at:at] = draw(st.binary(max_size=4) | st.sampled_from(FRAGMENTS))
        else:
            odd = draw(TEXT).encode("utf-8", "surrogateescape" if kind == "value" else "ignore")
            key = lines[line].partition(b":")[0]
            new_lines = {
                "drop": [],
                "double": [lines[line]] * 2,
                "value": [key + b": " + odd + b"\n"],
            }
            lines[line : line + 1] = new_lines.get(kind, lines[line : line + 2][::-1])
            content = bytearray(b"".join(lines))
    return bytes(content)


FRAGMENTS = [
    b"\t", b"\0", b"\r", b"\xef\xbb\xbf", b"\xff", b": ", b"- ", b"&a ", b"*a", b"!!int ", b"\n---\n",
    b"{", b"[", b"'", b'"', b"|", b"%", b"<<: ", b"? ", b"#", b"\xe2\x80\xa8", b"  ",
]  # fmt: skip
COMPARED = [p for name in ("advise", "compare") for p in sorted((CONFIGS / name).glob("*.yaml"))]
RUNS = [p.read_bytes() for p in sorted(set(CONFIGS.rglob("*.yaml")) - set(COMPARED))]
COMPARISONS = [p.read_bytes() for p in COMPARED]
MADE = dump_config(small_config("moco")).encode()


@st.composite
def broken(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """Draw one of the files, and damage it."""
    return mutated(draw(st.sampled_from(originals)), draw)


def named(message: str, file: Path) -> bool:
    """Return whether an error names the file, or a setting that is well-formed in it."""
    return str(file) in message or bool(re.search(r"\b(data|backbone|train)\.\w+|--\w+", message))


@given(content=broken([*RUNS, MADE]))
def test_a_file_of_settings_that_was_tampered_with(
    here: Path, tried: Counter[str], content: bytes
) -> None:
    file = here.parent / "run.yaml"
    file.write_bytes(content)
    assert named(complain(here, "train", "--config", str(file), *NOT_YET), file)
    tried["settings files"] += 1


@given(content=broken(COMPARISONS))
def test_a_comparisons_file_that_was_tampered_with(
    here: Path, tried: Counter[str], content: bytes
) -> None:
    file = here.parent / "compare.yaml"
    file.write_bytes(content)
    assert named(complain(here, "compare", "--config", str(file), *NOT_YET), file)
    tried["settings files"] += 1


HUGE = {
    "brackets": b"[" * 10_000_000,
    "deep": b"a: {" * 8_000,
    "references": b"".join(b"a%d: &a%d [%s]\n" % (i, i, b"*a%d, " % (i - 1) * 9) for i in range(1, 30)),
    "a long line": b"train: {lr: " + b"1" * 200_000 + b"}",
    "a long name": b"train: {" + b"l" * 200_000 + b": 1}",
    "many names": b"train:\n" + b"".join(b"  a%d: 1\n" % i for i in range(8_000)),
    "many sections": b"".join(b"a%d: 1\n" % i for i in range(8_000)),
    "UTF-16": MADE.decode().encode("utf-16"),
    "sexagesimal": b"train: {lr: 1" + b":59" * 20_000 + b"}",
    "endless": b"",
}


@pytest.mark.parametrize("kind", HUGE)
def test_no_file_takes_long_to_refuse(here: Path, tried: Counter[str], kind: str) -> None:
    file = here.parent / "huge.yaml" if HUGE[kind] else Path("/dev/zero")
    if HUGE[kind]:
        file.write_bytes(HUGE[kind])
    start = time.process_time()
    for command in (["train", "--task", "simclr"], ["compare"]):
        message = complain(here, *command, "--config", str(file), *NOT_YET)
        assert str(file) in message
        assert len(message) < 1000
        tried["settings files"] += 1
    assert time.process_time() - start < 15


@pytest.mark.parametrize(
    "change", [lambda text: text.replace("\n", "\r\n"), lambda text: "\ufeff" + text]
)
def test_what_editors_do_to_a_file_is_harmless(tmp_path: Path, change: Any) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(change(MADE.decode()), encoding="utf-8", newline="")
    assert load_config(file) == small_config("moco")
