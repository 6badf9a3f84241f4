"""Samples as the networks see them: maps of features, nearest neighbours, and inputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate
from shlex import quote
from typing import Any

import torch
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from ssl_zoo.data import DataSet, Split
from ssl_zoo.evaluation import Subject
from ssl_zoo.notices import Notice
from ssl_zoo.reporting.inputs import (
    FeatureExtractor,
    Member,
    Missing,
    ReportInputs,
    attempt,
    representative,
)
from ssl_zoo.reporting.neighbours import choose_queries, nearest
from ssl_zoo.reporting.pictures import (
    DISTINCT_STYLES,
    OTHER,
    Panel,
    Style,
    data_uri,
    numbered_style,
    scatter_png,
    shorten,
)
from ssl_zoo.reporting.projection import MAX_COMPONENTS, METHODS, project
from ssl_zoo.task import Task
from ssl_zoo.text import printable
from ssl_zoo.tools import views as gallery

MAX_MAPPED = 1_000
"""The maximum number of samples of the test split in a map."""
MAX_BANK = 10_000
"""The maximum number of samples of the bank to search for neighbours."""
QUERIES, NEIGHBOURS = 6, 6
VIEWED = 6
"""The number of samples whose views are shown."""
TINY = 32
"""Pictures of at most this many pixels a side are enlarged without smoothing."""
THUMBNAIL_SIZE, VIEW_SIZE = 64, 96
"""The maximum side in pixels of a neighbour, and the maximum width of a view."""
MAX_BYTES = 3_400_000
"""Pictures a click away that would take all pictures over this are left out; a page of forty rows has
about 1.5 MB of other content, and stays under 5 MB."""
_MARKUP_BYTES = 250
"""The approximate size of the markup around a neighbour, in bytes."""
TEXT_LENGTH = 200
"""The maximum number of characters that are shown of a text."""

_LEFT_OUT = Notice(
    "pictures-left-out",
    "A report of many rows has no pictures of the last ones where they would take it over 5 MB.",
    "make a report of one run: `ssl-zoo report RUN`",
)


@dataclass(frozen=True)
class SampleGrid:
    """The samples of one row: the map, the neighbours and the views.

    Attributes:
        row: the name of the row.
        map: the map of the features, as the URI of an image.
        neighbours: indices in the bank [Q, k]; None if the samples cannot be shown.
        views: the inputs of the network, as the URI of an image or as HTML; None without a task, or if
            the samples cannot be shown.
        folded: whether its pictures are shown only on a click, and are smaller.
    """

    row: str
    map: str | Missing
    neighbours: Tensor | Missing | None
    views: str | Markup | Missing | None
    folded: bool = False


@dataclass(frozen=True)
class Thumbnail:
    """A small picture of a sample, or its text.

    Attributes:
        uri: the picture as a data URI; None for a text.
        text: the text; "" for a picture.
        label: the name of the class; None if unknown.
        correct: whether it is the class of the query.
    """

    uri: str | None
    text: str
    label: str | None
    correct: bool = True


def section(
    inputs: ReportInputs,
    extractor: FeatureExtractor,
    method: str,
    pictured: Collection[str] | None = None,
) -> dict[str, Any]:
    """Return the map, the neighbours and the views of each row.

    Args:
        inputs: the runs.
        extractor: computes their features.
        method: the method of projection.
        pictured: the rows whose pictures are shown without a click; None for all.
    """
    data = extractor.data
    split = data.train if data.test is None else data.test
    mapped, bank = split.sample(MAX_MAPPED), data.bank.sample(MAX_BANK)
    unshown = attempt(lambda: _show(data, split, torch.tensor([0])))
    shown = not isinstance(unshown, Missing)
    queries = None
    if shown:
        queries = choose_queries(split.labels, len(split), QUERIES)
    styles, legend = _class_styles(data, split, mapped)

    def make_grid(row: str, member: Member) -> SampleGrid:
        folded = pictured is not None and row not in pictured
        built = attempt(partial(extractor.subject, member))
        if isinstance(built, Missing):
            has_views = shown and member.kind == "trained"
            return SampleGrid(
                row, built, None if queries is None else built, built if has_views else None, folded
            )
        subject, task = built
        return SampleGrid(
            row,
            attempt(lambda: _map(subject, split, mapped, styles, method, folded)),
            attempt(lambda: _neighbours(subject, split, bank, queries)) if queries is not None else None,
            attempt(lambda: _views(task, data, subject.seed, folded))
            if shown and task is not None
            else None,
            folded,
        )

    grids = [make_grid(row, representative(members)) for row, members in inputs.rows.items()]
    answers = [] if queries is None else _queries(data, split, queries, grids)
    if left_out := _too_large(grids, answers):
        _LEFT_OUT(
            f"the page has no pictures of {len(left_out)} of {len(grids)} rows, as it would exceed "
            f"5 MB: {', '.join(left_out)}; make a report of a run: "
            f"ssl-zoo report {quote(str(representative(inputs.rows[left_out[0]]).run.path))}"
        )
        reason = Missing("it would take the page over 5 MB; make a report of its run")
        grids = [SampleGrid(g.row, reason, None, None, True) if g.row in left_out else g for g in grids]
        answers = [
            {**answer, "rows": [part for part in answer["rows"] if part[0] not in left_out]}
            for answer in answers
        ]
    return {
        "maps": [
            Panel(
                g.row, g.map, g.row, f"Map of the features of {g.row}, a point for each sample", g.folded
            )
            for g in grids
        ],
        "method": METHODS[method][0],
        "components": MAX_COMPONENTS,
        "mapped": len(mapped),
        "total": len(split),
        "split": "train" if data.test is None else "test",
        "legend": legend,
        "queries": answers,
        "missing": [(g.row, g.neighbours) for g in grids if isinstance(g.neighbours, Missing)],
        "noun": data.spec.noun,
        "unshown": None if shown else unshown,
        "neighbours": NEIGHBOURS,
        "bank": len(bank),
        "labelled": data.labelled,
        "viewed": VIEWED,
        "views": [
            Panel(
                g.row,
                g.views,
                g.row,
                "" if isinstance(g.views, Markup) else f"Inputs of {g.row}",
                g.folded,
            )
            for g in grids
            if g.views is not None
        ],
    }


def _too_large(grids: Sequence[SampleGrid], answers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the folded rows whose pictures, after those of the rows before, exceed `MAX_BYTES`."""
    sizes = {g.row: sum(len(p) for p in (g.map, g.views) if isinstance(p, str)) for g in grids}
    for answer in answers:
        for row, thumbnails, _ in answer["rows"]:
            sizes[row] += sum(_MARKUP_BYTES + len(t.uri or t.text) for t in thumbnails)
    ordered = sorted(grids, key=lambda g: g.folded)
    totals = accumulate(sizes[g.row] for g in ordered)
    return [g.row for g, total in zip(ordered, totals, strict=True) if g.folded and total > MAX_BYTES]


def _features(subject: Subject, split: Split, indices: Tensor) -> Tensor:
    return subject.extract(split, indices).flatten(1).cpu()


def _map(
    subject: Subject,
    split: Split,
    indices: Tensor,
    styles: Sequence[Style],
    method: str,
    folded: bool,
) -> str:
    features = _features(subject, split, indices)
    return scatter_png(project(features.numpy(), method), styles, 90 if folded else 180)


def _class_styles(
    data: DataSet, split: Split, indices: Tensor
) -> tuple[list[Style], list[tuple[str, Style]]]:
    """Return the style of each sample by its class, and the legend; one style without labels."""
    if split.labels is None:
        return [numbered_style(0)] * len(indices), []
    labels = split.labels[indices]
    present, counts = labels.unique(return_counts=True)
    frequent = present[counts.argsort(descending=True, stable=True)[:DISTINCT_STYLES]]
    styles = {label: numbered_style(i) for i, label in enumerate(frequent.sort().values.tolist())}
    legend = [(_class_name(data, label), style) for label, style in styles.items()]
    if len(present) > DISTINCT_STYLES:
        legend.append((f"{len(present) - DISTINCT_STYLES} other classes", OTHER))
    return [styles.get(label, OTHER) for label in labels.tolist()], legend


def _class_name(data: DataSet, label: int) -> str:
    """Return the name of a class, or its number if it has no name."""
    names = data.classes or ()
    return printable(names[label]) if label < len(names) else str(label)


def _neighbours(subject: Subject, split: Split, bank: Tensor, queries: Tensor) -> Tensor:
    """Return the indices [Q, k] in the bank of each query's neighbours, without the query itself."""
    query_features, whole = _features(subject, split, queries), subject.data.bank
    found = bank[nearest(_features(subject, whole, bank), query_features, NEIGHBOURS + 1)]
    if split is whole:
        itself = (found == queries[:, None]).int()
        found = found.gather(1, itself.argsort(dim=1, stable=True))
    return found[:, :NEIGHBOURS]


def _queries(
    data: DataSet, split: Split, queries: Tensor, grids: Sequence[SampleGrid]
) -> list[dict[str, Any]]:
    """Return for each query of a split its thumbnail, and for each row those of its neighbours."""
    labels, bank_labels = split.labels, data.bank.labels
    rows = [(g, g.neighbours) for g in grids if isinstance(g.neighbours, Tensor)]
    needed = {index for _, neighbours in rows for index in neighbours.flatten().tolist()}
    if not needed:
        return []
    indices = torch.tensor(sorted(needed))
    cells = dict(zip(indices.tolist(), _show(data, data.bank, indices), strict=True))
    tiny = all(isinstance(cell, Image.Image) and max(cell.size) <= TINY for cell in cells.values())

    @cache
    def neighbour(index: int, query_label: int | None, folded: bool) -> Thumbnail:
        size = THUMBNAIL_SIZE // 2 if folded else THUMBNAIL_SIZE
        if bank_labels is None or query_label is None:
            return _thumbnail(cells[index], size=size)
        label = int(bank_labels[index])
        return _thumbnail(cells[index], _class_name(data, label), label == query_label, size)

    answers = []
    asked = _show(data, split, queries)
    for i, (query, cell) in enumerate(zip(queries.tolist(), asked, strict=True)):
        label = int(labels[query]) if labels is not None else None
        name = None if label is None else _class_name(data, label)
        answers.append(
            {
                "thumbnail": _thumbnail(cell, name),
                "tiny": tiny,
                "rows": [
                    (
                        grid.row,
                        [neighbour(index, label, grid.folded) for index in neighbours[i].tolist()],
                        grid.folded,
                    )
                    for grid, neighbours in rows
                ],
            }
        )
    return answers


def _show(data: DataSet, split: Split, indices: Tensor) -> Sequence[Image.Image | str]:
    """Return a picture or a text of each sample of a split with these indices [N]."""
    return data.spec.show(data.spec.prepare(split.batch(indices)))


def _thumbnail(
    cell: Image.Image | str,
    label: str | None = None,
    correct: bool = True,
    size: int = THUMBNAIL_SIZE,
) -> Thumbnail:
    if isinstance(cell, str):
        return Thumbnail(None, shorten(cell, TEXT_LENGTH), label, correct)
    image = cell.copy()
    image.thumbnail((size, size))  # never enlarges
    return Thumbnail(data_uri(image, size < THUMBNAIL_SIZE), "", label, correct)


def _views(task: Task, data: DataSet, seed: int, folded: bool) -> str | Markup:
    """Return the views of a few samples, and reconstructions, as the URI of an image or as HTML."""
    columns = gallery.columns(task.cpu(), data, VIEWED, seed, trained=True)
    if gallery.as_text(columns) is None:
        size = VIEW_SIZE // 2 if folded else VIEW_SIZE
        return data_uri(gallery.draw(columns, size, size), folded)
    rows = range(max(map(len, columns.values())))
    line = Markup("<dt>{}</dt><dd>{}</dd>")
    samples = [
        Markup().join(
            line.format(caption, shorten(str(column[row]), TEXT_LENGTH))
            for caption, column in columns.items()
            if row < len(column)
        )
        for row in rows
    ]
    return Markup().join(Markup('<dl class="facts">{}</dl>').format(sample) for sample in samples)
