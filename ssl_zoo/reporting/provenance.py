"""How the runs were made, and what could not be read."""

from __future__ import annotations

from typing import Any

from ssl_zoo.comparison.cells import result_affecting_settings
from ssl_zoo.config.load import load_config
from ssl_zoo.config.schema import RunConfig
from ssl_zoo.reporting.inputs import Material, Member, Missing, Studio, attempt
from ssl_zoo.text import printable

MOST_SKIPPED = 30
"""So many of the files that could not be read are listed."""

Facts = dict[str, list[str]]
"""What is known of how a run was made: by name one or several lines."""


def section(material: Material) -> dict[str, Any]:
    """What all trained runs have in common, and what each has of its own, line by line."""
    trained = [m for m in material.members if m.kind == "trained" and m.run.config_file.is_file()]
    facts = [_facts(member) for member in trained]
    names = list(dict.fromkeys(name for its in facts for name in its))
    common: Facts = {}
    for name in names:
        first, *others = (its.get(name, []) for its in facts)
        if shared := [line for line in first if all(line in lines for lines in others)]:
            common[name] = shared
    rests = [
        {name: [x for x in lines if x not in common.get(name, [])] for name, lines in its.items()}
        for its in facts
    ]
    own = [name for name in names if any(rest.get(name) for rest in rests)]
    runs = [
        (member.name, member.row, [rest.get(name, []) for name in own])
        for member, rest in zip(trained, rests, strict=True)
    ]
    return {"common": common, "names": own, "runs": runs}


def _facts(member: Member) -> Facts:
    config = attempt(member.run.config)
    if isinstance(config, Missing):
        return {"settings": [config.reason]}
    provenance, results = config.provenance, _results(member)
    versions = provenance.get("versions")
    known = {
        "seed": config.train.seed,
        "settings": _unusual(config),
        "command": provenance.get("command"),
        "started": provenance.get("started"),
        "device": results.get("device", config.train.device),
        "precision": config.train.precision,
        "versions": [f"{name} {its}" for name, its in versions.items()]
        if isinstance(versions, dict)
        else versions,
        "python": provenance.get("python"),
        "git": provenance.get("git"),
    }
    return {
        name: [printable(line) for line in (value if isinstance(value, list) else [value])]
        for name, value in known.items()
        if value is not None
    }


def _results(member: Member) -> dict[str, Any]:
    results = attempt(member.run.results)
    return {} if isinstance(results, Missing) else results


def _unusual(config: RunConfig) -> list[str]:
    """The settings that decide a run's figures and are not the defaults of its task."""
    defaults = attempt(lambda: load_config(overrides={"task.name": config.task.name}))
    # An option without a default leaves none to compare with.
    usual = {} if isinstance(defaults, Missing) else result_affecting_settings(defaults)
    return [
        f"{path} = {'none' if value is None else value}"
        for path, value in result_affecting_settings(config).items()
        if path != "train.seed" and (path not in usual or value != usual[path])
    ]


def skipped(material: Material, studio: Studio | Missing) -> dict[str, Any]:
    """The files that could not be read, with the reasons, and how many there are."""
    files: dict[str, Any] = {}
    for member in material.members:
        given = _results(member).get("skipped")
        files |= given if isinstance(given, dict) else {}
    if isinstance(studio, Studio):
        files |= studio.data.train.skipped
    shown = [(printable(name), files[name]) for name in sorted(files)[:MOST_SKIPPED]]
    return {"files": shown, "count": len(files)}
