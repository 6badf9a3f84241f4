"""What the networks make of samples: maps, neighbours, and what tasks feed them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.data import DataSet, Split
from ssl_zoo.evaluation import Subject, evaluating, extract
from ssl_zoo.evaluation.features import sample_indices
from ssl_zoo.reporting import pictures
from ssl_zoo.reporting import projection as embedding
from ssl_zoo.reporting.inputs import Material, Member, Missing, Studio, attempt, representative
from ssl_zoo.reporting.neighbours import choose_queries, nearest
from ssl_zoo.reporting.pictures import DISTINCT, OTHER, Look, Panel, data_uri, image_of
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Task
from ssl_zoo.text import printable
from ssl_zoo.tools import views as gallery

MAPPED = 1_000
"""At most so many samples of the test split are drawn in a map."""
BANK = 10_000
"""At most so many samples of the bank are searched for neighbours."""
QUERIES, NEIGHBOURS = 6, 6
PICTURED = 6
"""So many images are drawn as a task sees them."""
TINY = 32
"""Images of at most so many pixels a side are enlarged without smoothing."""
THUMB, CELL = 64, 96
"""The most pixels of a side of a neighbour, and of an image as a task sees it."""


@dataclass(frozen=True)
class Sight:
    """What one row makes of the samples.

    Attributes:
        row: its name.
        map: the samples' places, as an image.
        near: the neighbours' numbers in the bank [Q, k]; None where there are none to be looked for.
        views: what its task feeds the network, as an image; None where it has no task.
    """

    row: str
    map: str | Missing
    near: Tensor | Missing | None
    views: str | Missing | None


@dataclass(frozen=True)
class Thumb:
    """A small picture of a sample.

    Attributes:
        source: its address.
        label: the name of its class; None where it is not known.
        right: whether that is the query's class.
    """

    source: str
    label: str | None
    right: bool = True


def section(material: Material, studio: Studio, method: str) -> dict[str, Any]:
    """The map, the neighbours and the views of each row.

    Args:
        material: the runs.
        studio: where they are represented.
        method: how maps are laid out.
    """
    data = studio.data
    split = data.train if data.test is None else data.test
    mapped, bank = sample_indices(len(split), MAPPED), sample_indices(len(data.bank), BANK)
    images = isinstance(data.spec, ImageSpec)
    queries = None
    if images and data.test is not None:
        queries = choose_queries(data.test.labels, len(data.test), QUERIES)
    kinds, legend = _kinds(data, split, mapped)

    def see(row: str, member: Member) -> Sight:
        built = attempt(partial(studio.subject, member))
        if isinstance(built, Missing):
            shown = images and member.kind == "trained"
            return Sight(row, built, None if queries is None else built, built if shown else None)
        subject, task = built
        return Sight(
            row,
            attempt(lambda: _map(subject, split, mapped, kinds, method)),
            attempt(lambda: _near(subject, data, bank, queries)) if queries is not None else None,
            attempt(lambda: _views(task, data, subject.seed)) if images and task is not None else None,
        )

    seen = [see(row, representative(members)) for row, members in material.rows.items()]
    return {
        "maps": [
            Panel(s.row, s.map, s.row, f"Map of the features of {s.row}, a point for each sample")
            for s in seen
        ],
        "method": embedding.METHODS[method][0],
        "kept": embedding.KEPT,
        "mapped": len(mapped),
        "total": len(split),
        "split": "train" if data.test is None else "test",
        "legend": legend,
        "queries": [] if queries is None else _queries(data, queries, seen),
        "unseen": [(s.row, s.near) for s in seen if isinstance(s.near, Missing)],
        "tiny": isinstance(data.spec, ImageSpec) and data.spec.size <= TINY,
        "neighbours": NEIGHBOURS,
        "bank": len(bank),
        "labelled": data.labelled,
        "pictured": PICTURED,
        "views": [
            Panel(s.row, s.views, s.row, f"What {s.row} feeds its network, an image in each row")
            for s in seen
            if s.views is not None
        ],
    }


def _features(subject: Subject, split: Split, numbers: Tensor) -> Tensor:
    with evaluating(subject.module):
        return extract(subject.represent, split, subject.device.device, numbers).flatten(1).cpu()


def _map(subject: Subject, split: Split, numbers: Tensor, kinds: Sequence[Look], method: str) -> str:
    features = _features(subject, split, numbers)
    return pictures.scatter_png(embedding.layout(features.numpy(), method), kinds)


def _kinds(data: DataSet, split: Split, numbers: Tensor) -> tuple[list[Look], list[tuple[str, Look]]]:
    """Of each sample its look by its class, and the legend; without labels all look the same."""
    if split.labels is None:
        return [pictures.look(0)] * len(numbers), []
    labels = split.labels[numbers]
    present, counts = labels.unique(return_counts=True)
    shown = present[counts.argsort(descending=True, stable=True)[:DISTINCT]].sort().values.tolist()
    looks = {label: pictures.look(number) for number, label in enumerate(shown)}
    legend = [(_class(data, label), its) for label, its in looks.items()]
    if len(present) > DISTINCT:
        legend.append((f"{len(present) - DISTINCT} other classes", OTHER))
    return [looks.get(label, OTHER) for label in labels.tolist()], legend


def _class(data: DataSet, number: int) -> str:
    """The name of a class, or its number where it has none."""
    names = data.classes or ()
    return printable(names[number]) if number < len(names) else str(number)


def _near(subject: Subject, data: DataSet, bank: Tensor, queries: Tensor) -> Tensor:
    """The numbers in the bank of each query's neighbours."""
    assert data.test is not None
    asked = _features(subject, data.test, queries)
    return bank[nearest(_features(subject, data.bank, bank), asked, NEIGHBOURS)]


def _queries(data: DataSet, queries: Tensor, seen: Sequence[Sight]) -> list[dict[str, Any]]:
    """For each query its picture, and for each row the pictures of its neighbours."""
    assert data.test is not None
    labels, bank_labels = data.test.labels, data.bank.labels
    needed = {n for s in seen if isinstance(s.near, Tensor) for n in s.near.flatten().tolist()}
    if not needed:
        return []
    sources = {n: _source(data.bank, n) for n in sorted(needed)}

    def neighbour(number: int, label: int | None) -> Thumb:
        if bank_labels is None or label is None:
            return Thumb(sources[number], None)
        its = int(bank_labels[number])
        return Thumb(sources[number], _class(data, its), its == label)

    shown = []
    for i, query in enumerate(queries.tolist()):
        label = int(labels[query]) if labels is not None else None
        thumb = Thumb(_source(data.test, query), None if label is None else _class(data, label))
        rows = [
            (s.row, [neighbour(n, label) for n in s.near[i].tolist()])
            for s in seen
            if isinstance(s.near, Tensor)
        ]
        shown.append({"thumb": thumb, "rows": rows})
    return shown


def _source(split: Split, number: int) -> str:
    """The address of a small picture of a sample."""
    (pixels,) = split.batch(torch.tensor([number]))
    image = image_of(pixels)
    image.thumbnail((THUMB, THUMB))  # which never enlarges
    return data_uri(image)


def _views(task: Task, data: DataSet, seed: int) -> str:
    """What a task feeds its network, as the address of an image."""
    assert isinstance(data.spec, ImageSpec)
    columns = gallery.columns(task.cpu(), data, PICTURED, seed, trained=True)
    shrunk = {caption: _shrunk(images.float()) for caption, images in columns.items()}
    return data_uri(gallery.draw(shrunk, data.spec, CELL))


def _shrunk(images: Tensor) -> Tensor:
    """Images [B, C, h, w] of at most `CELL` pixels in width."""
    factor = CELL / images.shape[-1]
    if factor >= 1:
        return images
    return F.interpolate(images, scale_factor=factor, mode="bilinear", antialias=True)
