"""The provenance of a run: versions, command, git revision."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from ssl_zoo.plugins.registry import registry

CORE = "ssl-zoo"
"""The distribution of the core."""


def command_line() -> str:
    """Return the command of this process as a shell takes it, without the folder of the program."""
    program = Path(sys.argv[0]).name
    return shlex.join(["ssl-zoo" if program == "__main__.py" else program, *sys.argv[1:]])


def provenance(task: str | None = None) -> dict[str, Any]:
    """Return the versions, the command and the git revision of this process.

    Args:
        task: the task that is trained, whose distribution's version is among the others, with those of
            what it requires; None for none.
    """
    entry = next((e for e in registry.entry_points() if e.attr and e.name == task), None)
    versions = {p: metadata.version(p) for p in (CORE, "torch", "torchvision", "timm")}
    if entry is not None and entry.distribution != CORE:
        versions |= {entry.distribution: entry.version, **_required_versions(entry.distribution)}
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": command_line(),
        "python": sys.version.split()[0],
        "versions": versions,
        "git": _git_revision(),
    }


def _required_versions(distribution: str) -> dict[str, str]:
    """Return the versions of what a distribution requires, without extras; a file requires nothing."""
    versions: dict[str, str] = {}
    with suppress(metadata.PackageNotFoundError):
        for requirement in metadata.requires(distribution) or []:
            name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
            if "extra ==" not in requirement:
                with suppress(metadata.PackageNotFoundError):
                    versions[name] = metadata.version(name)
    return versions


def _git_revision() -> str | None:
    """Return the revision of the checkout in the working directory, None if it is not one.

    Changed files are not looked for: git would run programs that the checkout's settings name.
    """
    try:
        result = subprocess.run(
            ["git", "rev-parse", "--verify", "--short=12", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
