"""Checks of what a source says of its samples: spec, labels, names, sizes, options."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

from ssl_zoo import tree
from ssl_zoo.data import Split
from ssl_zoo.plugins.specs import spec_class
from ssl_zoo.spec import Spec
from ssl_zoo.testing.check import CheckFailed, CheckSkipped, require, same
from ssl_zoo.testing.definition import require_refuses_nonsense
from ssl_zoo.testing.source_case import SourceCase, some, splits_of
from ssl_zoo.testing.views import shown
from ssl_zoo.tree import Tree

MAX_COMPARED_BYTES = 2**28
"""The memory of the samples of a split that are compared with those of another one."""


def check_can_be_opened(case: SourceCase) -> str:
    """Check that the source can be opened, and gives the same data when it is opened again."""
    first, again = case.opened, case.open()
    require(first.spec == again.spec, "its spec is another one when it is opened again")
    for (name, a), b in zip(splits_of(first).items(), splits_of(again).values(), strict=True):
        require(len(a) == len(b), f"the {name} split has {len(a)} samples, then {len(b)}")
        indices = some(a, 6)
        alike = same(a.batch(indices), b.batch(indices)) and _same_labels(a.labels, b.labels)
        require(alike, f"the {name} split has other samples when it is opened again")
    return ", ".join(f"{name} {len(split):,}" for name, split in splits_of(first).items())


def _same_labels(a: Tensor | None, b: Tensor | None) -> bool:
    return same(a, b) if a is not None and b is not None else a is b


def check_options_refuse_nonsense(case: SourceCase) -> None:
    """Check that options refuse unknown names and meaningless values."""
    require_refuses_nonsense(case.choose().Options, case.config.options)


def check_spec_is_registered(case: SourceCase) -> None:
    """Check that the spec is of the class registered for its modality, and is the same once saved."""
    spec, declared = case.data.spec, case.modality
    require(
        spec.modality == declared,
        f"the source is registered for {declared} data, and has {spec.modality} data",
    )
    known = spec_class(spec.modality)
    if known is None:
        hint = "implement ssl_zoo_register_specs"
        raise CheckFailed(f"no plugin registers a spec for {spec.modality} data: {hint}")
    kind = type(spec).__name__
    require(type(spec) is known, f"the spec is a {kind}, and {known.__name__} is registered")
    again = known.from_header(spec.to_header())
    require(
        again == replace(spec, samples=None),
        f"the spec is {again} once saved and read: its fields must be plain values",
    )


def check_samples_can_be_prepared(case: SourceCase) -> None:
    """Check that the spec prepares samples, and varies them: finite, a row each, the batch untouched."""
    spec, batch = case.data.spec, case.batch(6)
    untouched = tree.map_leaves(Tensor.clone, batch)
    ways = {"prepare": spec.prepare(batch), "vary": spec.vary(batch, torch.Generator().manual_seed(0))}
    if spec.raw_name is not None:
        ways["raw"] = spec.raw(batch)
    for name, x in ways.items():
        for leaf in tree.leaves(x):
            require(leaf.ndim > 0 and len(leaf) == 6, f"{name} of 6 samples gives {shown(x)}")
            finite = not leaf.is_floating_point() or bool(leaf.isfinite().all())
            require(finite, f"{name} gives values that are not finite")
    require(same(batch, untouched), "prepare, vary or raw changes the batch that it is given")
    alike = _form(ways["vary"]) == _form(ways["prepare"])
    require(alike, f"vary gives {shown(ways['vary'])}, and prepare {shown(ways['prepare'])}")


def check_example_is_like_samples(case: SourceCase) -> None:
    """Check that `example` of the spec has the form of prepared samples."""
    spec = case.data.spec
    for n in (1, 3):
        example, x = spec.example(n), case.prepared(n)
        # Places may be more or fewer where samples are padded to the longest of a batch.
        fixed = spec.pad(x, 1) is None
        alike = _form(example, fixed) == _form(x, fixed)
        require(alike, f"example({n}) is {shown(example)}, and prepared samples are {shown(x)}")


def _form(batch: Tree, shapes: bool = False) -> list[object]:
    """Return the types and numbers of axes, or the shapes, of a batch's tensors."""
    return [(leaf.dtype, leaf.shape if shapes else leaf.ndim) for leaf in tree.leaves(batch)]


def check_samples_can_be_shown(case: SourceCase) -> None:
    """Check that `show` of the spec gives a picture or a text of each sample."""
    spec = case.data.spec
    if type(spec).show is Spec.show:
        raise CheckSkipped("its spec has no `show`")
    drawn = spec.show(case.prepared(3))
    each = len(drawn) == 3 and all(isinstance(one, str | Image.Image) for one in drawn)
    require(each, "show must give a picture or a text of each of 3 samples")


def check_labels_are_classes(case: SourceCase) -> str:
    """Check that labels are int64 on the CPU, one for each sample, below the spec's `classes`."""
    classes, names = case.data.spec.classes, case.data.classes
    labelled = {name: split.labels for name, split in case.splits.items() if split.labels is not None}
    if not labelled:
        require(classes is None, f"the spec has {classes} classes, and no split has labels")
        raise CheckSkipped("it has no labels")
    if classes is None:
        raise CheckFailed("there are labels, and the spec has no `classes`: give their number")
    for name, labels in labelled.items():
        kind = f"{labels.dtype} {list(labels.shape)} on {labels.device}".removeprefix("torch.")
        n = len(case.splits[name])
        right = labels.dtype == torch.int64 and labels.shape == (n,) and labels.device.type == "cpu"
        require(right, f"labels of the {name} split must be int64 [{n}] on the CPU, not {kind}")
        low, high = int(labels.min()), int(labels.max())
        require(
            low >= 0 and high < classes,
            f"labels of the {name} split go from {low} to {high}, and the spec has {classes} classes",
        )
    number = classes if names is None else len(names)
    require(number >= classes, f"there are {classes} classes, and names of {number}")
    return f"{classes} classes"


def check_names_are_as_many(case: SourceCase) -> str | None:
    """Check that there is a name for each sample, and a group, if there are names and groups."""
    found = [
        (kind, name, values)
        for kind in ("name", "group")
        for name, split in case.splits.items()
        if (values := getattr(split, f"{kind}s")) is not None
    ]
    for kind, name, values in found:
        n = len(case.splits[name])
        require(len(values) == n, f"the {name} split has {n} samples, and {kind}s of {len(values)}")
        require(isinstance(values[0], str), f"a {kind} in the {name} split is {values[0]!r}, no text")
    return None if found else "samples have no names"


def check_sizes_are_right(case: SourceCase) -> None:
    """Check that `nbytes` of a split is about the size of its samples in memory."""
    for name, split in case.splits.items():
        n = min(16, len(split))
        measured = tree.nbytes(split.batch(some(split, n))) / n * len(split)
        told = split.nbytes
        require(
            measured / 2 <= told <= 2 * measured,
            f"nbytes of the {name} split is {told:,}, and its samples take about {measured:,.0f} bytes",
        )


def check_test_split_is_apart(case: SourceCase) -> str:
    """Check that no sample of the test split is an exact copy of one in the train split."""
    train, test = case.data.train, case.data.test
    if test is None:
        raise CheckSkipped("it has no test split")
    known, looked_at = set(_digests(train, 20_000).values()), _digests(test, 1000)
    copies = [i for i, digest in looked_at.items() if digest in known]
    require(
        not copies,
        f"{len(copies)} of {len(looked_at)} samples of the test split are in the train split too, such "
        f"as number {copies[:1]}: keep exact copies on one side",
    )
    return f"{len(looked_at):,} samples of the test split compared"


def _digests(split: Split, limit: int) -> dict[int, bytes]:
    """Return digests of the contents of at most `limit` samples, by index."""
    size = max(1, split.nbytes // len(split))
    indices = split.spread(max(1, min(limit, MAX_COMPARED_BYTES // size)))
    digests: list[bytes] = []
    for batch in split.stream(indices, 64):
        parts = [leaf.cpu().contiguous() for leaf in tree.leaves(batch)]
        digests += [_digest([part[row] for part in parts]) for row in range(len(parts[0]))]
    return dict(zip(indices.tolist(), digests, strict=True))


def _digest(sample: list[Tensor]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for leaf in sample:
        digest.update(leaf.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.digest()
