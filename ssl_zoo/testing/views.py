"""Checks of the views that a task makes of raw data."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor

from ssl_zoo.errors import Unsuitable, UserError
from ssl_zoo.plugins.validation import PLUGIN_ERRORS
from ssl_zoo.testing.case import Case, CheckFailed, compute, require, same
from ssl_zoo.text import error_line, locate_error
from ssl_zoo.views import Rng


def check_views_are_tensors_of_steady_shape(case: Case) -> None:
    """Check that views are tensors whose shapes depend only on the number of samples."""
    task = case.build()
    batch = case.data.batch(6)
    untouched = batch.clone()
    views = task.views(batch, Rng(0))
    require(same(batch, untouched), "views changes the batch that it is given")
    require(isinstance(views, tuple) and bool(views), "views must return a tuple of tensors")
    for i, view in enumerate(views, 1):
        require(isinstance(view, Tensor), f"view {i} is no tensor, but {type(view).__name__}")
        require(not view.requires_grad, f"view {i} requires a gradient")
        finite = not view.is_floating_point() or bool(view.isfinite().all())
        require(finite, f"view {i} has values that are not finite")
    for n, seed in ((6, 1), (6, 2), (4, 0), (2, 0)):
        others = task.views(case.data.batch(n, seed), Rng(seed))
        require(len(others) == len(views), f"{len(views)} views at one time, {len(others)} at another")
        for i, (view, other) in enumerate(zip(views, others, strict=True), 1):
            # The first dimension counts samples, or views of them, or is the same for all batches.
            of_n = [len(view) * n // 6, len(view)] if view.ndim else []
            fits = view.dtype == other.dtype and view.shape[1:] == other.shape[1:]
            fits = fits and (not view.ndim or len(other) in of_n)
            shown = f"{_shown(view)} of 6 samples, {_shown(other)} of {n}"
            require(fits, f"view {i} has no steady shape: {shown}")


def _shown(view: Tensor) -> str:
    return f"{str(view.dtype).removeprefix('torch.')} {list(view.shape)}"


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
    batch = one.expand(8, *one.shape[1:]).contiguous()
    views = task.views(batch, Rng(0))
    again = task.views(batch, Rng(1))
    other_seed = any(not same(a, b) for a, b in zip(views, again, strict=True))
    require(other_seed, "another seed gives the same views")
    rows = [v for v in views if v.ndim and len(v) % 8 == 0]
    differ = any(not torch.equal(v[0], v[i]) for v in rows for i in range(1, min(8, len(v))))
    require(differ, "all samples of a batch are changed in the same way: draw parameters for each")


def check_views_take_any_image(case: Case) -> str:
    """Check that images of any height, width and number of channels are accepted.

    A task may refuse images of neither one nor three channels with `Unsuitable`.
    """
    refused = 0
    for data in case.all_data:
        try:
            try:
                task = case.build(data)
            except Unsuitable:
                if getattr(data.spec, "channels", None) in (1, 3):
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


def check_pictures_are_images(case: Case) -> None:
    """Check that the columns of `ssl-zoo views` and of the report are images, one of each sample."""
    task = case.build().eval()
    views = case.views(task, 3)
    with torch.no_grad():
        columns = {**task.gallery(views), **task.reconstructions(views)}
    require(bool(columns), "gallery gives no column, so there is nothing to look at")
    for caption, column in columns.items():
        good = column.ndim == 4 and len(column) == 3 and column.shape[1] == task.spec.channels
        require(good, f"column {caption!r} must be [B, C, h, w], not {_shown(column)}")
        require(column.is_floating_point(), f"column {caption!r} must be normalised, not {column.dtype}")


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
