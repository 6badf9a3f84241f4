"""The model card of an exported folder, written from the run."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import timm
import yaml

from ssl_zoo.config.schema import BUDGETS, BackboneConfig, RunConfig
from ssl_zoo.config.yaml import PlainDumper
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation import known_metrics
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runs.run import Run
from ssl_zoo.runtime.files import write_atomic
from ssl_zoo.text import printable

UNKNOWN = "unknown"


def write_card(folder: Path, run: Path, code: str, backbone: BackboneConfig, library: str) -> None:
    """Write ``README.md``: what was trained on which data and for how long, from which weights, scores.

    Args:
        folder: the exported folder.
        run: the run, or a file of weights, of which only the network is known.
        code: the Python that loads the folder.
        backbone: the section ``backbone`` in the file of weights.
        library: the library that loads it, as Hugging Face's hub names it; "" for none.

    Raises:
        UserError: the run's configuration or results cannot be read.
        Unwritable: the file cannot be written.
    """
    found = Run.of_snapshot(run) or Run(run if run.is_dir() else run.parent)
    config = found.config() if found.config_file.is_file() else None
    front: dict[str, Any] = {"tags": ["self-supervised-learning", "feature-extraction"]}
    if library:
        front["library_name"] = library
    licence = _licence(config) if config is not None else None
    if licence is not None:
        front["license"] = licence
    head = _front_matter(front)
    lines = [f"# {backbone.name}" + ("" if config is None else f", trained by {config.task.name}")]
    lines += ["", *(_facts(found, config, licence) if config is not None else [_NO_RUN]), ""]
    lines += ["## Use", "", "```python", code, "```", ""]
    if config is not None and (scores := found.results().get("scores")):
        lines += ["## Scores", "", *_table(scores, config.data.source_name, run, found), ""]
    write_atomic(folder / "README.md", (head + "\n".join(lines)).encode())


_NO_RUN = "These weights were exported without their run: data, budget and scores are not known here."


def _front_matter(values: Mapping[str, Any]) -> str:
    """Return the front matter of a model card."""
    return f"---\n{yaml.dump(dict(values), Dumper=PlainDumper, sort_keys=False)}---\n\n"


def _facts(run: Run, config: RunConfig, licence: str | None) -> Iterator[str]:
    """Yield the lines of what was trained."""
    results, train = run.results(), config.train
    try:
        task = registry.load_task(config.task.name)
        paper, note = task.paper, task.input_note
    except UserError:  # its plugin is not here
        paper = note = ""
    budget = next(f"{getattr(train, b):,g} {b}" for b in BUDGETS if getattr(train, b) is not None)
    done = f", {results['samples']:,} samples drawn" if "samples" in results else ""
    early = ", stopped early" if results.get("stopped_early") else ""
    data = results.get("data", {})
    number = f", {data['train']:,} samples to train on" if "train" in data else ""
    versions = config.provenance.get("versions", {})
    yield f"- task: {config.task.name}{f' ({paper})' if paper else ''}"
    if note:
        yield f"- input: {note}"
    yield f"- data: {_name(config.data.source_name)}{number}"
    yield f"- budget: {budget}{done}{early}; batches of {train.batch_size}, seed {train.seed}"
    yield f"- started from: {_start(config)}"
    yield f"- licence of those weights: {licence or _no_licence(config)}"
    yield f"- versions: {', '.join(f'{name} {v}' for name, v in versions.items())}"


def _name(path: str) -> str:
    """Return the last part of a path, which tells nothing of this machine, as text of Markdown."""
    return html.escape(printable(Path(path).name), quote=False)


def _start(config: RunConfig) -> str:
    backbone = config.backbone
    if backbone.pretrained:
        return f"timm's weights of {backbone.name}"
    if backbone.weights is not None:
        return f"the weights in {_name(backbone.weights)}"
    return "random weights"


def _licence(config: RunConfig) -> str | None:
    """Return the licence of the weights that training started from, as timm has it; None if unknown."""
    if not config.backbone.pretrained:
        return None
    known = timm.get_pretrained_cfg(config.backbone.resolve().name)
    return getattr(known, "license", None)


def _no_licence(config: RunConfig) -> str:
    return f"{UNKNOWN}, see their source" if config.backbone.starts_trained else "none, they are random"


def _table(scores: Mapping[str, Any], source: str, run: Path, found: Run) -> Iterator[str]:
    """Yield the lines of the table of scores, a row for each metric."""
    of = " of the run's last weights, not of this snapshot," if Run.of_snapshot(run) is not None else ""
    yield f"The scores{of} on {_name(source)}, beside those of baselines:"
    yield ""
    yield f"| | {' | '.join(scores)} |"
    yield f"|---|{'---:|' * len(scores)}"
    for name, metric in known_metrics().items():
        if any(name in row for row in scores.values()):
            cells = (f"{row[name]:.{metric.digits}f}" if name in row else "" for row in scores.values())
            yield f"| {metric.title} | {' | '.join(cells)} |"
