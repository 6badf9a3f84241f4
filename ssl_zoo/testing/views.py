"""Checks of the views that a task makes of raw data."""

from __future__ import annotations

import statistics
import time

import torch
from PIL import Image
from torch import Tensor

from ssl_zoo import tree
from ssl_zoo.errors import Unsuitable, UserError
from ssl_zoo.plugins.validation import PLUGIN_ERRORS
from ssl_zoo.spec import ImageSpec, Spec
from ssl_zoo.testing.case import Case, compute
from ssl_zoo.testing.check import CheckFailed, CheckSkipped, require, same
from ssl_zoo.text import error_line, locate_error
from ssl_zoo.tree import Tree
from ssl_zoo.views import Rng


def check_views_are_batches(case: Case) -> None:
    """Check that views are tensors, or batches, whose number of rows follows from that of samples.

    Further axes may vary, as with padding or crops of random size.
    """
    task = case.build()
    batch = case.data.batch(6)
    untouched = tree.map_leaves(Tensor.clone, batch)
    views = task.views(batch, Rng(0))
    require(same(batch, untouched), "views changes the batch that it is given")
    require(isinstance(views, tuple) and bool(views), "views must return a tuple of tensors")
    for i, view in enumerate(views, 1):
        for leaf in tree.leaves(view):
            require(isinstance(leaf, Tensor), f"view {i} is no tensor, but {type(leaf).__name__}")
            require(not leaf.requires_grad, f"view {i} requires a gradient")
            finite = not leaf.is_floating_point() or bool(leaf.isfinite().all())
            require(finite, f"view {i} has values that are not finite")
    for n, seed in ((6, 1), (6, 2), (4, 0), (2, 0)):
        others = task.views(case.data.batch(n, seed), Rng(seed))
        require(len(others) == len(views), f"{len(views)} views at one time, {len(others)} at another")
        for i, (view, other) in enumerate(zip(views, others, strict=True), 1):
            leaves = zip(tree.leaves(view), tree.leaves(other), strict=True)
            forms = f"{shown(view)} of 6 samples, {shown(other)} of {n}"
            require(all(_fits(a, b, n) for a, b in leaves), f"view {i} has no steady form: {forms}")


def _fits(view: Tensor, other: Tensor, n: int) -> bool:
    """Return whether a view of n samples has the form of a view of 6.

    The first axis counts samples, or views of them, or is the same for all batches.
    """
    of_n = [len(view) * n // 6, len(view)] if view.ndim else []
    alike = view.dtype == other.dtype and view.ndim == other.ndim
    return alike and (not view.ndim or len(other) in of_n)


def shown(view: Tree) -> str:
    """Return the types and shapes of a batch's tensors, for messages."""
    return ", ".join(f"{str(v.dtype).removeprefix('torch.')} {list(v.shape)}" for v in tree.leaves(view))


def check_views_obey_the_seed(case: Case) -> None:
    """Check that the same seed gives the same views, without torch's global generator."""
    task = case.build()
    batch = case.data.batch(6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = task.views(batch, Rng(5))
        moved = not torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        second = task.views(batch, Rng(5))
    for i, (a, b) in enumerate(zip(first, second, strict=True), 1):
        require(same(a, b), f"view {i} is another one each time: draw all that is random from `rng`")
    require(not moved, "views draws from torch's global generator: draw all that is random from `rng`")


def check_views_vary(case: Case) -> None:
    """Check that another seed gives other views, and so does a copy of a sample in the same batch."""
    task = case.build()
    one = case.data.batch(1)
    batch = tree.repeat_rows(one, 8)
    views = task.views(batch, Rng(0))
    again = task.views(batch, Rng(1))
    other_seed = any(not same(a, b) for a, b in zip(views, again, strict=True))
    require(other_seed, "another seed gives the same views")
    rows = [v for view in views for v in tree.leaves(view) if v.ndim and len(v) % 8 == 0]
    differ = any(not torch.equal(v[0], v[i]) for v in rows for i in range(1, min(8, len(v))))
    require(differ, "all samples of a batch are changed in the same way: draw parameters for each")


def check_views_take_any_image(case: Case) -> str:
    """Check that images of any height, width and number of channels are accepted.

    A task may refuse images of other than three channels with `Unsuitable`, as one that learns colours.
    """
    spec = case.build().spec
    if not isinstance(spec, ImageSpec):
        raise CheckSkipped(f"it takes {spec.modality} data, no images")
    refused = 0
    for data in case.all_data:
        try:
            try:
                task = case.build(data)
            except Unsuitable:
                if getattr(data.spec, "channels", None) == 3:
                    raise
                refused += 1
                continue
            views = case.views(task, 5, data=data)
            total = compute(task, views).total
        except PLUGIN_ERRORS as error:
            message = error_line(error) if isinstance(error, UserError) else locate_error(error)
            raise CheckFailed(f"{data}: {message}") from error
        require(bool(total.isfinite()), f"{data}: the loss is {total.item()}")
    return f"{len(case.all_data) - refused} kinds" + (f", {refused} refused" if refused else "")


def check_views_can_be_shown(case: Case) -> None:
    """Check that `ssl-zoo views` and reports can show what the task makes of each sample."""
    task = case.build().eval()
    if type(task.spec).show is Spec.show:
        raise CheckSkipped("its spec has no `show`")
    views = case.views(task, 3)
    with torch.no_grad():
        columns = {**task.gallery(views), **task.reconstructions(views)}
    require(bool(columns), "gallery gives no column, so there is nothing to look at")
    for caption, column in columns.items():
        if not isinstance(column, list):
            example = task.spec.example(3)
            wanted, other = shown(example), not isinstance(column, type(example) | Tensor)
            message = f"column {caption!r} must be a prepared batch, {wanted}, not {shown(column)}"
            # Of another type it is no slip: the spec shows such batches too, or fails below.
            require(other or _could_be_prepared(column, example), message)
            column = task.spec.show(column)
        drawn = len(column) == 3 and all(isinstance(one, str | Image.Image) for one in column)
        require(drawn, f"column {caption!r} must have a picture or a text of each sample")
    with torch.no_grad():
        z = task.compared(task.spec.example(3))
    if z is not None:
        rows = z.ndim == 2 and len(z) == 3
        require(rows, f"compared must return embeddings [B, E], not {shown(z)} of 3 samples")


def _could_be_prepared(column: Tree, example: Tree) -> bool:
    """Return whether a column has the number of rows, the axes and the kind of numbers of an example."""
    leaves, wanted = list(tree.leaves(column)), list(tree.leaves(example))
    return len(leaves) == len(wanted) and all(
        len(a) == len(b) and a.ndim == b.ndim and a.is_floating_point() == b.is_floating_point()
        for a, b in zip(leaves, wanted, strict=True)
    )


def check_throughput(case: Case) -> str:
    """Check that views of 256 samples can be made; the throughput is reported, not judged."""
    task, data = case.build(), case.data
    n = 256
    batch = data.batch(n)
    task.views(batch, Rng(0))
    times = []
    for seed in range(5):
        start = time.perf_counter()
        task.views(batch, Rng(seed))
        times.append(time.perf_counter() - start)
    return f"views of {n / statistics.median(times):,.0f} samples/s ({data})"
