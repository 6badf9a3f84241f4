"""All hooks that a plugin module can implement.

A plugin module is named by an entry point ``name = "package.module"`` in the group ``ssl_zoo``. It
marks its implementations with `hookimpl`, and may leave out parameters that it does not use:

    from ssl_zoo import hookimpl

    @hookimpl
    def ssl_zoo_step_logged(run, step, metrics):
        print(run.path, step, metrics["loss"])

The hooks ``ssl_zoo_register_…`` and `ssl_zoo_table_columns` register objects by name; it is an error if
two plugins register the same name. The other hooks observe a run. They are called in its first process
only. If one raises, this is reported once and the run continues; only a `UserError` from
`ssl_zoo_run_started` refuses the run.

A module observes every run, or with ``on_request = True`` only the runs that request it by the name of
its entry point: ``ssl-zoo train --observe NAME``. In Python, any object with marked methods observes the
runs inside ``with registry.observing(object):``, as the progress bar does.
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
    from ssl_zoo.data import DataSet, Source
    from ssl_zoo.evaluation import Protocol
    from ssl_zoo.runs.run import Run
    from ssl_zoo.spec import Spec
    from ssl_zoo.task import Encoder, Task
    from ssl_zoo.tools.export import Exporter
    from ssl_zoo.training import RunSummary

PROJECT = "ssl_zoo"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def ssl_zoo_register_tasks() -> Mapping[str, type[Task]]:
    """Register tasks, for a plugin that creates its classes at run time.

    The usual way is an entry point for each class; only such tasks are listed by `ssl-zoo tasks`.

    Returns:
        Classes by name, each under the class's own `name`.
    """


@hookspec
def ssl_zoo_register_sources() -> Mapping[str, Source | Callable[[DataConfig, torch.device], DataSet]]:
    """Register data sources.

    Returns:
        By the name that ``data.source`` selects, as ``NAME`` or ``NAME:REST``, a `ssl_zoo.data.Source`;
        or a function that takes the ``data`` section and the training device, and returns the data.
    """


@hookspec
def ssl_zoo_register_specs() -> Mapping[str, type[Spec]]:
    """Register the descriptions of further modalities.

    Returns:
        By the modality, the class of its spec, which reads the header of a saved backbone.
    """


@hookspec
def ssl_zoo_register_exporters() -> Mapping[str, Exporter]:
    """Register formats of `ssl-zoo export`.

    Returns:
        By a name, a `ssl_zoo.tools.export.Exporter`.
    """


@hookspec
def ssl_zoo_register_backbones() -> Mapping[str, Callable[[BackboneConfig, Spec], Encoder]]:
    """Register backbones.

    Returns:
        By the name that ``backbone.name`` selects, a function that takes the ``backbone`` section and
        the data's spec, and returns a new encoder. It must draw the weights from torch's global
        generator; those of ``backbone.weights`` are loaded into it afterwards.
    """


@hookspec
def ssl_zoo_register_protocols() -> Mapping[str, Protocol]:
    """Register evaluation protocols.

    Returns:
        By the name that ``--protocol`` selects, a `ssl_zoo.evaluation.Protocol`: a function that
        computes scores, and a description of each score.
    """


@hookspec
def ssl_zoo_table_columns() -> Mapping[str, Column]:
    """Register columns of the comparison table.

    Returns:
        By the name that ``--columns`` selects, a `ssl_zoo.comparison.Column`: a title, a note on how
        the figure is computed, and a function that computes it for a run, or returns None.
    """


@hookspec
def ssl_zoo_run_started(run: Run, step: int, summary: RunSummary) -> None:
    """Observe that a run begins or is resumed.

    Args:
        run: the run directory; ``run.config()`` is its configuration.
        step: the number of optimiser steps done, more than 0 for a resumed run. Lines that were logged
            after this step are removed, and will be logged again.
        summary: the task, the data, the budget and the learning rate.

    Raises:
        UserError: something that the observer needs is missing; the run does not begin.
    """


@hookspec
def ssl_zoo_step_logged(run: Run, step: int, metrics: Mapping[str, float]) -> None:
    """Observe that a line was written to the run's metrics.

    Args:
        run: the run directory.
        step: the number of optimiser steps done.
        metrics: the values of the line by name; "progress" is the share of the budget that is done.
    """


@hookspec
def ssl_zoo_epoch_ended(run: Run, epoch: int) -> None:
    """Observe that a pass over the train split is done.

    Args:
        run: the run directory.
        epoch: the number of passes done.
    """


@hookspec
def ssl_zoo_checkpoint_saved(run: Run, step: int, path: Path) -> None:
    """Observe that a checkpoint was written completely.

    Args:
        run: the run directory.
        step: the number of optimiser steps done.
        path: the checkpoint file.
    """


@hookspec
def ssl_zoo_run_ended(run: Run, results: Mapping[str, Any]) -> None:
    """Observe that a run has ended and was evaluated.

    Args:
        run: the run directory.
        results: the content of its ``results.json``.
    """


@hookspec
def ssl_zoo_run_stopped(run: Run, error: Exception) -> None:
    """Observe that a run stopped before its end, because of a signal or an error.

    Args:
        run: the run directory; it is removed after this if no step was made.
        error: the error; `ssl_zoo.errors.Interrupted` for a signal.
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
