"""Healthy and sick runs of each family on the bundled digits, for docs/health.md.

    python -m benchmarks.health             # trains what has no record yet, draws, and fills in the page
    python -m benchmarks.health --only byol-rate

Each run is a file in results/health/, with its command, its curves, its scores, and what the program
said. One that is there with these settings is not trained again. The pictures are
docs/results/health-PAIR.png.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ssl_zoo.config.load import load_config
from ssl_zoo.config.shipped import find_config
from ssl_zoo.config.yaml import read_yaml
from ssl_zoo.evaluation import warnings
from ssl_zoo.evaluation.reading import describe_gains, read_gains
from ssl_zoo.plugins.registry import registry
from ssl_zoo.reporting.curves import MAX_MARKERS, logged
from ssl_zoo.reporting.pictures import numbered_style
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.device import Device
from ssl_zoo.runtime.files import write_atomic
from ssl_zoo.runtime.machine import describe_machine
from ssl_zoo.training import NotFinite, train

ROOT = Path(__file__).parents[1]
RECORDS, PICTURES, PAGE = (ROOT / part for part in ("results/health", "docs/results", "docs/health.md"))
SECTION = re.compile(
    r"(?P<begin>^<!-- health/(?P<name>[\w-]+) begin -->\n).*?(?P<end>^<!-- health/(?P=name) end -->$)",
    re.MULTILINE | re.DOTALL,
)
COMMON = {
    "train.epochs": 27,
    "train.batch_size": 128,
    "train.tune": False,
    "train.log_every": 2,
    "train.knn_points": 9,
    "train.keep_best": "rankme",
}
"""Settings of all runs: the budget, and kNN and RankMe on the way."""
NARROW = {"backbone.options": {"channels": [8, 16, 32, 64]}}
"""A quarter of the default network's width, for tasks whose recipe names no network."""
QUICK = {
    f"train.{name}": value for name, value in read_yaml(find_config("data/digits"))["train"].items()
}
"""The recipe of the digits, for tasks to which it is not given by itself."""
OWN: Mapping[str, Mapping[str, Any]] = {
    "byol": {"task.hidden": 512, "task.momentum": 0.99, **QUICK, "train.lr": 0.005},
    "swav": {"task.hidden": 256, "task.prototypes": 64, **QUICK},
    "vicreg": {"task.hidden": 256, "task.out": 256},
    "autoencoder": {"task.kind": "variational", "task.hidden": 64, **QUICK},
}
"""Settings of a task's runs, healthy or sick: heads that suit so narrow a network, and the optimiser."""
SCORES = {"knn": ("kNN %", 1), "rankme": ("RankMe", 1), "spread": ("spread", 3)}
"""The scores in the tables: titles and decimals."""


@dataclass(frozen=True)
class Pair:
    """A healthy run of a task, and one that differs from it by a mistake.

    Attributes:
        name: the name of the pair, of its picture and of the sick run's record.
        task: the task.
        sick: the settings that are the mistake.
        extra: further curves to draw, by their key in the log, with their labels.
        level: a loss to mark by a line, and its name.
    """

    name: str
    task: str
    sick: Mapping[str, Any]
    extra: Mapping[str, str] = field(default_factory=dict)
    level: tuple[float, str] | None = None


PAIRS = (
    Pair(
        "simclr-same-views",
        "simclr",
        {"task.moves": False, "task.crop_scale": [1.0, 1.0], "task.jitter_p": 0.0},
        level=(math.log(255), "chance: ln 255"),
    ),
    Pair(
        "simclr-temperature",
        "simclr",
        {"task.temperature": 10.0},
        {"mi_bound": "mi_bound, nats"},
        (math.log(255), "chance: ln 255"),
    ),
    Pair("simclr-too-short", "simclr", {"train.epochs": 3}),
    Pair("byol-rate", "byol", {"train.lr": 1.0}, {"spread": "spread (logged)"}),
    Pair("swav-assignments", "swav", {"task.epsilon": 1.0}, level=(math.log(64), "uniform: ln 64")),
    Pair("vicreg-no-variance", "vicreg", {"task.variance": 0.0}, {"variance": "variance term"}),
    Pair("vicreg-not-finite", "vicreg", {"train.optimizer": "sgd", "train.lr": 6.0}),
    Pair(
        "rotation-rate",
        "rotation",
        {"train.lr": 10.0},
        {"accuracy": "accuracy of the rotation"},
        (math.log(4), "chance: ln 4"),
    ),
    Pair("mae-few-hidden", "mae", {"task.mask_ratio": 0.1}),
    Pair(
        "autoencoder-prior",
        "autoencoder",
        {"task.beta": 30.0},
        {"active_units": "active units of 128", "reconstruction": "error of the image, nats"},
    ),
)


def runs(pairs: Sequence[Pair]) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Return the task and the settings of each run, by the name of its record."""
    healthy: dict[str, tuple[str, Mapping[str, Any]]] = {pair.task: (pair.task, {}) for pair in pairs}
    return healthy | {pair.name: (pair.task, pair.sick) for pair in pairs}


def settings_of(task: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings of a run by dotted path."""
    network = {} if "backbone" in registry.load_task(task).recipe else NARROW
    return {**COMMON, **network, **OWN.get(task, {}), **settings}


def options(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as the words of a command line."""
    words = []
    for path, value in settings.items():
        text = yaml.safe_dump(value, default_flow_style=True).splitlines()[0]
        words += ["--epochs", text] if path == "train.epochs" else ["--set", f"{path}={text}"]
    return words


def command(task: str, settings: Mapping[str, Any]) -> str:
    """Return the command that makes a run."""
    return shlex.join(["ssl-zoo", "train", "--task", task, *options(settings_of(task, settings))])


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Collect the warnings that ssl-zoo logs meanwhile."""
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("ssl_zoo")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def measure(task: str, settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Train a run in `folder`, and return its record."""
    config = load_config(overrides={"task.name": task, **settings_of(task, settings)})
    run = Run(folder)
    scores: dict[str, Any] = {}
    with collected_warnings() as said:
        try:
            train(config, out=folder, protocol=["knn", "health"])
        except NotFinite as error:
            said.append(f"error: {error}".replace(str(folder), "runs/RUN"))
        else:
            results = run.results()
            scores, data = results["scores"], results["data"]
            said += [f"warning: {task}: {text}" for text in warnings(scores[task])]
            said.append(describe_gains(read_gains(results["gains"]), data["noun"]))
    keys = {"loss", "knn", "rankme"}.union(*(pair.extra for pair in PAIRS if pair.task == task))
    return {
        "command": command(task, settings),
        "machine": describe_machine(Device.choose(config.train)),
        "versions": {name: version(name) for name in ("ssl-zoo", "torch", "timm")},
        "said": said,
        "scores": scores,
        "curves": {
            key: [[int(samples), float(f"{value:.5g}")] for samples, _, value in logged(run, key)]
            for key in sorted(keys)
        },
    }


def stored(name: str, task: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the record of a run, or None if there is none with these settings."""
    file = RECORDS / f"{name}.json"
    found: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    return found if found.get("command") == command(task, settings) else None


def measured(name: str, task: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a run, which is trained if there is none."""
    if (found := stored(name, task, settings)) is not None:
        return found
    print(command(task, settings), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        record = measure(task, settings, Path(folder) / "run")
    RECORDS.mkdir(parents=True, exist_ok=True)
    write_atomic(RECORDS / f"{name}.json", f"{json.dumps(record)}\n".encode())
    return record


def draw(pair: Pair, healthy: Mapping[str, Any], sick: Mapping[str, Any], file: Path) -> None:
    """Draw the curves of both runs."""
    panels = {"loss": "loss", "knn": "kNN accuracy, %", "rankme": "RankMe", **pair.extra}
    figure = Figure(figsize=(2.7 * len(panels), 2.5), layout="constrained")
    FigureCanvasAgg(figure)
    losses = [y for record in (healthy, sick) for _, y in record["curves"].get("loss", [])]
    for axes, (key, label) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for number, (name, record) in enumerate((("healthy", healthy), ("sick", sick))):
            style, points = numbered_style(number), np.array(record["curves"].get(key, []))
            x, y = points.reshape(-1, 2).T
            axes.plot(
                x / 1000, y, ("-", "--")[number], label=name, color=style.colour,
                marker=style.marker if len(x) <= MAX_MARKERS else None, markersize=3.5,
            )  # fmt: skip
        if key == "loss" and max(losses) > 100 * min(losses) > 0:
            axes.set_yscale("log")
        if pair.level and key == "loss":
            height, name = pair.level
            axes.axhline(height, color="#666666", linewidth=0.8, linestyle=":")
            axes.annotate(
                name, (1, height), (-2, 2), axes.get_yaxis_transform(), "offset points",
                ha="right", va="bottom", fontsize=8, color="#444444",
            )  # fmt: skip
        if key in ("rankme", "spread", "variance", "accuracy"):
            axes.set_ylim(bottom=0)
        axes.set_xlabel("thousand images seen")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#dddddd", linewidth=0.5)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), frameon=False, loc="outside right upper")
    figure.savefig(file, dpi=110)


def row(name: str, task: str, record: Mapping[str, Any]) -> str:
    """Return a run's row of a table."""
    losses = [value for _, value in record["curves"]["loss"]]
    ends = f"{losses[0]:.3g} → {losses[-1]:.3g}" if losses else ""
    found = record["scores"].get(task, {})
    cells = [f"{found[key]:.{digits}f}" if key in found else "" for key, (_, digits) in SCORES.items()]
    return f"| {' | '.join([name, ends, *cells])} |"


def section(pair: Pair, healthy: Mapping[str, Any], sick: Mapping[str, Any]) -> str:
    """Return what the page shows of a pair: its picture, its figures, and what the program said."""
    titles = " | ".join(title for title, _ in SCORES.values())
    said = "\n".join(sick["said"])
    return "\n".join(
        [
            f"![Curves of {pair.task}, healthy and sick](results/health-{pair.name}.png)",
            "",
            f"| `{pair.task}` | loss, first → last | {titles} |",
            f"|---|---|{'---:|' * len(SCORES)}",
            row("healthy", pair.task, healthy),
            row(f"sick: `{shlex.join(options(pair.sick))}`", pair.task, sick),
            "",
            "The sick run printed:" if said else "The sick run printed no warning.",
            *(["", "```text", said, "```"] if said else []),
            "",
        ]
    )


def filled(text: str, records: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page with the sections of the pairs that have records."""
    named = {pair.name: pair for pair in PAIRS if {pair.name, pair.task} <= records.keys()}

    def replaced(match: re.Match[str]) -> str:
        if (pair := named.get(match["name"])) is None:
            return match[0]
        return (
            f"{match['begin']}\n{section(pair, records[pair.task], records[pair.name])}\n{match['end']}"
        )

    return SECTION.sub(replaced, text)


def main() -> None:
    """Train what is missing, draw the pictures, and fill in the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", default=[pair.name for pair in PAIRS], metavar="PAIR")
    names = parser.parse_args().only
    pairs = [pair for pair in PAIRS if pair.name in names]
    records = {name: measured(name, *run) for name, run in runs(pairs).items()}
    for pair in pairs:
        healthy, sick = records[pair.task], records[pair.name]
        draw(pair, healthy, sick, PICTURES / f"health-{pair.name}.png")
        print(f"\n{pair.name}\n\n{section(pair, healthy, sick)}")
    PAGE.write_text(filled(PAGE.read_text("utf-8"), records), "utf-8")


if __name__ == "__main__":
    main()
