"""The results as a table, and the conditions under which they were measured."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from typing import Any

import torch

from .loop import WORKERS
from .measure import Mark
from .ours import NAME
from .setting import Setting


def ratios(speeds: dict[str, list[float]]) -> dict[str, list[float]]:
    """Return the speed of ssl-zoo relative to each peer, by round."""
    return {
        name: [a / b for a, b in zip(speeds[NAME], values, strict=True)]
        for name, values in speeds.items()
        if name != NAME
    }


def table(speeds: dict[str, list[float]], marks: dict[str, Mark], epochs: float) -> str:
    """Return all results as one table in Markdown."""
    heads = ["", "images/s", "ssl-zoo is faster: median (min to max)"]
    if marks:
        heads += [f"minutes for {epochs:g} epochs", "kNN %", "minutes of ssl-zoo's to as much", "ratio"]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    faster = ratios(speeds)
    for name, values in speeds.items():
        row = [name, f"{statistics.median(values):,.0f}", ""]
        if name in faster:
            values = faster[name]
            row[2] = f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
        if marks:
            row += [""] * 4
        if name in marks:
            mark = marks[name]
            row[3:5] = [f"{mark.seconds / 60:.2f}", f"{mark.accuracy:.1f}"]
            if name != NAME:
                row[5:] = ["not reached", ""]
            if mark.ours is not None:
                row[5:] = [f"{mark.ours / 60:.2f}", f"{mark.seconds / mark.ours:.1f}"]
        lines.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def conditions(setting: Setting, packages: Sequence[str]) -> dict[str, Any]:
    """Return the settings of the measurement, and the versions of the packages."""
    packages = ["ssl-zoo", "torch", "torchvision", "timm", *packages]
    return {
        "data": setting.data.name,
        "images": len(setting.data.train),
        "backbone": setting.config.backbone.model_dump(),
        "train": setting.config.train.model_dump(),
        "views": asdict(setting.views),
        "temperature": setting.temperature,
        "head": setting.widths,
        "device": str(setting.device.device),
        "precision": setting.device.precision,
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "workers": WORKERS,
        "versions": {package: metadata.version(package) for package in packages},
    }
