"""Commands that messages give as a way out; each can be copied into a shell."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from ssl_zoo.config.hints import set_option
from ssl_zoo.config.weights import NETWORK
from ssl_zoo.plugins.registry import registry
from ssl_zoo.runs.run import Run


def new_run_hint(
    run: Run, changed: Iterable[str] = (), settings: Mapping[str, Any] | None = None
) -> str:
    """Return the advice to start a new run with a run's settings, with the whole command.

    The new run starts from the run's weights if there are any and they fit the changed settings.

    Args:
        run: the run, whose file has the other settings.
        changed: the dotted paths of settings that the new run has otherwise.
        settings: those of them that are not in the run's file, by dotted path.
    """
    paths, options = {*changed, *(settings or {})}, dict(settings or {})
    start: list[str] = []
    if run.backbone_file.is_file() and not any(path.startswith("backbone.") for path in paths):
        start = ["--from", str(run.path)]
    elif (
        paths & {f"backbone.{name}" for name in NETWORK}
        and "backbone.weights" not in paths
        and run.config().backbone.weights is not None
    ):
        options["backbone.weights"] = None
    command = ["ssl-zoo", *registry.arguments(), "train", *start, "--config", str(run.config_file)]
    sets = [set_option(path, json.dumps(value, default=str)) for path, value in options.items()]
    source = "from its weights" if start else "with these settings"
    return f"start a new run {source}: {' '.join([shlex.join(command), *sets])}"
