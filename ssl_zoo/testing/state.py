"""Checks of the state that a task carries from step to step."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor

from ssl_zoo import tree
from ssl_zoo.plugins.validation import PLUGIN_ERRORS
from ssl_zoo.task import Encoder, Task
from ssl_zoo.testing.case import Case, Snapshot, changed, compute, snapshot, step
from ssl_zoo.testing.check import CheckFailed, CheckSkipped, listed, require, same
from ssl_zoo.text import locate_error

PADDING = 16
"""The number of places of padding that are added to see whether features change."""


def check_features_are_pure(case: Case) -> None:
    """Check that features are [B, D], repeatable, independent of the batch, and change no state."""
    task = case.build()
    step(task, torch.optim.SGD(_trained(task), lr=0.01), case.views(task), 0.1)
    task.eval()
    x = task.spec.prepare(case.data.batch(6))
    before, modes, generator = snapshot(task), _modes(task), torch.get_rng_state()
    with torch.no_grad():
        features, again = task.features(x), task.features(x)
        alone = task.features(tree.rows(x, slice(2)))
    shape = list(features.shape)
    require(
        features.ndim == 2 and len(features) == 6, f"features of 6 samples must be [6, D], not {shape}"
    )
    require(bool(features.isfinite().all()), "features are not finite")
    require(same(features, again), "features of the same samples differ from call to call")
    moved = changed(before, snapshot(task))
    require(not moved, f"features changes {listed(moved)}; it must change no state")
    require(_modes(task) == modes, "features switches parts of the task between training and evaluation")
    drawn = not torch.equal(torch.get_rng_state(), generator)
    require(not drawn, "features draws random numbers")
    close = torch.allclose(features[:2].float(), alone.float(), rtol=1e-3, atol=1e-4)
    require(close, "features of a sample depend on the other samples of the batch")
    apart = not torch.allclose(features[0].float(), features[1].float(), rtol=1e-4, atol=1e-6)
    require(apart, "two different samples have the same features")


def check_features_ignore_padding(case: Case) -> str | None:
    """Check that features of a sample do not depend on what it is padded beside."""
    task = case.build().eval()
    x = task.spec.prepare(case.data.batch(6))
    padded = task.spec.pad(x, PADDING)
    if padded is None:
        raise CheckSkipped("samples are not padded, as its spec has no `pad`")
    with torch.no_grad():
        features, again = task.features(x).float(), task.features(padded).float()
    worst = float((features - again).abs().max() / features.abs().max().clamp(min=1e-6))
    require(
        worst < 1e-4,
        f"features change by {worst:.1%} with {PADDING} more places of padding: mask them where places "
        "meet, as in pooling, normalisation and attention",
    )
    return f"off by {worst:.1g}"


def _trained(task: Task) -> list[torch.nn.Parameter]:
    return [p for p in task.parameters() if p.requires_grad]


def _modes(task: Task) -> list[bool]:
    return [module.training for module in task.modules()]


def check_resumed_training_is_the_same(case: Case) -> None:
    """Check that a run that is saved and resumed makes the same next step, to the bit."""
    original = case.trainer()
    batches = original.endless_batches()
    for _ in range(2):
        original.train_step(next(batches))
    buffer = io.BytesIO()
    torch.save(original.state_dict(), buffer)
    buffer.seek(0)
    resumed = case.trainer(seed=1)
    resumed.config = original.config
    try:
        resumed.load_state_dict(torch.load(buffer, weights_only=True))
    except Exception as error:
        line = " ".join(str(error).split())[:300]
        raise CheckFailed(f"its state cannot be read back: {line}") from error
    missing = changed(snapshot(original.task), snapshot(resumed.task))
    require(not missing, f"not restored from the state dict: {listed(missing)}")
    following = next(batches)
    a, b = (t.train_step(following).total.item() for t in (original, resumed))
    require(
        a == b,
        f"the next step's loss is {a:.6f}, but {b:.6f} once resumed: all state of the loss and "
        "after_step must be a buffer or a parameter",
    )
    differing = changed(snapshot(original.task), snapshot(resumed.task))
    require(not differing, f"another state after the first resumed step: {listed(differing)}")


def check_batches_of_any_size_follow_each_other(case: Case) -> str | None:
    """Check that batches of odd sizes work, and that a queue takes in all of each as it wraps around."""
    task = case.build()
    rows = max((len(b) for b in _row_buffers(task).values()), default=1)
    n = max(7, min(211, rows // 5 | 1))
    optimizer = torch.optim.SGD(_trained(task), lr=1e-3)
    replaced: dict[str, list[Tensor]] = {}
    steps = min(80, rows // n + 3)
    i = 0
    while i < steps:
        counters = _counters(task)
        with _name_batch(f"batch {i + 1} of {n} samples"):
            compute(task, case.views(task, n, seed=i, progress=i / steps)).total.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            before = _row_buffers(task)
            task.after_step((i + 1) / steps)
        for name, value in _row_buffers(task).items():
            if name in before and before[name].shape == value.shape:
                replaced.setdefault(name, []).append((value != before[name]).flatten(1).any(1))
        i += 1
        if i == 2 and steps > 20 and _skip_ahead(task, counters, n, rows):
            steps = 7
    for name, flags in replaced.items():
        counts = [int(rows.sum()) for rows in flags]
        usual = sorted(counts)[len(counts) // 2]
        # A buffer whose rows move here and there, such as cluster centres, is not a queue.
        if usual and usual % n == 0 and all(map(_is_run, flags)):
            short = next((i for i, count in enumerate(counts) if count < usual), None)
            require(
                short is None,
                f"{name}: a step usually replaces {usual} rows, but step {(short or 0) + 1} only "
                f"{counts[short or 0]}: does the queue wrap around?",
            )
    for size in (2, n + 3, 5):
        with _name_batch(f"a batch of {size}"):
            total = step(task, optimizer, case.views(task, size, seed=size, progress=0.9), 1.0)
        require(total == total and abs(total) != float("inf"), f"a batch of {size}: the loss is {total}")
    return f"{steps} steps of {n} samples" if replaced else None


@contextmanager
def _name_batch(batch: str) -> Iterator[None]:
    """Raise the task's errors as `CheckFailed` with the batch that caused them."""
    try:
        yield
    except PLUGIN_ERRORS as error:
        raise CheckFailed(
            f"{batch}: {locate_error(error)}; a queue must wrap around, whatever the batch size"
        ) from error


def _is_run(rows: Tensor) -> bool:
    """Return whether the true flags of a ring [N] stand side by side."""
    return int((rows != rows.roll(1)).sum()) <= 2


def _row_buffers(task: Task) -> Snapshot:
    """Return copies of the buffers with rows, such as queues."""
    return {name: b.clone() for name, b in task.named_buffers() if b.ndim > 1}


def _counters(task: Task) -> Snapshot:
    """Return copies of the buffers that hold one integer, such as the place in a queue."""
    return {
        name: b.clone()
        for name, b in task.named_buffers()
        if b.numel() == 1 and not b.is_floating_point() and b.dtype != torch.bool
    }


def _skip_ahead(task: Task, before: Snapshot, n: int, rows: int) -> bool:
    """Move the place in a long queue to just before its end; return whether there is one.

    Filling the queue would take many steps, and only those at its end matter.

    Args:
        task: the task after a step.
        before: its counters before that step.
        n: the size of the step's batch.
        rows: the length of the queue.
    """
    places = [
        b for name, b in task.named_buffers() if name in before and bool((b - before[name] == n).all())
    ]
    for place in places:
        place.fill_(rows - 2 * n + n // 2)
    return bool(places)


class ForbiddenLabels:
    """Labels that raise on any access, and record it.

    Args:
        accesses: the list that each access is added to.
    """

    def __init__(self, accesses: list[str]) -> None:
        object.__setattr__(self, "_accesses", accesses)

    def __getattribute__(self, name: str) -> Any:
        _forbid(self, f"labels.{name}")

    def __getitem__(self, index: Any) -> Any:
        _forbid(self, "labels[...]")

    def __len__(self) -> int:
        _forbid(self, "len(labels)")

    def __iter__(self) -> Any:
        _forbid(self, "iter(labels)")


def _forbid(labels: ForbiddenLabels, access: str) -> NoReturn:
    object.__getattribute__(labels, "_accesses").append(access)
    raise CheckFailed(f"the labels were touched ({access})")


def check_labels_are_never_touched(case: Case) -> str | None:
    """Check that the trainer makes its steps without any access to labels."""
    if "labels" in case.cls.needs:
        return "a baseline, which says that it needs labels"
    accesses: list[str] = []
    trainer = case.trainer(labels=ForbiddenLabels(accesses))
    batches = trainer.endless_batches()
    for _ in range(2):
        trainer.train_step(next(batches))
    # The task may have swallowed the error.
    require(not accesses, f"the labels were touched ({listed(accesses, 1)})")
    return None


def check_progress_is_told(case: Case) -> None:
    """Check that the task knows the progress of each step that the trainer makes."""
    trainer = case.trainer()
    batches = trainer.endless_batches()
    for _ in range(3):
        progress = trainer.progress
        trainer.train_step(next(batches))
        known = trainer.task.progress
        require(
            known == progress,
            f"`progress` is {known} in a step at {progress}: begin before_step with "
            "super().before_step(progress)",
        )


def check_exported_encoder_is_evaluated(case: Case) -> None:
    """Check that features come from the exported encoder, which is saved with the task."""
    task = case.build().eval()
    exported = task.exported_encoder
    require(
        isinstance(exported, Encoder), f"exported_encoder is no Encoder, but {type(exported).__name__}"
    )
    saved = {id(value) for value in task.state_dict(keep_vars=True).values()}
    require(
        saved.issuperset(map(id, exported.parameters())),
        "exported_encoder is not saved with the task: assign it, or a module around it, in __init__",
    )
    own = set(exported.parameters())
    others = [p for p in task.encoder.parameters() if p not in own]
    x = task.spec.prepare(case.data.batch(6))
    with torch.no_grad():
        before = task.features(x)
        _disturb(others)
        alone = not others or same(before, task.features(x))
        _disturb(own)
        moved = not same(before, task.features(x))
    require(alone, "features depend on `encoder`, but another is exported: use exported_encoder")
    require(moved, "features do not depend on exported_encoder, whose weights are saved: use it")


def _disturb(parameters: Iterable[Tensor]) -> None:
    for parameter in parameters:
        parameter.mul_(1.1).add_(0.01)


def check_indices_are_right(case: Case) -> str | None:
    """Check that a task that needs the index of samples gets it, and copes with all of an epoch."""
    if "index" not in case.cls.needs:
        return "it needs no indices"
    trainer = case.trainer()
    split, samples = trainer.data.train, trainer.task.spec.samples
    for batches in trainer.epoch_batches():
        for batch in batches:
            index = batch.needed[case.cls.needs.index("index")]
            own = index.dtype == torch.int64 and index.tolist() == batch.numbers.tolist()
            require(own and all(i < samples for i in index.tolist()), f"the index of a batch is {index}")
            drawn = zip(tree.leaves(split.batch(index)), tree.leaves(batch.raw), strict=True)
            require(all(same(a, b) for a, b in drawn), "the index of a batch is that of other samples")
        try:
            trainer.train_step(batches)
        except PLUGIN_ERRORS as error:
            raise CheckFailed(
                f"samples {listed([str(i) for i in index.tolist()], 8)} of {samples}: "
                f"{locate_error(error)}; a memory of samples needs spec.samples rows"
            ) from error
    return None
