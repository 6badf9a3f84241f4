"""The page: each section in order, or the reason why it cannot be shown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ssl_zoo.advice.api import read_verdict
from ssl_zoo.comparison.render import environment, scripting, template_values
from ssl_zoo.comparison.table import Row
from ssl_zoo.plugins.families import OTHER_FAMILY
from ssl_zoo.reporting import cost, curves, label_curve, projection, provenance, samples
from ssl_zoo.reporting.inputs import FeatureExtractor, Missing, ReportInputs, attempt, read_folder
from ssl_zoo.reporting.pictures import Style, row_styles
from ssl_zoo.runtime.defaults import torch_defaults
from ssl_zoo.runtime.files import check_output_file, write_atomic
from ssl_zoo.text import printable

MAX_PICTURED = 5
"""The number of rows whose pictures are shown without a click, where there are many rows."""


@torch_defaults()
def report(folder: str | Path, to: str | Path | None = None, *, map: str = "auto") -> Path:
    """Write a self-contained HTML page about a comparison or one run.

    It has the table, curves, accuracy against cost, a map of the features, nearest neighbours, the
    inputs of the networks, and how the runs were made. A section that cannot be made gives the reason.

    Args:
        folder: the folder of a comparison, finished or not, or of a run.
        to: the file to write or replace; None for ``report.html`` in the folder.
        map: how to project features to two dimensions: ``pca``, ``tsne``, ``umap`` (if installed),
            ``auto`` for UMAP if it is installed, else t-SNE; or ``none`` for a page without features,
            which needs neither the data nor the networks.

    Returns:
        The file.

    Raises:
        UserError: `folder` is neither, `to` cannot be written, or there is no such map.
        SslZooError: writing fails.
    """
    folder = Path(folder)
    method = projection.choose_method(map)
    inputs = read_folder(folder)
    file = folder / "report.html" if to is None else Path(to)
    check_output_file("-o", file, {".html": ()})
    template = environment("ssl_zoo.reporting").get_template("report.html")
    write_atomic(file, template.render(**_sections(inputs, method)).encode("utf-8", "backslashreplace"))
    return file


def _sections(inputs: ReportInputs, method: str) -> dict[str, Any]:
    """Return the values that the template needs."""
    table, styles, config = inputs.table, _styles(inputs), inputs.config
    many = not isinstance(table, Missing) and table.is_long
    pictured = pictured_rows(inputs)
    extractor: FeatureExtractor | Missing
    if isinstance(config, Missing):
        extractor = config
    elif method == projection.NONE:
        extractor = Missing("features are left out (--map none)")
    else:
        extractor = attempt(partial(FeatureExtractor, config, inputs.modality))
    return {
        "title": printable(inputs.title),
        "summary": inputs.summary,
        "folder": printable(inputs.folder),
        "now": datetime.now().astimezone().isoformat(" ", "minutes"),
        "version": version("ssl-zoo"),
        "styles": styles,
        "table": table if isinstance(table, Missing) else template_values(table),
        "families": _families(inputs, styles),
        "many": many,
        **scripting(many),
        "curves": curves.section(inputs, styles, pictured),
        "verdict": attempt(partial(read_verdict, inputs.folder)),
        "labels": attempt(partial(label_curve.section, inputs, styles)),
        "cost": attempt(partial(cost.section, inputs, styles)),
        "samples": extractor
        if isinstance(extractor, Missing)
        else attempt(partial(samples.section, inputs, extractor, method, pictured)),
        "provenance": provenance.section(inputs),
        "incomplete": [
            (member.name, member.incomplete)
            for member in inputs.members
            if member.incomplete is not None and len(inputs.members) > 1
        ],
        "skipped": provenance.skipped(inputs, extractor),
    }


def pictured_rows(inputs: ReportInputs) -> list[str]:
    """Return the rows whose pictures are shown without a click: all, or few of different families.

    Of the rows of a long table they are the best trained one of each family, by the first
    column in which one is better than another, then the next best, `MAX_PICTURED` in all.
    """
    if isinstance(inputs.table, Missing) or not inputs.table.is_long:
        return list(inputs.rows)
    column = next((column for column in inputs.table.columns if column.better is not None), None)

    def rank(row: Row) -> float:
        estimate = None if column is None else row.figures[column.name].estimate
        if column is None or estimate is None:
            return math.inf
        return estimate.mean if column.better == "lower" else -estimate.mean

    trained = {member.row for member in inputs.members if member.kind == "trained"}
    rows = sorted((row for row in inputs.table.rows if row.name in trained), key=rank)
    best: dict[str, Row] = {}
    for row in rows:
        best.setdefault(row.family, row)
    chosen = [*best.values(), *(row for row in rows if row not in best.values())]
    return [row.name for row in chosen[:MAX_PICTURED]]


def _families(inputs: ReportInputs, styles: Mapping[str, Style]) -> list[tuple[str, Style]]:
    """Return the style of each family whose rows share one."""
    families = _shared_styles(inputs)
    return sorted({family: styles[row] for row, family in families.items() if row in styles}.items())


def _shared_styles(inputs: ReportInputs) -> dict[str, str]:
    """Return the family of each task in a table that is grouped by family."""
    if isinstance(inputs.table, Missing) or not inputs.table.is_long:
        return {}
    rows = inputs.table.rows
    return {row.name: row.family or OTHER_FAMILY for row in rows if not row.baseline}


def _styles(inputs: ReportInputs) -> dict[str, Style]:
    """Return the style of each row on the page."""
    tasks, baselines = [], {}
    for row, members in inputs.rows.items():
        if members[0].baseline:
            baselines[row] = members[0].kind == "trained"
        else:
            tasks.append(row)
    if not isinstance(inputs.table, Missing):
        for table_row in inputs.table.rows:
            if table_row.name not in tasks:
                baselines.setdefault(table_row.name, False)
    return row_styles(sorted(tasks), baselines, _shared_styles(inputs))
