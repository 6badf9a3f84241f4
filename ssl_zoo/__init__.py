"""ssl-zoo: a zoo of self-supervised pretext tasks in which every task is a plugin.

The names here are imported when they are first used, so that ``import ssl_zoo`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl_zoo.comparison import compare, tabulate
    from ssl_zoo.config.load import load_config
    from ssl_zoo.errors import SslZooError, Unsuitable, UserError
    from ssl_zoo.evaluation import evaluate
    from ssl_zoo.notices import Notice
    from ssl_zoo.options import CropOptions
    from ssl_zoo.plugins.hookspecs import hookimpl
    from ssl_zoo.plugins.registry import registry
    from ssl_zoo.reporting import report
    from ssl_zoo.runs.backbone import load_backbone
    from ssl_zoo.runs.run import Run
    from ssl_zoo.spec import ImageSpec, Spec
    from ssl_zoo.task import Encoder, Field, Losses, Task, TaskOptions
    from ssl_zoo.tools.bench import bench
    from ssl_zoo.tools.embed import embed
    from ssl_zoo.tools.export import export
    from ssl_zoo.tools.predict import predict
    from ssl_zoo.training import train
    from ssl_zoo.views import Rng

_HOMES = {
    "CropOptions": "options",
    "Encoder": "task",
    "Field": "task",
    "ImageSpec": "spec",
    "Losses": "task",
    "Notice": "notices",
    "Rng": "views",
    "Run": "runs.run",
    "Spec": "spec",
    "SslZooError": "errors",
    "Task": "task",
    "TaskOptions": "task",
    "Unsuitable": "errors",
    "UserError": "errors",
    "bench": "tools.bench",
    "compare": "comparison",
    "embed": "tools.embed",
    "evaluate": "evaluation",
    "export": "tools.export",
    "hookimpl": "plugins.hookspecs",
    "load_backbone": "runs.backbone",
    "load_config": "config.load",
    "predict": "tools.predict",
    "registry": "plugins.registry",
    "report": "reporting",
    "tabulate": "comparison",
    "train": "training",
}

__all__ = [
    "CropOptions",
    "Encoder",
    "Field",
    "ImageSpec",
    "Losses",
    "Notice",
    "Rng",
    "Run",
    "Spec",
    "SslZooError",
    "Task",
    "TaskOptions",
    "Unsuitable",
    "UserError",
    "__version__",
    "bench",
    "compare",
    "embed",
    "evaluate",
    "export",
    "hookimpl",
    "load_backbone",
    "load_config",
    "predict",
    "registry",
    "report",
    "tabulate",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # takes longer than all the rest of this file

        return version("ssl-zoo")
    if name not in _HOMES:
        raise AttributeError(f"module 'ssl_zoo' has no attribute {name!r}")
    return getattr(import_module(f"ssl_zoo.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
