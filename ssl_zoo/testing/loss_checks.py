"""Checks of a loss function: gradient, precision, determinism, and two processes."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from ssl_zoo.testing.check import listed, require
from ssl_zoo.testing.loss_case import SIZES, LossCase
from ssl_zoo.testing.processes import in_two_processes

_ELEMENTS = 64
"""The number of elements of an input that are moved for finite differences."""
_MIN_SCALE = 0.1
"""The least value that a difference of losses is related to: losses may be near 0."""


def check_can_be_called(case: LossCase) -> str:
    """Check that the loss returns a scalar with a gradient for embeddings of a batch."""
    form = case.found
    value = case.value(case.build(), case.tensors()).item()
    guessed = "" if case.inputs else ", which were guessed; give others by --inputs"
    sizes = ", ".join(f"{name} {size}" for name, size in SIZES.items())
    return f"{value:.4f} for inputs ({form}), {sizes}{guessed}"


def check_gradient_is_that_of_finite_differences(case: LossCase) -> str:
    """Check that the gradient of each input that has one is that of small changes, in float64."""
    tensors = case.tensors()
    value, gradients = case.gradients(case.build(), tensors)
    # A loss that computes in float32 whatever it is given changes by noise over a small step.
    step, limit = (1e-6, 1e-4) if value.dtype == torch.float64 else (1e-2, 1e-2)
    targets, found = [], []
    for x, described in zip(tensors, case.described, strict=True):
        gradient, gradients = gradients[: x.numel()], gradients[x.numel() :]
        if not gradient.any():
            targets.append(described.label)
            continue
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randperm(x.numel(), generator=generator)[:_ELEMENTS]
        differences = torch.stack([_difference(case, tensors, x, int(i), step) for i in chosen])
        error = _relative(differences, gradient[chosen])
        if error > limit:
            found.append(f"{described.label} {_apart(differences, gradient[chosen])}")
    require(
        not found,
        f"not that of finite differences: {', '.join(found)}; is a part that depends on it detached?",
    )
    return f"no gradient for {listed(targets)}" if targets else "all inputs have one"


def _difference(case: LossCase, tensors: list[Tensor], x: Tensor, i: int, step: float) -> Tensor:
    """Return the slope of the loss along an element of one of the inputs."""
    values = []
    for shift in (step, -step):
        moved = x.detach().clone()
        moved.view(-1)[i] += shift
        inputs = [moved if other is x else other.detach().clone() for other in tensors]
        values.append(case.value(case.build(), inputs).detach())
    return (values[0] - values[1]).double() / (2 * step)


def check_is_precise_in_fp32(case: LossCase) -> str:
    """Check that the loss and its gradient in float32 are those in float64."""
    return _precise(case, torch.float32, 1e-4, 1e-3)


def check_is_precise_in_bf16(case: LossCase) -> str:
    """Check that under autocast embeddings in bf16 have nearly the loss that they have in float64."""
    return _precise(case, torch.bfloat16, 0.01, 0.05)


def check_is_precise_in_fp16(case: LossCase) -> str:
    """Check that under autocast embeddings in fp16 have nearly the loss that they have in float64."""
    return _precise(case, torch.float16, 0.01, 0.05)


def _precise(case: LossCase, dtype: torch.dtype, limit: float, gradient_limit: float) -> str:
    """Compare the loss of inputs of a type with that of the same numbers in float64."""
    tensors = [x.to(dtype) for x in case.tensors()]
    exact, exact_gradient = case.gradients(case.build(), [x.double() for x in tensors])
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss, gradient = case.gradients(case.build(torch.float32), tensors)
    require(bool(loss.isfinite()), f"the loss is {loss.item()}")
    require(bool(gradient.isfinite().all()), "the gradient is not finite")
    first, second = _drawn(case)
    if first != second:
        return "finite; it draws other random numbers in each type, so values were not compared"
    error = float((loss.double() - exact).abs() / exact.abs().clamp(min=_MIN_SCALE))
    gradient_error = _relative(gradient, exact_gradient)
    measured = f"the loss is off by {error:.2g}, the gradient by {gradient_error:.2g} of its value"
    require(
        error <= limit and gradient_error <= gradient_limit,
        f"{measured}: compute it in float32, with autocast off (ssl_zoo.nn.full_precision)",
    )
    return measured


def check_is_finite_where_embeddings_coincide(case: LossCase) -> str:
    """Check that a batch of equal embeddings, as after a collapse, has a finite loss and gradient."""
    tensors = [
        x if axis is None else x.narrow(axis, 0, 1).expand_as(x).clone()
        for x, axis in zip(case.tensors(), case.batch_axes, strict=True)
    ]
    loss, gradient = case.gradients(case.build(torch.float32), [x.float() for x in tensors])
    require(bool(loss.isfinite()), f"the loss is {loss.item()}")
    require(bool(gradient.isfinite().all()), f"the loss is {loss.item():.4f}, its gradient not finite")
    return f"{loss.item():.4f}"


def check_follows_from_the_seed(case: LossCase) -> None:
    """Check that the loss and its gradient are the same to the bit with the same seed of torch."""
    (loss, gradient), (again, gradient_again) = (
        case.gradients(case.build(), case.tensors()) for _ in range(2)
    )
    same = torch.equal(loss, again) and torch.equal(gradient, gradient_again)
    require(same, f"with the same seed the loss is {loss.item():.9g}, then {again.item():.9g}")


def check_draws_no_random_numbers(case: LossCase) -> None:
    """Check that the loss does not depend on torch's seed: random numbers are inputs."""
    first, second = _drawn(case)
    require(
        first == second,
        f"the loss is {first:.6f} with one seed of torch and {second:.6f} with another: draw outside, "
        "and give what was drawn",
    )


def _drawn(case: LossCase) -> tuple[float, float]:
    """Return the loss of the same inputs with two seeds of torch."""
    first, second = (case.value(case.build(), case.tensors(), seed).item() for seed in (0, 1))
    return first, second


def check_changes_nothing_that_it_reads(case: LossCase) -> None:
    """Check that the same inputs have the same loss twice: a call moves no queue and no centre."""
    loss, tensors = case.build(), case.tensors()
    copies, before = [x.clone() for x in tensors], case.state(loss)
    first, second = (case.value(loss, tensors).item() for _ in range(2))
    after = case.state(loss)
    moved = [name for name, x in after.items() if name not in before or not torch.equal(x, before[name])]
    changed = f": the call moves {listed(moved)}" if moved else ""
    require(first == second, f"the loss of the same inputs is {first:.6f}, then {second:.6f}{changed}")
    unchanged = all(map(torch.equal, tensors, copies))
    require(unchanged, "the call changes the inputs that it is given")


def check_two_processes_are_one(case: LossCase) -> str:
    """Check that two processes with half a batch each have the loss and gradient of the whole batch.

    Gradients are averaged over processes, as DistributedDataParallel does.
    """
    joint = _share(case, 0, 1)
    first, second = in_two_processes(_share, case)
    inputs = []
    for x, a, b, axis in zip(
        joint["inputs"], first["inputs"], second["inputs"], case.batch_axes, strict=True
    ):
        inputs.append((a + b) / 2 if axis is None else torch.cat([a, b], axis) / 2)
        assert inputs[-1].shape == x.shape
    parameters = (first["parameters"] + second["parameters"]) / 2
    shared = torch.cat([*(x.flatten() for x in inputs), parameters])
    whole = torch.cat([*(x.flatten() for x in joint["inputs"]), joint["parameters"]])
    loss, alone = float(first["loss"] + second["loss"]) / 2, float(joint["loss"])
    found: list[str] = []
    if abs(loss - alone) > 1e-5 * max(_MIN_SCALE, abs(alone)):
        found.append(f"the loss is {alone:.4f} in one process, {loss:.4f} in two")
    if _relative(shared, whole) > 1e-4:
        found.append(f"the gradient is not the joint batch's ({_apart(whole, shared)})")
    differing = [n for n, x in first["state"].items() if not torch.allclose(x, second["state"][n])]
    if differing:
        found.append(f"{listed(differing)} differs between processes")
    require(not found, f"{'; '.join(found)}{_gathering(case)}")
    return f"loss {alone:.4f}, {loss:.4f}"


def _share(case: LossCase, rank: int, world: int) -> dict[str, Any]:
    """Return a process's loss, gradients, and state after the call; each draws its own numbers."""
    tensors, loss = case.tensors(rank, world), case.build()
    value, gradients = case.gradients(loss, tensors, seed=rank)
    sizes = [x.numel() for x in tensors]
    *parts, parameters = gradients.split([*sizes, len(gradients) - sum(sizes)])
    inputs = [part.view(x.shape) for part, x in zip(parts, tensors, strict=True)]
    return {"loss": value, "inputs": inputs, "parameters": parameters, "state": case.state(loss)}


def _gathering(case: LossCase) -> str:
    """Return a hint at an argument that makes a loss gather, if there is one that was left out."""
    names = [
        name
        for name, parameter in inspect.signature(case.loss).parameters.items()
        if ("gather" in name or "distributed" in name) and parameter.default is False
    ]
    unset = [name for name in names if name not in case.arguments]
    return f"; try --set {unset[0]}=true" if unset else ""


def _relative(value: Tensor, exact: Tensor) -> float:
    """Return the distance of a vector to an exact one, as a share of the latter's length."""
    return float((value - exact).norm() / exact.norm().clamp(min=1e-30))


def _apart(exact: Tensor, value: Tensor) -> str:
    """Return how a vector differs from an exact one: as a factor, or by a share of its length."""
    factor = float((value @ exact) / exact.pow(2).sum().clamp(min=1e-30))
    if _relative(value, factor * exact) < 1e-4 * abs(factor):
        return f"{factor:.4g} of it"
    return f"off by {100 * _relative(value, exact):.3g} %"
