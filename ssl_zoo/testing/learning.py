"""What a task teaches its network: the loss, its gradients, and what comes of some steps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.config.schema import TrainConfig
from ssl_zoo.evaluation.health import rankme, spread
from ssl_zoo.task import Task
from ssl_zoo.testing.case import (
    Case,
    adam,
    backward,
    changed,
    compute,
    listed,
    require,
    same,
    snapshot,
    step,
)
from ssl_zoo.testing.suite import promise
from ssl_zoo.training.optimizer import parameter_groups


@promise
def loss_is_finite_in_fp32(case: Case) -> None:
    """The loss is a finite float32 scalar with a gradient; what is logged are scalars without."""
    _finite(case, autocast=False)


@promise
def loss_is_finite_in_bf16(case: Case) -> None:
    """The same where the network computes in bf16."""
    _finite(case, autocast=True)


def _finite(case: Case, autocast: bool) -> None:
    task = case.build()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = compute(task, case.views(task))
    total = losses.total
    require(total.shape == (), f"the loss must be a scalar, not {list(total.shape)}")
    dtype = str(total.dtype).removeprefix("torch.")
    require(total.dtype == torch.float32, f"the loss is {dtype}: compute it in float32 (full_precision)")
    require(bool(total.isfinite()), f"the loss is {total.item()}")
    require(total.requires_grad, "the loss has no gradient")
    for name, value in losses.logs.items():
        require(value.shape == (), f"what is logged as {name} must be a scalar, not {list(value.shape)}")
        require(bool(value.isfinite()), f"what is logged as {name} is {value.item()}")
        require(not value.requires_grad, f"what is logged as {name} keeps the gradient: detach it")
    total.backward()
    bad = [n for n, p in task.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    require(not bad, f"gradients that are not finite: {listed(bad)}")


@promise
def loss_changes_nothing_that_it_reads(case: Case) -> None:
    """The same views twice have the same loss: queues and teachers move after a step alone."""
    task = case.build()
    views = case.views(task)
    kept = [v.clone() for v in views]
    first, second = (compute(task, views).total.item() for _ in range(2))
    require(
        abs(first - second) <= 1e-6 * max(1.0, abs(first)),
        f"the loss of the same views is {first:.6f}, then {second:.6f}: what it reads (a queue, a "
        "teacher, a centre) must move in after_step, and what is random be drawn in views",
    )
    untouched = all(torch.equal(a, b) for a, b in zip(kept, views, strict=True))
    require(untouched, "loss changes the views that it is given")


@promise
def every_parameter_is_trained(case: Case) -> None:
    """Every trainable parameter gets a gradient, and is in one group of the optimiser."""
    task = case.build()
    optimizer = torch.optim.SGD([p for p in task.parameters() if p.requires_grad], lr=1e-2)
    trained = {name for name, p in task.named_parameters() if p.requires_grad}
    require(bool(trained), "nothing is trained")
    strange = _leaves(compute(task, case.views(task)).total) - {id(p) for p in task.parameters()}
    require(
        not strange,
        f"the loss trains what is no parameter of the task, {len(strange)} tensors: a head that is kept "
        "in a list or a dict? Use nn.ModuleList or nn.ModuleDict",
    )
    reached: set[str] = set()
    for seed in range(3):  # what stands behind a factor of 0 is reached after a step
        backward(task, case.views(task, seed=seed))
        for name, p in task.named_parameters():
            if p.grad is not None and (p.grad.abs().sum() > 0 or _shifts(name)):
                reached.add(name)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        task.after_step(seed / 3)
    missed = sorted(trained - reached)
    require(
        not missed,
        f"no gradient reaches {listed(missed)}: use them in the loss, or freeze a teacher "
        "(ssl_zoo.nn.frozen_copy)",
    )
    require(any(p.requires_grad for p in task.encoder.parameters()), "the encoder itself is not trained")
    groups = parameter_groups(task, TrainConfig())
    numbers = [id(p) for group in groups for p in group["params"]]
    wanted = [id(p) for p in task.parameters() if p.requires_grad]
    once = sorted(numbers) == sorted(wanted)
    require(once, "a parameter is in no group of the optimiser, or in several: is one registered twice?")


def _leaves(loss: Tensor) -> set[int]:
    """The ids of the tensors that a loss would give a gradient to."""
    found, seen, left = set(), set(), [loss.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [before for before, _ in node.next_functions]
            if hasattr(node, "variable"):
                found.add(id(node.variable))
    return found


def _shifts(name: str) -> bool:
    """Whether it is a bias, which a normalisation after it may make meaningless."""
    return name.endswith("bias")


@promise
def teachers_move_after_a_step_alone(case: Case) -> str | None:
    """Frozen parameters get no gradient and move in after_step; trained ones do not move there."""
    task = case.build()
    frozen = {name for name, p in task.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.SGD([p for p in task.parameters() if p.requires_grad], lr=0.1)
    trained = {name: p.clone() for name, p in task.named_parameters() if p.requires_grad}
    copies = {
        name
        for name, p in task.named_parameters()
        if name in frozen and p.ndim > 1 and any(same(p, other) for other in trained.values())
    }
    moved: set[str] = set()
    for seed in range(2):
        before = snapshot(task)
        backward(task, case.views(task, seed=seed))
        given = [n for n, p in task.named_parameters() if n in frozen and p.grad is not None]
        require(not given, f"frozen parameters get a gradient: {listed(given)}")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        early = sorted(frozen.intersection(changed(before, snapshot(task))))
        require(not early, f"moves before after_step: {listed(early)}")
        before = snapshot(task)
        task.after_step(0.5)
        moved |= set(changed(before, snapshot(task)))
    astray = sorted(moved.intersection(trained))
    require(
        not astray,
        f"after_step moves what is trained: {listed(astray)}; is it a teacher that was never frozen "
        "(ssl_zoo.nn.frozen_copy)?",
    )
    # Constants may stay, and vectors: the bias before a normalisation does in the student too.
    still = sorted(copies - moved)
    require(
        not still,
        f"a frozen copy of what is trained never moves: {listed(still)}; move it in after_step",
    )
    return f"{len(frozen)} frozen parameters" if frozen else None


@promise
def small_batch_overfits(case: Case) -> str:
    """The loss of a few samples in the same views falls clearly in thirty steps.

    Teachers and queues are held still meanwhile: a queue that fills with keys of these very samples
    would have the positive among the negatives.
    """
    task = case.build()
    views = case.views(task)
    optimizer = adam(task)
    losses = []
    for _ in range(30):
        losses.append(backward(task, views).total.item())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    start, end = losses[0], min(losses[-5:])
    require(
        start - end > 0.1 * max(abs(start), 0.1),
        f"the loss of the same 8 samples only goes from {start:.4f} to {end:.4f} in 30 steps",
    )
    return f"from {start:.3f} to {end:.3f}"


@promise
def representations_do_not_collapse(case: Case) -> str:
    """After some steps in ever new views different samples still have different features."""
    task = case.build()
    raw = case.setting.batch(32)
    x = task.spec.prepare(raw)
    spread_before, _ = _health(task, x)
    optimizer = adam(task)
    for i in range(80):
        step(task, optimizer, case.views(task, 16, seed=i), (i + 1) / 80)
    spread_now, rank = _health(task, x)
    told = f"spread {spread_now:.3f} of 1, effective rank {rank:.1f} of {len(x)} samples"
    # Some backbones' features are close to each other from the beginning.
    healthy = spread_now > min(0.1, spread_before / 2) and rank > 2
    require(healthy, f"the features have collapsed after 80 steps: {told}")
    return told


@torch.no_grad()
def _health(task: Task, x: Tensor) -> tuple[float, float]:
    """How far features are spread, and the effective rank of their differences."""
    task.eval()
    features = task.features(x).float()
    task.train()
    unit = F.normalize(features, dim=1)
    return spread(features), rankme(unit - unit.mean(0))
