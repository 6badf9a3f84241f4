"""The observer that reports a run to Weights & Biases: ``ssl-zoo train --observe wandb``.

It sends the lines that are logged, by the line's own names, the scores and the other figures of the
results as the summary, and the configuration but for its provenance. It sends nothing else: no code,
no git revision or patch, no command line, no console output, no list of packages, no host name, no
description of the machine, none of W&B's measurements of it. (W&B's client adds the time, its own
version, Python's, the platform's name, and which of the libraries that it knows are imported.)

W&B's environment variables hold: ``WANDB_PROJECT`` (without it, the project is ssl-zoo),
``WANDB_ENTITY``, ``WANDB_API_KEY``. With ``WANDB_MODE=offline`` neither a login nor a network is
needed: all stays in the folder ``wandb`` of the run, until ``wandb sync RUN/wandb/latest-run``.

A run that goes on keeps its place in W&B, which takes only the steps that it has not got yet; offline,
it begins a folder of its own with the whole run in it, so that the latest is the one to send.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_zoo import UserError, hookimpl
from ssl_zoo.text import error_line
from ssl_zoo_observers.scores import named_scores

if TYPE_CHECKING:
    import wandb

    from ssl_zoo.runs.run import Run

on_request = True

_PRIVATE: dict[str, Any] = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "host": "",
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}
_BRIEF = {"max_end_of_run_history_metrics": 0, "max_end_of_run_summary_metrics": 0}
"""What is printed at the end of a run: it has been printed already."""

_runs: dict[Path, wandb.Run] = {}
"""By their directories, the runs that have begun here and not ended."""


@hookimpl
def ssl_zoo_run_started(run: Run) -> None:
    """Begin, or go on, in W&B.

    Raises:
        UserError: W&B's client is not installed, nobody is logged in, or W&B cannot be reached.
    """
    _runs[run.path] = its = _begin(run)
    for line in run.metrics():
        _log(its, line)


@hookimpl
def ssl_zoo_step_logged(run: Run, metrics: Mapping[str, float]) -> None:
    """Send a line."""
    if its := _runs.get(run.path):
        _log(its, metrics)


@hookimpl
def ssl_zoo_run_ended(run: Run, results: Mapping[str, Any]) -> None:
    """Send the results, and wait until W&B has everything."""
    if its := _runs.pop(run.path, None):
        figures = {name: value for name, value in results.items() if isinstance(value, int | float)}
        its.summary.update(figures | named_scores(results))
        its.finish()


@hookimpl
def ssl_zoo_run_stopped(run: Run) -> None:
    """Say that it has not come to its end; it may go on later."""
    if its := _runs.pop(run.path, None):
        its.finish(exit_code=1)


def _begin(run: Run) -> wandb.Run:
    try:
        import wandb
    except ImportError as error:
        raise UserError("--observe wandb needs the extra: pip install 'ssl-zoo[wandb]'") from error
    try:
        online = wandb.setup().settings.mode not in ("offline", "dryrun", "disabled")
        # In a terminal `init` would ask, and wait; and `login` refuses beside a run of the user's own.
        if online and wandb.run is None and not wandb.login(prompt=False, verify=False):
            raise UserError(
                "--observe wandb: nobody is logged in to Weights & Biases: wandb login, "
                "or keep the run on this machine with WANDB_MODE=offline"
            )
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", "ssl-zoo"),
            id=_identifier(run),
            name=run.path.resolve().name,
            dir=run.path,
            config=run.config().model_dump(mode="json", exclude={"provenance"}),
            resume="allow",
            reinit="create_new",  # leaves a run of the user's own alone
            settings=wandb.Settings(**_PRIVATE, **_BRIEF),
        )
    except wandb.Error as error:
        raise UserError(
            f"--observe wandb: {error_line(error)}; "
            "WANDB_MODE=offline keeps the run on this machine until `wandb sync`"
        ) from error


def _identifier(run: Run) -> str:
    """The same whenever the run goes on, even if the folder that it is in has been moved."""
    made = run.path.resolve().name.encode() + run.config_file.read_bytes()  # with when and how
    return hashlib.sha256(made).hexdigest()[:16]


def _log(its: wandb.Run, line: Mapping[str, float]) -> None:
    # Of what W&B has already, it would complain line by line.
    if line["step"] >= its.starting_step:
        its.log({name: value for name, value in line.items() if name != "step"}, step=int(line["step"]))
