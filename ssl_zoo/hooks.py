"""The hooks that a plugin module can implement, all of them.

A plugin module is named by an entry point ``name = "package.module"`` in the group ``ssl_zoo``; it
marks its implementations with `hookimpl` and may leave out parameters that it does not use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from ssl_zoo.config import BackboneConfig, DataConfig
    from ssl_zoo.spec import Spec
    from ssl_zoo.task import Encoder, Task

PROJECT = "ssl_zoo"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def ssl_zoo_register_tasks() -> Mapping[str, type[Task]]:  # type: ignore[empty-body]
    """Give further tasks by name; an entry point for each class is the usual way."""


@hookspec
def ssl_zoo_register_sources() -> Mapping[  # type: ignore[empty-body]
    str, Callable[[DataConfig, torch.device], Any]
]:
    """Give data sources by name: a function of the ``data`` section and a device to a `DataSet`."""


@hookspec
def ssl_zoo_register_backbones() -> Mapping[  # type: ignore[empty-body]
    str, Callable[[BackboneConfig, Spec], Encoder]
]:
    """Give backbones by name: a function of the ``backbone`` section and a `Spec` to an `Encoder`."""


@hookspec
def ssl_zoo_register_protocols() -> Mapping[  # type: ignore[empty-body]
    str, Callable[[Any], float]
]:
    """Give evaluation protocols by name: a function of `Features` to a percentage."""


@hookspec
def ssl_zoo_run_started(run: Any) -> None:
    """A run begins or goes on; `run` is an `ssl_zoo.run.Run`."""


@hookspec
def ssl_zoo_step_logged(run: Any, step: int, metrics: Mapping[str, float]) -> None:
    """A line was written to the run's metrics."""


@hookspec
def ssl_zoo_epoch_ended(run: Any, epoch: int) -> None:
    """So many passes over the data are done."""


@hookspec
def ssl_zoo_checkpoint_saved(run: Any, step: int, path: Path) -> None:
    """A checkpoint of this step was written."""


@hookspec
def ssl_zoo_run_ended(run: Any, results: Mapping[str, Any]) -> None:
    """A run has ended and was evaluated."""
