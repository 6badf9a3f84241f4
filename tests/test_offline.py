"""On bundled data, no command opens a connection to the network or looks up a name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import KNN, SMALL, flags

RECORD = """
import json
import socket
import sys
from pathlib import Path

events = []


def record(event, arguments):
    if event in ("socket.connect", "socket.sendto"):
        if arguments[0].family != socket.AF_UNIX:
            events.append([event, repr(arguments[1])])
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"):
        events.append([event, repr(arguments[0])])


sys.addaudithook(record)
_, file, code, *arguments = sys.argv
try:
    exec(code)
finally:
    Path(file).write_text(json.dumps(events))
"""
"""The program of a new interpreter: record network events while it runs code, also while it imports."""

COMMANDS = """
from ssl_zoo.cli import app

for command in arguments:
    sys.argv = ["ssl-zoo", *json.loads(command)]
    try:
        app.main()
    except SystemExit as end:
        if end.code:
            raise
"""
"""Run commands of ssl-zoo, each a list of words in JSON."""


def network_events(folder: Path, code: str, *arguments: str) -> list[list[str]]:
    """Run code in a new interpreter in a folder; return its attempts to use the network."""
    file = folder / "events.json"
    child = [sys.executable, "-c", RECORD, str(file), code, *arguments]
    offline = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "WANDB_MODE")
    environment = {name: value for name, value in os.environ.items() if name not in offline}
    run = subprocess.run(child, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    events: list[list[str]] = json.loads(file.read_text())
    return events


def test_training_evaluation_and_comparison_use_no_network(tmp_path: Path) -> None:
    small = [
        word
        for name, value in {**SMALL, "train.epochs": 0.2}.items()
        for word in ("--set", f"{name}={value}")
    ]
    commands = [
        ["train", *KNN, *flags("simclr", train__epochs=0.2), "--out", "run"],
        ["eval", "run", "--protocol", "knn,linear,health"],
        ["compare", "--tasks", "rotation", "--seeds", "1", *small, *KNN, "--out", "table"],
    ]
    assert network_events(tmp_path, COMMANDS, *map(json.dumps, commands)) == []
    assert (tmp_path / "run" / "results.json").is_file()
    assert (tmp_path / "table" / "table.json").is_file()


@pytest.mark.parametrize(
    "code",
    [
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', 9))",
        "socket.getaddrinfo('localhost', 80)",
    ],
)
def test_a_use_of_the_network_would_be_recorded(tmp_path: Path, code: str) -> None:
    assert network_events(tmp_path, code)
