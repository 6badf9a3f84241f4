"""What a task keeps from step to step, and what it must not."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor

from ssl_zoo.plugins.validation import PLUGIN_ERRORS
from ssl_zoo.task import Task
from ssl_zoo.testing.case import (
    Case,
    CheckFailed,
    Snapshot,
    changed,
    compute,
    listed,
    require,
    same,
    snapshot,
    step,
)
from ssl_zoo.testing.suite import promise
from ssl_zoo.text import locate_error
from ssl_zoo.training import Trainer


@promise
def features_are_pure(case: Case) -> None:
    """Features are [B, D], the same each time, each sample's own, and computing them changes nothing."""
    task = case.build()
    step(task, torch.optim.SGD(_trained(task), lr=0.01), case.views(task), 0.1)
    task.eval()
    x = task.spec.prepare(case.setting.batch(6))
    before, modes, generator = snapshot(task), _modes(task), torch.get_rng_state()
    with torch.no_grad():
        features, again = task.features(x), task.features(x)
        alone = task.features(x[:2])
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


def _trained(task: Task) -> list[torch.nn.Parameter]:
    return [p for p in task.parameters() if p.requires_grad]


def _modes(task: Task) -> list[bool]:
    return [module.training for module in task.modules()]


@promise
def resumed_training_is_the_same(case: Case) -> None:
    """Saved, read back into a new task and gone on with, the next step is the same to the bit."""
    kept = case.trainer(labels=_labels(case))
    batches = _steps(kept)
    for _ in range(2):
        kept.train_step(next(batches))
    buffer = io.BytesIO()
    torch.save(kept.state_dict(), buffer)
    buffer.seek(0)
    new = case.trainer(seed=1, labels=_labels(case))
    new.config = kept.config
    try:
        new.load_state_dict(torch.load(buffer, weights_only=True))
    except Exception as error:
        line = " ".join(str(error).split())[:300]
        raise CheckFailed(f"its state cannot be read back: {line}") from error
    lost = changed(snapshot(kept.task), snapshot(new.task))
    require(not lost, f"not restored from the state dict: {listed(lost)}")
    following = next(batches)
    a, b = (t.train_step(following).total.item() for t in (kept, new))
    require(
        a == b,
        f"the next step's loss is {a:.6f}, but {b:.6f} once resumed: what the loss or after_step reads "
        "must be a buffer or a parameter",
    )
    differing = changed(snapshot(kept.task), snapshot(new.task))
    require(not differing, f"another state after the first resumed step: {listed(differing)}")


def _steps(trainer: Trainer) -> Any:
    while True:
        yield from trainer.epoch_batches()


def _labels(case: Case) -> torch.Tensor | None:
    return torch.arange(32) % 2 if case.cls.needs_labels else None


@promise
def batches_of_any_size_follow_each_other(case: Case) -> str | None:
    """Batches whose size divides nothing work, and a queue takes all of each, also where it wraps."""
    task = case.build()
    rows = max((len(b) for n, b in _kept(task).items()), default=1)
    n = max(7, min(211, rows // 5 | 1))
    optimizer = torch.optim.SGD(_trained(task), lr=1e-3)
    moved: dict[str, list[Tensor]] = {}
    steps = min(80, rows // n + 3)
    for i in range(steps):
        with _told(f"batch {i + 1} of {n} samples"):
            compute(task, case.views(task, n, seed=i)).total.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            before = _kept(task)
            task.after_step(i / steps)
        for name, value in _kept(task).items():
            if name in before and before[name].shape == value.shape:
                moved.setdefault(name, []).append((value != before[name]).flatten(1).any(1))
    for name, rows_moved in moved.items():
        counts = [int(rows.sum()) for rows in rows_moved]
        usual = sorted(counts)[len(counts) // 2]
        # What moves rows here and there, as clusters do, is no queue.
        if usual and usual % n == 0 and all(map(_is_run, rows_moved)):
            short = next((i for i, count in enumerate(counts) if count < usual), None)
            require(
                short is None,
                f"{name}: a step usually replaces {usual} rows, but step {(short or 0) + 1} only "
                f"{counts[short or 0]}: does the queue wrap around?",
            )
    for size in (2, n + 3, 5):
        with _told(f"a batch of {size}"):
            total = step(task, optimizer, case.views(task, size, seed=size), 1.0)
        require(total == total and abs(total) != float("inf"), f"a batch of {size}: the loss is {total}")
    return f"{steps} steps of {n} samples" if moved else None


@contextmanager
def _told(batch: str) -> Iterator[None]:
    """Within, what goes wrong is told with the batch that it went wrong at."""
    try:
        yield
    except PLUGIN_ERRORS as error:
        raise CheckFailed(
            f"{batch}: {locate_error(error)}; a queue must wrap around, whatever the batch size"
        ) from error


def _is_run(rows: Tensor) -> bool:
    """Whether the true ones of a ring of flags [N] stand side by side."""
    return int((rows != rows.roll(1)).sum()) <= 2


def _kept(task: Task) -> Snapshot:
    """Buffers with rows, such as queues."""
    return {n: b.clone() for n, b in task.named_buffers() if b.ndim > 1}


class _Trap:
    """Labels that may not be looked at; what was done to them is noted in `touched`."""

    def __init__(self, touched: list[str]) -> None:
        object.__setattr__(self, "_touched", touched)

    def __getattribute__(self, name: str) -> Any:
        _spring(self, f"labels.{name}")

    def __getitem__(self, index: Any) -> Any:
        _spring(self, "labels[...]")

    def __len__(self) -> int:
        _spring(self, "len(labels)")

    def __iter__(self) -> Any:
        _spring(self, "iter(labels)")


def _spring(trap: _Trap, how: str) -> NoReturn:
    object.__getattribute__(trap, "_touched").append(how)
    raise CheckFailed(f"the labels were touched ({how})")


@promise
def labels_are_never_touched(case: Case) -> str | None:
    """The zoo's trainer makes its steps without anybody looking at labels."""
    if case.cls.needs_labels:
        return "a baseline, which says that it needs labels"
    touched: list[str] = []
    trainer = case.trainer(labels=_Trap(touched))
    batches = _steps(trainer)
    for _ in range(2):
        trainer.train_step(next(batches))
    require(not touched, f"the labels were touched ({listed(touched, 1)})")  # and the error swallowed
    return None
