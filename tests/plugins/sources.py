"""Source code of plugins, and what the registry reports about them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from ssl_zoo.errors import UserError
from ssl_zoo.plugins.registry import registry
from tests.conftest import OTHERS

# A task's entry point is a class, any other a module.
SHIPPED = sorted(
    entry.name
    for entry in distribution("ssl-zoo").entry_points
    if entry.group == "ssl_zoo" and ":" in entry.value
)

TASK = '''
from ssl_zoo import Task

raise_at_import = None

class Mine(Task):
    """Guess the colour.

    At length.
    """
    name = "mine"
    paper = "Me 2030"
    def views(self, batch, rng): return (batch,)
    def loss(self, views): ...
'''
BROKEN = "import ssl_zoo\n\nimport no_such_module\n"
OBSERVER = """
from ssl_zoo import hookimpl

seen = []

@hookimpl
def ssl_zoo_step_logged(step, metrics):
    seen.append((step, metrics))
"""

Install = Callable[..., Path]
NO_OTHERS = {"SSL_ZOO_DISABLE_PLUGINS": ",".join(OTHERS)}


def load_error(name: str) -> str:
    with pytest.raises(UserError) as caught:
        registry.load_task(name)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def faults(check: bool = False) -> dict[str, str]:
    return {p.name: p.error for p in registry.plugins(check) if p.error is not None}


def python(script: str, *folders: Path, **environment: str) -> Any:
    """Run a script in a new process, and return the JSON that it prints."""
    path = os.pathsep.join(map(str, folders))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": path, **NO_OTHERS, **environment}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def observing(hook: str, body: str, parameters: str = "", mark: str = "@hookimpl") -> str:
    return f"from ssl_zoo import hookimpl\n\n{mark}\ndef {hook}({parameters}):\n    {body}\n"
