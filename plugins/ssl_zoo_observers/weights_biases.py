"""The observer that reports a run to Weights & Biases: ``ssl-zoo train --observe wandb``.

It sends the logged lines under their own names, the scores and other numbers of the results as the
summary, and the configuration without its provenance. It sends nothing else: no code, no git revision or
patch, no command line, no console output, no list of packages, no host name, no description of the
machine and no measurements of it. (W&B's client adds the time, its own version, Python's version, the
platform's name, and which of the libraries that it knows are imported.)

W&B's environment variables apply: ``WANDB_PROJECT`` (default ssl-zoo), ``WANDB_ENTITY``,
``WANDB_API_KEY``. ``WANDB_MODE=offline`` needs neither a login nor a network: everything stays in the
folder ``wandb`` of the run until ``wandb sync RUN/wandb/latest-run``.

A resumed run continues the same run in W&B, and sends only the steps that are missing there. Offline it
begins a new folder with the whole run in it, so the latest folder is the one to sync.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_zoo import UserError, hookimpl
from ssl_zoo.text import error_line
from ssl_zoo_observers.scores import named_scores, run_identifier

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
"""Settings that stop W&B from printing the metrics again at the end of a run."""

_runs: dict[Path, wandb.Run] = {}
"""The active W&B runs of this process, by run directory."""


@hookimpl
def ssl_zoo_run_started(run: Run) -> None:
    """Begin or resume the run in W&B, and send the lines logged so far.

    Raises:
        UserError: W&B's client is not installed or not logged in, or W&B cannot be reached.
    """
    _runs[run.path] = wandb_run = _begin(run)
    for line in run.metrics():
        _log(wandb_run, line)


@hookimpl
def ssl_zoo_step_logged(run: Run, metrics: Mapping[str, float]) -> None:
    """Send a line."""
    if wandb_run := _runs.get(run.path):
        _log(wandb_run, metrics)


@hookimpl
def ssl_zoo_run_ended(run: Run, results: Mapping[str, Any]) -> None:
    """Send the results, and wait until W&B has received everything."""
    if wandb_run := _runs.pop(run.path, None):
        numbers = {name: value for name, value in results.items() if isinstance(value, int | float)}
        wandb_run.summary.update(numbers | named_scores(results))
        wandb_run.finish()


@hookimpl
def ssl_zoo_run_stopped(run: Run) -> None:
    """Mark the run as failed in W&B; it may be resumed later."""
    if wandb_run := _runs.pop(run.path, None):
        wandb_run.finish(exit_code=1)


def _begin(run: Run) -> wandb.Run:
    try:
        import wandb
    except ImportError as error:
        raise UserError("--observe wandb needs the extra: pip install 'ssl-zoo[wandb]'") from error
    try:
        online = wandb.setup().settings.mode not in ("offline", "dryrun", "disabled")
        # In a terminal `init` would prompt and wait. `login` fails while the user's own run is open.
        if online and wandb.run is None and not wandb.login(prompt=False, verify=False):
            raise UserError(
                "--observe wandb: not logged in to Weights & Biases; run `wandb login`, "
                "or keep the run on this machine with WANDB_MODE=offline"
            )
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", "ssl-zoo"),
            id=run_identifier(run),
            name=run.path.resolve().name,
            dir=run.path,
            config=run.config().model_dump(mode="json", exclude={"provenance"}),
            resume="allow",
            reinit="create_new",  # does not finish a run of the user's own
            settings=wandb.Settings(**_PRIVATE, **_BRIEF),
        )
    except wandb.Error as error:
        raise UserError(
            f"--observe wandb: {error_line(error)}; "
            "WANDB_MODE=offline keeps the run on this machine until `wandb sync`"
        ) from error


def _log(wandb_run: wandb.Run, line: Mapping[str, float]) -> None:
    if line["step"] >= wandb_run.starting_step:  # W&B warns of every step that it has already
        values = {name: value for name, value in line.items() if name != "step"}
        wandb_run.log(values, step=int(line["step"]))
