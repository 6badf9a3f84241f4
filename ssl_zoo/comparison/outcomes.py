"""From folders to the table: the cells of a comparison, or runs that were made one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_zoo.comparison.cells import Cell, result_affecting_settings
from ssl_zoo.comparison.config import comparability_key
from ssl_zoo.comparison.sweep import Sweep
from ssl_zoo.comparison.table import Outcome, Table, build_table
from ssl_zoo.config.schema import BUDGETS, EncoderConfig, RunConfig
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation import evaluate, protocols
from ssl_zoo.evaluation.scoring import PRETRAINED, UNTRAINED
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runs.run import Run


def sweep_table(sweep: Sweep) -> Table:
    """The table of a comparison, of as many of its cells as are done or have failed.

    Raises:
        UserError: a column is asked for that there is not.
    """
    comparison = sweep.comparison
    outcomes = [o for cell in sweep.cells if (o := _outcome(cell)) is not None]
    config = comparison.encoder_config(0)
    foot = [*_on_rows(outcomes), *_on_settings(outcomes)]
    return build_table(outcomes, _title(config), comparison.columns, comparison.sort, foot)


def _outcome(cell: Cell) -> Outcome | None:
    results, failure = cell.results(), cell.failure()
    if cell.status not in ("done", "failed"):
        return None
    scores = results.get("scores", {})
    name = next(iter(scores), cell.row)
    return Outcome(
        name, cell.seed, Run(cell.path), scores.get(name, {}), results, cell.baseline, failure
    )


def run_table(
    runs: Iterable[str | Path],
    protocol: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    sort: str | None = None,
    mixed: bool = False,
) -> Table:
    """The table of runs that were made one by one.

    Runs of one task are one row where they differ in nothing but the seed, else a row for each of the
    settings.

    Args:
        runs: their folders.
        protocol: protocols that all must have been evaluated by; what is missing is evaluated.
        columns: names of columns; None for all that have a figure.
        sort: the column to sort by; None for the first.
        mixed: allow runs that differ in data, backbone or budget, and mark them.

    Raises:
        UserError: one is no finished run, two are the same, or they are not comparable.
    """
    opened = [Run.open(path) for path in dict.fromkeys(map(Path, runs))]
    configs = [run.config() for run in opened]
    for run in opened:
        if not run.results().get("steps"):
            raise UserError(f"{run.path} has not ended: go on with ssl-zoo train --resume {run.path}")
    varying = _varying([comparability_key(config) for config in configs])
    if varying and not mixed:
        path = varying[0]
        values = [(comparability_key(c)[path], run.path) for c, run in zip(configs, opened, strict=True)]
        (a, first), (b, second) = _two_different(values)
        raise UserError(
            f"runs are not comparable: {path} is {a} in {first}, but {b} in {second}; "
            "--mixed tabulates them all the same, and marks them"
        )
    chosen = protocols(protocol)
    for run in opened:
        _evaluate_missing(run, chosen)
    rows = _rows(configs, varying)
    outcomes: list[Outcome] = []
    for run, config, row in zip(opened, configs, rows, strict=True):
        results = run.results()
        scores, seed = results.get("scores", {}), config.train.seed
        task, labels = config.task.name, registry.load_task(config.task.name).needs_labels
        outcomes.append(Outcome(row, seed, run, scores.get(task, {}), results, labels))
    outcomes += _baselines(opened, configs, _suffixes(configs, varying))
    foot = [*_on_rows(outcomes), *_on_settings(outcomes)]
    if varying:
        foot.insert(0, f"NOT COMPARABLE: the runs differ in {', '.join(varying)}.")
    title = "runs that differ in " + ", ".join(varying) if varying else _title(configs[0])
    return build_table(outcomes, title, columns, sort, foot)


def _evaluate_missing(run: Run, chosen: Mapping[str, Any]) -> None:
    scores = run.results().get("scores", {}).get(run.config().task.name, {})
    missing = [name for name, p in chosen.items() if not p.metrics.keys() & scores.keys()]
    if missing:
        evaluate(run.path, missing)


def _varying(flat: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings that are not the same in all."""
    paths = dict.fromkeys(path for one in flat for path in one)
    return [path for path in paths if any(one.get(path) != flat[0].get(path) for one in flat)]


def _two_different(values: Sequence[tuple[Any, Path]]) -> tuple[tuple[Any, Path], tuple[Any, Path]]:
    first = values[0]
    return first, next(other for other in values if other[0] != first[0])


def _suffixes(configs: Sequence[RunConfig], varying: Sequence[str]) -> list[str]:
    """What must be said of each run beside its task, empty where all conditions are the same."""
    return [_said({path: comparability_key(config)[path] for path in varying}) for config in configs]


def _said(settings: Mapping[str, Any]) -> str:
    given = ", ".join(f"{path.partition('.')[2]}={value}" for path, value in settings.items())
    return f" ({given})" if given else ""


def _rows(configs: Sequence[RunConfig], varying: Sequence[str]) -> list[str]:
    """The name of each run's row: its task, and what tells it from others of that task."""
    flat = [result_affecting_settings(config) for config in configs]
    rows = []
    for config, its in zip(configs, flat, strict=True):
        same_task = [
            other for c, other in zip(configs, flat, strict=True) if c.task.name == config.task.name
        ]
        telling = dict.fromkeys([*varying, *_varying(same_task)])
        telling.pop("train.seed", None)
        known = {**its, **comparability_key(config)}
        rows.append(config.task.name + _said({path: known.get(path) for path in telling}))
    seen: set[tuple[str, int]] = set()
    for row, config in zip(rows, configs, strict=True):
        if (row, config.train.seed) in seen:
            raise UserError(
                f"two of the runs are the same: {row} with the seed {config.train.seed}; give one"
            )
        seen.add((row, config.train.seed))
    return rows


def _baselines(
    runs: Sequence[Run], configs: Sequence[RunConfig], suffixes: Sequence[str]
) -> list[Outcome]:
    """What the runs' own results say of the raw input and of the network before training."""
    found: dict[tuple[str, int | None], Outcome] = {}
    for run, config, suffix in zip(runs, configs, suffixes, strict=True):
        for name, scores in run.results().get("scores", {}).items():
            if name == config.task.name:
                continue
            seed = config.train.seed if name in (UNTRAINED, PRETRAINED) else None
            outcome = Outcome(name + suffix, seed, run, scores, {}, True)
            known = found.get((outcome.row, seed))
            if known is None or len(known.scores) < len(scores):
                found[outcome.row, seed] = outcome
    return list(found.values())


def _title(config: EncoderConfig) -> str:
    backbone = config.backbone.name + (" pretrained" if config.backbone.pretrained else "")
    return f"{Path(config.data.source).name}, {backbone}, {_budget(config)}"


def _budget(config: EncoderConfig) -> str:
    for name in BUDGETS:
        value = getattr(config.train, name)
        if value is not None:
            return f"{value:g} {name}" if isinstance(value, float) else f"{value:,} {name}"
    raise AssertionError("TrainConfig has a budget")


def _on_rows(outcomes: Sequence[Outcome]) -> list[str]:
    """What the baselines' rows are."""
    rows = {outcome.row for outcome in outcomes}
    texts = {
        "pixels": "pixels: the raw input, shrunk to at most 32×32.",
        UNTRAINED: "random-init: the network before its first step.",
        PRETRAINED: "pretrained: the network with the weights that training began with.",
    }
    labelled = dict.fromkeys(o.row for o in outcomes if o.facts.get("needs_labels"))
    trained = [f"{row}: the same network and budget, trained on the labels." for row in labelled]
    return [*(text for row, text in texts.items() if row in rows), *trained]


def _on_settings(outcomes: Sequence[Outcome]) -> list[str]:
    """What the runs were made with, as each has noted it, and what is not the same in all."""
    noted = [_versions(outcome.run) for outcome in outcomes]
    names = [name for name in ("ssl-zoo", "torch", "timm") if any(name in v for v in noted)]
    versions = [
        f"{name} {' and '.join(sorted({str(v[name]) for v in noted if name in v}))}" for name in names
    ]
    devices = sorted({str(o.facts["device"]) for o in outcomes if "device" in o.facts})
    formats = sorted({str(o.facts["precision"]) for o in outcomes if "precision" in o.facts})
    texts = [
        f"Settings: each task's own recipe, and what the comparison's file says. Made on "
        f"{' and '.join(devices) or 'unknown devices'} in {' and '.join(formats) or 'fp32'}; "
        f"{', '.join(versions) or 'unknown versions'}."
    ]
    drawn = [o.facts["images"] for o in outcomes if o.facts.get("images")]
    if drawn and max(drawn) > 1.1 * min(drawn):
        texts.append(f"The runs drew different numbers of images, {min(drawn):,} to {max(drawn):,}.")
    unlabelled = {n for o in outcomes for n in o.facts.get("cell", {}).get("unlabelled", ())}
    if unlabelled:
        texts.append(
            f"The data has no labels of two classes, so there is no {', no '.join(sorted(unlabelled))}."
        )
    return texts


def _versions(run: Run) -> Mapping[str, Any]:
    """What a run was made with, as far as that can still be read."""
    try:
        versions = Run.open(run.path).config().provenance.get("versions")
    except UserError:  # a baseline has no configuration; of a run its task may be gone
        return {}
    return versions if isinstance(versions, dict) else {}
