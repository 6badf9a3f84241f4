"""Samples as the networks see them: maps of features, nearest neighbours, and inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.data import DataSet, Split
from ssl_zoo.evaluation import Subject
from ssl_zoo.evaluation.features import sample_indices
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
    image_of,
    numbered_style,
    scatter_png,
)
from ssl_zoo.reporting.projection import MAX_COMPONENTS, METHODS, project
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Task
from ssl_zoo.text import printable
from ssl_zoo.tools import views as gallery

MAX_MAPPED = 1_000
"""The maximum number of samples of the test split in a map."""
MAX_BANK = 10_000
"""The maximum number of samples of the bank to search for neighbours."""
QUERIES, NEIGHBOURS = 6, 6
VIEWED = 6
"""The number of images whose views are drawn."""
TINY = 32
"""Images of at most this many pixels a side are enlarged without smoothing."""
THUMBNAIL_SIZE, VIEW_SIZE = 64, 96
"""The maximum side in pixels of a neighbour, and the maximum width of a view."""


@dataclass(frozen=True)
class SampleGrid:
    """The pictures of one row: the map, the neighbours and the views.

    Attributes:
        row: the name of the row.
        map: the map of the features, as the URI of an image.
        neighbours: indices in the bank [Q, k]; None if the samples cannot be shown.
        views: the inputs of the network, as the URI of an image; None without a task or images.
    """

    row: str
    map: str | Missing
    neighbours: Tensor | Missing | None
    views: str | Missing | None


@dataclass(frozen=True)
class Thumbnail:
    """A small picture of a sample.

    Attributes:
        uri: the picture as a data URI.
        label: the name of the class; None if unknown.
        correct: whether it is the class of the query.
    """

    uri: str
    label: str | None
    correct: bool = True


def section(inputs: ReportInputs, extractor: FeatureExtractor, method: str) -> dict[str, Any]:
    """Return the map, the neighbours and the views of each row.

    Args:
        inputs: the runs.
        extractor: computes their features.
        method: the method of projection.
    """
    data = extractor.data
    split = data.train if data.test is None else data.test
    mapped, bank = sample_indices(len(split), MAX_MAPPED), sample_indices(len(data.bank), MAX_BANK)
    images = isinstance(data.spec, ImageSpec)
    queries = None
    if images and data.test is not None:
        queries = choose_queries(data.test.labels, len(data.test), QUERIES)
    styles, legend = _class_styles(data, split, mapped)

    def make_grid(row: str, member: Member) -> SampleGrid:
        built = attempt(partial(extractor.subject, member))
        if isinstance(built, Missing):
            has_views = images and member.kind == "trained"
            return SampleGrid(
                row, built, None if queries is None else built, built if has_views else None
            )
        subject, task = built
        return SampleGrid(
            row,
            attempt(lambda: _map(subject, split, mapped, styles, method)),
            attempt(lambda: _neighbours(subject, data, bank, queries)) if queries is not None else None,
            attempt(lambda: _views(task, data, subject.seed)) if images and task is not None else None,
        )

    grids = [make_grid(row, representative(members)) for row, members in inputs.rows.items()]
    return {
        "maps": [
            Panel(g.row, g.map, g.row, f"Map of the features of {g.row}, a point for each sample")
            for g in grids
        ],
        "method": METHODS[method][0],
        "components": MAX_COMPONENTS,
        "mapped": len(mapped),
        "total": len(split),
        "split": "train" if data.test is None else "test",
        "legend": legend,
        "queries": [] if queries is None else _queries(data, queries, grids),
        "missing": [(g.row, g.neighbours) for g in grids if isinstance(g.neighbours, Missing)],
        "tiny": isinstance(data.spec, ImageSpec) and data.spec.size <= TINY,
        "neighbours": NEIGHBOURS,
        "bank": len(bank),
        "labelled": data.labelled,
        "viewed": VIEWED,
        "views": [
            Panel(g.row, g.views, g.row, f"Inputs of the network of {g.row}, an image in each row")
            for g in grids
            if g.views is not None
        ],
    }


def _features(subject: Subject, split: Split, indices: Tensor) -> Tensor:
    return subject.extract(split, indices).flatten(1).cpu()


def _map(subject: Subject, split: Split, indices: Tensor, styles: Sequence[Style], method: str) -> str:
    features = _features(subject, split, indices)
    return scatter_png(project(features.numpy(), method), styles)


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


def _neighbours(subject: Subject, data: DataSet, bank: Tensor, queries: Tensor) -> Tensor:
    """Return the indices [Q, k] in the bank of each query's neighbours."""
    assert data.test is not None
    query_features = _features(subject, data.test, queries)
    return bank[nearest(_features(subject, data.bank, bank), query_features, NEIGHBOURS)]


def _queries(data: DataSet, queries: Tensor, grids: Sequence[SampleGrid]) -> list[dict[str, Any]]:
    """Return for each query its thumbnail, and for each row those of its neighbours."""
    assert data.test is not None
    labels, bank_labels = data.test.labels, data.bank.labels
    rows = {g.row: g.neighbours for g in grids if isinstance(g.neighbours, Tensor)}
    needed = {index for neighbours in rows.values() for index in neighbours.flatten().tolist()}
    if not needed:
        return []
    uris = {index: _thumbnail_uri(data.bank, index) for index in sorted(needed)}

    def neighbour(index: int, query_label: int | None) -> Thumbnail:
        if bank_labels is None or query_label is None:
            return Thumbnail(uris[index], None)
        label = int(bank_labels[index])
        return Thumbnail(uris[index], _class_name(data, label), label == query_label)

    answers = []
    for i, query in enumerate(queries.tolist()):
        label = int(labels[query]) if labels is not None else None
        name = None if label is None else _class_name(data, label)
        answers.append(
            {
                "thumbnail": Thumbnail(_thumbnail_uri(data.test, query), name),
                "rows": [
                    (row, [neighbour(index, label) for index in neighbours[i].tolist()])
                    for row, neighbours in rows.items()
                ],
            }
        )
    return answers


def _thumbnail_uri(split: Split, index: int) -> str:
    (pixels,) = split.batch(torch.tensor([index]))
    image = image_of(pixels)
    image.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))  # never enlarges
    return data_uri(image)


def _views(task: Task, data: DataSet, seed: int) -> str:
    """Return the views of a few images, and their reconstructions, as the URI of an image."""
    assert isinstance(data.spec, ImageSpec)
    columns = gallery.columns(task.cpu(), data, VIEWED, seed, trained=True)
    shrunk = {caption: _shrink(images.float()) for caption, images in columns.items()}
    return data_uri(gallery.draw(shrunk, data.spec, VIEW_SIZE))


def _shrink(images: Tensor) -> Tensor:
    """Return images [B, C, h, w] with a width of at most `VIEW_SIZE`."""
    factor = VIEW_SIZE / images.shape[-1]
    if factor >= 1:
        return images
    return F.interpolate(images, scale_factor=factor, mode="bilinear", antialias=True)
