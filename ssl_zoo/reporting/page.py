"""The page: its parts in order, each made of what there is, or saying why there is nothing."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ssl_zoo.comparison.render import environment, template_values
from ssl_zoo.reporting import (
    cost,
    curves,
)
from ssl_zoo.reporting import (
    projection as embedding,
)
from ssl_zoo.reporting import (
    provenance as made,
)
from ssl_zoo.reporting import (
    samples as sights,
)
from ssl_zoo.reporting.inputs import Material, Missing, Studio, attempt, gather
from ssl_zoo.reporting.pictures import Look, looks
from ssl_zoo.runtime.files import check_output_file, write_atomic
from ssl_zoo.text import printable


def report(folder: str | Path, to: str | Path | None = None, *, map: str = "auto") -> Path:
    """Write a page about a comparison, or about one run, which needs no other file and no network.

    It has the table, curves, accuracy against cost, a map of the features, nearest neighbours, what the
    networks see, and how all was made. A part that cannot be made says why.

    Args:
        folder: of a comparison, whether or not it has ended, or of a run.
        to: the file to write; None for ``report.html`` in the folder. One that is there is replaced.
        map: how features are laid out in two dimensions: ``pca``, ``tsne``, ``umap`` (if installed),
            or ``auto`` for UMAP where it is installed, else t-SNE.

    Returns:
        The file.

    Raises:
        UserError: `folder` is neither, `to` cannot be written, or there is no such map.
        SslZooError: writing fails.
    """
    folder = Path(folder)
    method = embedding.choose(map)
    material = gather(folder)
    file = folder / "report.html" if to is None else Path(to)
    check_output_file("-o", file, {".html": ()})
    text = environment().get_template("report.html").render(**_page(material, method))
    write_atomic(file, text.encode("utf-8", "backslashreplace"))
    return file


def _page(material: Material, method: str) -> dict[str, Any]:
    """What the template takes."""
    table, its_looks = material.table, _looks(material)
    studio: Studio | Missing = (
        material.config
        if isinstance(material.config, Missing)
        else attempt(partial(Studio, material.config))
    )
    return {
        "title": printable(material.title),
        "summary": material.summary,
        "folder": printable(material.folder),
        "now": datetime.now().astimezone().isoformat(" ", "minutes"),
        "version": version("ssl-zoo"),
        "looks": its_looks,
        "table": table if isinstance(table, Missing) else template_values(table),
        "curves": curves.section(material, its_looks),
        "cost": attempt(partial(cost.section, material, its_looks)),
        "sights": studio
        if isinstance(studio, Missing)
        else attempt(partial(sights.section, material, studio, method)),
        "made": made.section(material),
        "lacking": [
            (member.name, member.lacking)
            for member in material.members
            if member.lacking is not None and len(material.members) > 1
        ],
        "skipped": made.skipped(material, studio),
    }


def _looks(material: Material) -> dict[str, Look]:
    """The look of each row of the page."""
    tasks, baselines = [], {}
    for row, members in material.rows.items():
        if members[0].baseline:
            baselines[row] = members[0].kind == "trained"
        else:
            tasks.append(row)
    if not isinstance(material.table, Missing):
        for its in material.table.rows:
            if its.name not in tasks:
                baselines.setdefault(its.name, False)
    return looks(sorted(tasks), baselines)
