"""The hooks that a plugin module can implement, all of them.

A plugin module is named by an entry point ``name = "package.module"`` in the group ``ssl_zoo``. It
marks its implementations with `hookimpl`, and may leave out parameters that it does not use:

    from ssl_zoo import hookimpl

    @hookimpl
    def ssl_zoo_step_logged(run, step, metrics):
        print(run.path, step, metrics["loss"])

Those named ``ssl_zoo_register_…``, and `ssl_zoo_table_columns`, give something by name; two plugins
that give one name are an error. The others observe a run, in its first process alone; one that
raises is reported once and stops nothing, but for a `UserError` from `ssl_zoo_run_started`, which
refuses the run. A module observes every run, or with ``on_request = True`` only those that ask for it
by its entry point's name: ``ssl-zoo train --observe NAME``.
"""

# mypy: disable-error-code="empty-body"
# A specification is a signature and a docstring, and never runs.

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from ssl_zoo.comparison import Cell, Column, Sweep
    from ssl_zoo.config.schema import BackboneConfig, DataConfig
    from ssl_zoo.data import DataSet
    from ssl_zoo.evaluation import Protocol
    from ssl_zoo.runs.run import Run
    from ssl_zoo.spec import Spec
    from ssl_zoo.task import Encoder, Task

PROJECT = "ssl_zoo"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def ssl_zoo_register_tasks() -> Mapping[str, type[Task]]:
    """Give further tasks, for a plugin that makes its classes while it runs.

    An entry point for each class is the usual way, and the only one that `ssl-zoo tasks` lists.

    Returns:
        Classes by name, each the same as the class's `name`.
    """


@hookspec
def ssl_zoo_register_sources() -> Mapping[str, Callable[[DataConfig, torch.device], DataSet]]:
    """Give data sources.

    Returns:
        By the name that ``data.source`` selects, a function from the ``data`` section and the
        training device to the data.
    """


@hookspec
def ssl_zoo_register_backbones() -> Mapping[str, Callable[[BackboneConfig, Spec], Encoder]]:
    """Give backbones.

    Returns:
        By the name that ``backbone.name`` selects, a function from the ``backbone`` section and the
        data's spec to a new encoder. Its weights are to follow from torch's global generator.
    """


@hookspec
def ssl_zoo_register_protocols() -> Mapping[str, Protocol]:
    """Give evaluation protocols.

    Returns:
        By the name that ``--protocol`` selects, a `ssl_zoo.evaluation.Protocol`: a function from
        what is evaluated to scores, and what these are.
    """


@hookspec
def ssl_zoo_table_columns() -> Mapping[str, Column]:
    """Give columns of the comparison table.

    Returns:
        By the name that ``--columns`` selects, a `ssl_zoo.comparison.Column`: a title, how the figure
        is made, and a function from what is known of a run to the figure, None to leave it empty.
    """


@hookspec
def ssl_zoo_run_started(run: Run, step: int) -> None:
    """A run begins or goes on.

    Args:
        run: its directory; ``run.config()`` is what it was started with.
        step: the optimiser steps that are done, more than 0 where it goes on. What was logged after
            them is forgotten, and will be logged again.

    Raises:
        UserError: it must not begin, because what the observer needs is missing.
    """


@hookspec
def ssl_zoo_step_logged(run: Run, step: int, metrics: Mapping[str, float]) -> None:
    """A line was written to the run's metrics.

    Args:
        run: the run's directory.
        step: the optimiser steps that are done.
        metrics: what the line says.
    """


@hookspec
def ssl_zoo_epoch_ended(run: Run, epoch: int) -> None:
    """A pass over the train split is done.

    Args:
        run: the run's directory.
        epoch: the number of passes that are done.
    """


@hookspec
def ssl_zoo_checkpoint_saved(run: Run, step: int, path: Path) -> None:
    """A checkpoint was written, and can be read.

    Args:
        run: the run's directory.
        step: the optimiser steps that it holds.
        path: the file.
    """


@hookspec
def ssl_zoo_run_ended(run: Run, results: Mapping[str, Any]) -> None:
    """A run has ended and was evaluated.

    Args:
        run: the run's directory.
        results: what its ``results.json`` holds.
    """


@hookspec
def ssl_zoo_run_stopped(run: Run, error: Exception) -> None:
    """A run has stopped before its end: it was interrupted, or something failed.

    Args:
        run: the run's directory; one that has made no step is removed after this.
        error: why; `ssl_zoo.errors.Interrupted` if a signal asked for it.
    """


@hookspec
def ssl_zoo_comparison_started(sweep: Sweep) -> None:
    """Observe that a comparison starts or resumes, in the process that works through its cells.

    Args:
        sweep: the comparison; ``sweep.cells`` are all its cells, ``sweep.todo()`` those not done.
    """


@hookspec
def ssl_zoo_cell_progressed(sweep: Sweep, cell: Cell) -> None:
    """Observe the progress of a cell: when work on it begins, and as its run logs steps.

    Args:
        sweep: the comparison.
        cell: the cell; ``sweep.progress[cell.name]`` is the share in [0, 1] that is done.
    """


@hookspec
def ssl_zoo_cell_ended(sweep: Sweep, cell: Cell) -> None:
    """Observe that a cell is done, or has failed.

    Args:
        sweep: the comparison.
        cell: the cell; ``cell.results()`` has its scores, ``cell.failure()`` why it failed.
    """
