"""Descriptions of tasks and plugins, including broken ones."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TaskInfo:
    """A task as its distribution announces it, known without importing it.

    Attributes:
        name: the task's name.
        value: ``module:Class``.
        distribution: the distribution that provides it.
        version: the distribution's version.
        summary: the first line of the class's docstring, "" if its source cannot be found.
        paper: the class's `paper`, likewise.
        family: the family of methods that it belongs to, likewise.
        modality: the kind of data that it takes, likewise.
        needs: what its loss gets beside the views, such as ``"labels"``.
        prerequisites: what it asks of backbone and batch, such as ``"a ViT"``.
        passes: samples that encoders process for each sample, 0 if unknown.
    """

    name: str
    value: str
    distribution: str
    version: str
    summary: str
    paper: str
    family: str
    modality: str
    needs: tuple[str, ...]
    prerequisites: str
    passes: float


@dataclass(frozen=True)
class PluginInfo:
    """A plugin, possibly a broken one.

    Attributes:
        name: the entry point's name.
        distribution: the distribution that provides it.
        version: the distribution's version.
        contributes: "task", or the names that its hooks register, or "observer".
        error: why it cannot be used, or None.
    """

    name: str
    distribution: str
    version: str
    contributes: str
    error: str | None
