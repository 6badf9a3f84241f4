"""From folders to the table: the cells of a comparison, or separate runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ssl_zoo.comparison.cells import Cell
from ssl_zoo.comparison.columns import Outcome
from ssl_zoo.comparison.comparability import SCRATCH, comparability_key
from ssl_zoo.comparison.config import RAW
from ssl_zoo.comparison.records import StoredRecord, describe_budget, read_records, representative
from ssl_zoo.comparison.sweep import Sweep
from ssl_zoo.comparison.table import Table, build_table
from ssl_zoo.config.schema import EncoderConfig, RunConfig
from ssl_zoo.config.settings import result_affecting_settings
from ssl_zoo.errors import UserError
from ssl_zoo.evaluation import evaluate, known_protocols, protocols
from ssl_zoo.evaluation.scoring import PRETRAINED, UNTRAINED
from ssl_zoo.plugins.registry import registry
from ssl_zoo.plugins.specs import spec_class
from ssl_zoo.runs.run import Run
from ssl_zoo.spec import Spec


def sweep_table(sweep: Sweep) -> Table:
    """Return the table of a comparison, of the cells that are done or have failed.

    Raises:
        UserError: there is no column of such a name.
    """
    outcomes = [outcome for cell in sweep.cells if (outcome := _outcome(cell)) is not None]
    comparison = sweep.comparison
    specs = _specs([comparison.modality])
    noun = _noun(outcomes, specs)
    foot = [*_row_notes(outcomes, specs), *_backbone_notes(outcomes, sweep.config)]
    foot += [*_settings_notes(outcomes, noun), *_no_scores_notes(outcomes)]
    return build_table(outcomes, _title(sweep.config), comparison.columns, comparison.sort, foot, noun)


def _outcome(cell: Cell) -> Outcome | None:
    results, failure = cell.results(), cell.failure()
    if cell.status not in ("done", "failed"):
        return None
    scores = results.get("scores", {})
    name = next(iter(scores), cell.title)
    facts = {**results, **cell.provenance(), "own_backbone": cell.own_backbone}
    facts["variant"] = cell.comparison.describe_variant(cell.row)
    return Outcome(
        name, cell.seed, cell.folder, scores.get(name, {}), facts, cell.baseline, failure, cell.family
    )


def record_table(
    folder: Path,
    columns: Sequence[str] | None = None,
    sort: str | None = None,
    planned: Mapping[str, str] = MappingProxyType({}),
) -> Table:
    """Return the table of the records in a folder, by family.

    Args:
        folder: the folder.
        columns: names of columns; None for all that have a figure.
        sort: the column to sort by, within a family; None for the first.
        planned: the families of rows, by name, that are in the table even without a record.

    Raises:
        UserError: there are no records, one cannot be read, they cannot stand in one table, or there is
            no column of such a name.
    """
    records = read_records(folder)
    outcomes = [_of_record(record) for record in records]
    specs = _specs(record.values["modality"] for record in records)
    noun = _noun(outcomes, specs)
    common = representative(records).config
    foot = [*_row_notes(outcomes, specs), *_backbone_notes(outcomes, common)]
    foot += [*_settings_notes(outcomes, noun), *_no_scores_notes(outcomes)]
    title = _title(common)
    return build_table(outcomes, title, columns, sort, foot, noun, by_family=True, planned=planned)


def _of_record(record: StoredRecord) -> Outcome:
    values = record.values
    return Outcome(
        values["row"], values["seed"], Run(record.file), values["scores"], values, values["baseline"],
        values.get("failure"), values["family"],
    )  # fmt: skip


def run_table(
    runs: Iterable[str | Path],
    protocol: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    sort: str | None = None,
    mixed: bool = False,
) -> Table:
    """Return the table of separate runs.

    Runs of one task that differ only in the seed share a row.

    Args:
        runs: the folders of the runs.
        protocol: protocols that every run needs scores of; those missing are evaluated.
        columns: names of columns; None for all that have a figure.
        sort: the column to sort by; None for the first.
        mixed: allow runs that differ in data, backbone or budget, and mark them.

    Raises:
        UserError: a run is not finished or not evaluated, two are the same, or they are not comparable.
    """
    opened = [Run.open(path) for path in dict.fromkeys(map(Path, runs))]
    configs = [run.config() for run in opened]
    for run in opened:
        if not run.results().get("steps"):
            raise UserError(
                f"{run.path} is not finished; resume it with: ssl-zoo train --resume {run.path}"
            )
    keys = [comparability_key(config) for config in configs]
    varying = _varying(keys)
    if varying and not mixed:
        path = varying[0]
        first = keys[0][path]
        other = next(i for i, key in enumerate(keys) if key[path] != first)
        raise UserError(
            f"runs are not comparable: {path} is {first} in {opened[0].path}, but {keys[other][path]} "
            f"in {opened[other].path}; --mixed tabulates them anyway, marked"
        )
    chosen = protocols(protocol)
    results_of = [
        _evaluate_missing(run, config.task.name, chosen)
        for run, config in zip(opened, configs, strict=True)
    ]
    rows = _row_names(configs, varying)
    outcomes: list[Outcome] = []
    for run, results, config, row in zip(opened, results_of, configs, rows, strict=True):
        task = config.task.name
        scores = results.get("scores", {}).get(task, {})
        if not scores:
            raise UserError(f"{run.path} has no scores; evaluate it with: ssl-zoo eval {run.path}")
        cls = registry.load_task(task)
        facts, labels = {**results, **config.provenance}, "labels" in cls.needs
        outcomes.append(Outcome(row, config.train.seed, run, scores, facts, labels, family=cls.family))
    suffixes = [_in_brackets({path: key[path] for path in varying}) for key in keys]
    outcomes += _baselines(opened, results_of, configs, suffixes)
    specs = _specs(registry.load_task(config.task.name).modality for config in configs)
    noun = _noun(outcomes, specs)
    foot = [*_row_notes(outcomes, specs), *_settings_notes(outcomes, noun)]
    if varying:
        foot.insert(0, f"NOT COMPARABLE: the runs differ in {', '.join(varying)}.")
    title = "runs that differ in " + ", ".join(varying) if varying else _title(configs[0])
    return build_table(outcomes, title, columns, sort, foot, noun)


def _evaluate_missing(run: Run, task: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results of a run, with scores by all chosen protocols, even if they cannot be kept."""
    results = run.results()
    scores = results.setdefault("scores", {})
    if (row := results.get("cell", {}).get("row", task)) != task and row in scores:  # of a comparison
        scores[task] = {**scores.pop(row), **scores.get(task, {})}
    known = scores.get(task, {}).keys()
    missing = [name for name, p in chosen.items() if not p.metrics.keys() & known]
    if missing:
        for row, values in evaluate(run.path, missing).items():
            scores[row] = {**scores.get(row, {}), **values}
    return results


def _varying(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the dotted paths of settings that are not equal in all runs."""
    paths = dict.fromkeys(path for of_run in settings for path in of_run)
    first = settings[0]
    return [path for path in paths if any(s.get(path) != first.get(path) for s in settings)]


def _in_brackets(settings: Mapping[str, Any]) -> str:
    """Return settings in the form `` (name=value, …)``, to append to a name; "" if there are none."""
    text = ", ".join(f"{path.partition('.')[2]}={value}" for path, value in settings.items())
    return f" ({text})" if text else ""


def _row_names(configs: Sequence[RunConfig], varying: Sequence[str]) -> list[str]:
    """Return the name of each run's row: its task and the settings that distinguish it.

    Raises:
        UserError: two runs are the same.
    """
    settings = [result_affecting_settings(config) for config in configs]
    rows = []
    for config, own in zip(configs, settings, strict=True):
        of_task = [
            other
            for other_config, other in zip(configs, settings, strict=True)
            if other_config.task.name == config.task.name
        ]
        distinguishing = dict.fromkeys([*varying, *_varying(of_task)])
        distinguishing.pop("train.seed", None)
        values = {**own, **comparability_key(config)}
        rows.append(config.task.name + _in_brackets({p: values.get(p) for p in distinguishing}))
    seen: set[tuple[str, int]] = set()
    for row, config in zip(rows, configs, strict=True):
        if (row, config.train.seed) in seen:
            raise UserError(
                f"two of the runs are the same: {row} with seed {config.train.seed}; leave one out"
            )
        seen.add((row, config.train.seed))
    return rows


def _baselines(
    runs: Sequence[Run],
    results: Sequence[Mapping[str, Any]],
    configs: Sequence[RunConfig],
    suffixes: Sequence[str],
) -> list[Outcome]:
    """Return the raw input and the untrained networks, as evaluated beside the runs."""
    outcomes: dict[tuple[str, int | None], Outcome] = {}
    for run, of_run, config, suffix in zip(runs, results, configs, suffixes, strict=True):
        for name, scores in of_run.get("scores", {}).items():
            if name == config.task.name:
                continue
            seed = config.train.seed if name in (UNTRAINED, PRETRAINED) else None
            outcome = Outcome(name + suffix, seed, run, scores, {}, True)
            known = outcomes.get((outcome.row, seed))
            if known is None or len(known.scores) < len(scores):
                outcomes[outcome.row, seed] = outcome
    return list(outcomes.values())


def _title(config: EncoderConfig) -> str:
    backbone = config.backbone.name + (" pretrained" if config.backbone.starts_trained else "")
    return f"{config.data.source_name}, {backbone}, {describe_budget(config)}"


def _specs(modalities: Iterable[str]) -> list[type[Spec]]:
    """Return the classes that describe samples of modalities, without repetition."""
    return [spec_class(modality) or Spec for modality in dict.fromkeys(modalities)]


def _noun(outcomes: Sequence[Outcome], specs: Sequence[type[Spec]]) -> str:
    """Return the plural noun for samples, as the runs recorded it, or else of the modality."""
    recorded = {noun for o in outcomes if (noun := o.facts.get("data", {}).get("noun"))}
    nouns = recorded or {spec.noun for spec in specs}
    return nouns.pop() if len(nouns) == 1 else Spec.noun


def _row_notes(outcomes: Sequence[Outcome], specs: Sequence[type[Spec]]) -> list[str]:
    """Return a note on each baseline and each variant in the table."""
    rows = {outcome.row for outcome in outcomes}
    before = "with random weights" if PRETRAINED in rows else "before its first step"
    notes = {
        **{name: f"{name}: {spec.raw_note}." for spec in specs if (name := spec.raw_name or RAW)},
        UNTRAINED: f"{UNTRAINED}: the network {before}.",
        PRETRAINED: f"{PRETRAINED}: the network with the weights that training started from.",
    }
    if scratch := dict.fromkeys(row for o in outcomes if (row := o.row).endswith(SCRATCH)):
        notes[next(iter(scratch))] = f"{', '.join(scratch)}: the same task, from random weights."
    if frozen := dict.fromkeys(row for o in outcomes if (row := o.row).startswith(f"{PRETRAINED}-")):
        notes[next(iter(frozen))] = f"{', '.join(frozen)}: trained networks as they are."
    variants = {o.row: text for o in outcomes if (text := o.facts.get("variant")) is not None}
    labelled = dict.fromkeys(o.row for o in outcomes if o.facts.get("needs_labels"))
    trained = [f"{row}: the same network and budget, trained on the labels." for row in labelled]
    known = [note for row, note in notes.items() if row in rows]
    return [*known, *(f"{row}: {text}." for row, text in variants.items()), *trained]


def _backbone_notes(outcomes: Sequence[Outcome], common: EncoderConfig) -> list[str]:
    """Return a note on each backbone of single rows: which rows have it, and not the common one."""
    rows: dict[str, dict[str, None]] = {}
    for outcome in outcomes:
        if (name := outcome.facts.get("own_backbone")) is not None:
            rows.setdefault(name, {})[outcome.row] = None
    return [f"On {name}, not {common.backbone.name}: {', '.join(on)}." for name, on in rows.items()]


def _settings_notes(outcomes: Sequence[Outcome], noun: str) -> list[str]:
    """Return notes on the settings, machines and versions, and on differences between the runs."""
    by_outcome = [v for o in outcomes if isinstance(v := o.facts.get("versions"), dict)]
    names = [name for name in ("ssl-zoo", "torch", "timm") if any(name in v for v in by_outcome)]
    versions = [
        f"{name} {' and '.join(sorted({str(v[name]) for v in by_outcome if name in v}))}"
        for name in names
    ]
    devices = sorted({d for o in outcomes if (d := o.facts.get("machine") or o.facts.get("device"))})
    formats = sorted({str(o.facts["precision"]) for o in outcomes if "precision" in o.facts})
    notes = [
        "Settings: each task's own recipe, with the changes in the comparison's file. Computed on "
        f"{' and '.join(devices) or 'unknown devices'} in {' and '.join(formats) or 'fp32'}; "
        f"{', '.join(versions) or 'unknown versions'}."
    ]
    drawn = [o.facts["samples"] for o in outcomes if o.facts.get("samples")]
    if drawn and max(drawn) > 1.1 * min(drawn):
        notes.append(f"The runs drew different numbers of {noun}, {min(drawn):,} to {max(drawn):,}.")
    left_out: dict[str, set[str]] = {}
    for cell in (outcome.facts.get("cell", {}) for outcome in outcomes):
        earlier = dict.fromkeys(cell.get("unlabelled", ()), "lacks labels of at least two classes")
        for name, reason in {**earlier, **cell.get("unsupported", {})}.items():
            left_out.setdefault(reason, set()).add(name)
    for reason, without in left_out.items():
        notes.append(f"The data {reason}, so there is no {', no '.join(sorted(without))}.")
    return notes


def _no_scores_notes(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a note on each protocol that suits the data, has evaluated rows, and has scores of none."""
    evaluated = [outcome for outcome in outcomes if "left_out" not in outcome.facts]
    cells = [outcome.facts.get("cell", {}) for outcome in evaluated]
    done = dict.fromkeys(name for cell in cells for name in cell.get("protocols", ()))
    unsupported = {name for cell in cells for name in cell.get("unsupported", {})}
    known, scored = known_protocols(), {metric for outcome in outcomes for metric in outcome.scores}
    return [
        f"No row can be measured by {name}; ssl-zoo eval RUN --protocol {name} says why."
        for name in done
        if name in known and name not in unsupported and not known[name].metrics.keys() & scored
    ]
