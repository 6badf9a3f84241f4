"""Runs that a launcher or a scheduler starts again, and that go on by themselves."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from ssl_zoo.errors import UserError
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runs.run import Run

RUN_FOLDER = "SSL_ZOO_RUN"
"""The variable with the folder of a run, for processes that a launcher or a scheduler starts again."""


def restarted_folder(out: Path | None) -> Path | None:
    """Return the folder of a run that this process is to go on with if it has begun; None for none.

    Args:
        out: the folder that the user chose, if any.

    Raises:
        UserError: torchrun is to restart the run, but processes that it restarts would not find it.
    """
    if folder := os.environ.get(RUN_FOLDER):
        return Path(folder)
    if os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") == "0":
        return None
    if out is None:
        raise UserError("torchrun --max-restarts requires --out, where restarted processes find the run")
    return out if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0" else None


def has_begun(folder: Path) -> bool:
    """Return whether a run in this folder has begun, so that it can be resumed."""
    return Run(folder).config_file.is_file()


def resume_command(folder: Path, devices: int) -> str:
    """Return the command that resumes a run with the current plugins, in `devices` processes."""
    several = ["--devices", str(devices)] if devices > 1 else []
    return shlex.join(["ssl-zoo", *registry.arguments(), "train", "--resume", str(folder), *several])
