"""The versions and settings of the runs, and the samples that were skipped."""

from __future__ import annotations

from typing import Any

from ssl_zoo.config.load import load_config
from ssl_zoo.config.schema import RunConfig
from ssl_zoo.config.settings import result_affecting_settings
from ssl_zoo.data.sample_files import SkippedSamples
from ssl_zoo.reporting.inputs import FeatureExtractor, Member, Missing, ReportInputs, attempt
from ssl_zoo.text import printable, quantity

MAX_SKIPPED = 30
"""The maximum number of skipped samples of a kind to list."""

Facts = dict[str, list[str]]
"""The facts about how a run was made: lines of text by name."""


def section(inputs: ReportInputs) -> dict[str, Any]:
    """Return the facts that all trained runs have in common, and those of each run, line by line."""
    trained = [m for m in inputs.members if m.kind == "trained" and m.run.config_file.is_file()]
    facts = [_facts(member) for member in trained]
    names = list(dict.fromkeys(name for of_run in facts for name in of_run))
    common: Facts = {}
    for name in names:
        first, *others = (of_run.get(name, []) for of_run in facts)
        if shared := [line for line in first if all(line in lines for lines in others)]:
            common[name] = shared
    own = [
        {name: [x for x in lines if x not in common.get(name, [])] for name, lines in of_run.items()}
        for of_run in facts
    ]
    differing = [name for name in names if any(of_run.get(name) for of_run in own)]
    runs = [
        (member.name, member.row, [of_run.get(name, []) for name in differing])
        for member, of_run in zip(trained, own, strict=True)
    ]
    return {"common": common, "names": differing, "runs": runs}


def _facts(member: Member) -> Facts:
    config = attempt(member.run.config)
    if isinstance(config, Missing):
        return {"settings": [config.reason]}
    provenance, results = config.provenance, _results(member)
    versions = provenance.get("versions")
    facts = {
        "seed": config.train.seed,
        "settings": _changed_settings(config),
        "command": provenance.get("command"),
        "started": provenance.get("started"),
        "device": results.get("device", config.train.device),
        "precision": config.train.precision,
        "versions": [f"{name} {release}" for name, release in versions.items()]
        if isinstance(versions, dict)
        else versions,
        "python": provenance.get("python"),
        "git": provenance.get("git"),
    }
    return {
        name: [printable(line) for line in (value if isinstance(value, list) else [value])]
        for name, value in facts.items()
        if value is not None
    }


def _results(member: Member) -> dict[str, Any]:
    results = attempt(member.run.results)
    return {} if isinstance(results, Missing) else results


def _changed_settings(config: RunConfig) -> list[str]:
    """Return the settings that affect the figures and differ from the defaults of the task."""
    defaults = attempt(lambda: load_config(overrides={"task.name": config.task.name}))
    # There are no defaults if the task has a required option.
    expected = {} if isinstance(defaults, Missing) else result_affecting_settings(defaults)
    return [
        f"{path} = {'none' if value is None else value}"
        for path, value in result_affecting_settings(config).items()
        if path != "train.seed" and (path not in expected or value != expected[path])
    ]


def skipped(inputs: ReportInputs, extractor: FeatureExtractor | Missing) -> list[dict[str, Any]]:
    """Return the samples that could not be read, then those that a setting excludes, if any.

    Each group has a phrase about it, its number of samples, and the first of them with the reasons.
    """
    met = SkippedSamples()
    if isinstance(extractor, FeatureExtractor):
        met = SkippedSamples.join(extractor.data.train.skipped)
    groups = []
    for key, name, now in (
        ("skipped", "could not be read", met.unreadable),
        ("excluded", "left out as a setting says", met.excluded),
    ):
        samples: dict[str, Any] = dict(now)
        for member in inputs.members:
            in_run = _results(member).get(key)
            samples |= in_run if isinstance(in_run, dict) else {}
        if samples:
            listed = [(printable(sample), samples[sample]) for sample in sorted(samples)[:MAX_SKIPPED]]
            said = f"{quantity(len(samples), 'samples')} {name}"
            groups.append({"said": said, "samples": listed, "count": len(samples)})
    return groups
