"""Each task's loss as a whole, against a slow reading of its paper from the outputs of its networks.

The references are differentiable and say where the gradient stops: the value, and the gradient of all
parameters and pixels, must be the task's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.vision import literal_losses as literal
from tests.vision.literal_losses import Reference, Views, through, unit
from tests.vision.tiny_tasks import N, fixed_views, tiny


@dataclass(frozen=True)
class Case:
    """A task in a state, and the reference of its loss."""

    task: str
    reference: Reference
    options: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Any], None] | None = None
    detached: bool = False  # whether the reference stops a gradient of networks in training

    def __str__(self) -> str:
        prepared = [] if self.prepare is None else [self.prepare.__name__]
        return "-".join([self.task, *self.options, *prepared])

    def build(self) -> tuple[Any, Views]:
        """Return the task halfway through training, and its views."""
        task = tiny(self.task, **self.options)
        if self.prepare is not None:
            self.prepare(task)
        task.before_step(0.5)
        return task, fixed_views(task)


def with_a_full_queue(task: Any) -> None:
    """Fill the queue with embeddings that lie near each other, so that balancing moves them."""
    width = task.queue.features.shape[1]
    half = torch.randn(len(task.queue.features), width, dtype=torch.float64) + 2
    task.queue.push(torch.cat([unit(x) for x in half.chunk(2, 1)], 1))


def wide_columns(task: Any) -> None:
    """Let some columns deviate by more than 1, where the variance term is 0."""
    task.head[-1].weight.data *= 3


def with_a_moment(task: Any) -> None:
    z = unit(torch.randn(20, len(task.moment.moment), dtype=torch.float64))
    task.moment.moment.copy_(z.T @ z / 20)


def with_a_mean_score(task: Any) -> None:
    task.mean_score.value.fill_(1.3)


def with_a_centre(task: Any) -> None:
    task.centre.centre.normal_(std=0.1)


def with_uneven_clusters(task: Any) -> None:
    task.weights.uniform_(0.2, 3.0)


def with_a_token(task: Any) -> None:
    """Let all that starts at 0 or 1 differ from it: the token, the centres, gains of last layers."""
    task.token.data.normal_()
    task.centre.centre.normal_(std=0.1)
    task.patch_centre.centre.normal_(std=0.1)
    for last in (task.prototypes, task.teacher[2]):
        if last.gain is not None:
            last.gain.data.uniform_(0.5, 1.5)


LOCAL = {"local": 2, "local_size": 0.5}
PATCHES = {"patch_weight": 0.7, **LOCAL}
NOISE = {"negatives": 7, "temperature": 0.3}
CASES = [
    Case("simsiam", literal.simsiam, detached=True),
    Case("byol", literal.byol),
    Case("dino", literal.dino, LOCAL, with_a_centre),
    Case("ibot", literal.ibot, {"patch_weight": 0.7}, with_a_token),
    Case("ibot", literal.ibot, PATCHES, with_a_token),
    Case("dinov2", literal.dinov2, PATCHES, with_a_token),
    Case("dinov2", literal.dinov2, {"centring": "centre"}, with_a_token),
    Case("msn", literal.msn, {"entropy_weight": 0.6}, detached=True),
    Case("msn", literal.msn, {"sharpening": 0.5, **LOCAL}, detached=True),
    Case("simclr", literal.simclr, {"temperature": 0.3}),
    Case("simclr", literal.simclr, {"temperature": 0.3, "decoupled": True}),
    Case("moco", literal.moco),
    Case("moco", literal.moco, {"symmetric": True}),
    Case("moco-v3", literal.moco_v3, {"temperature": 0.3}),
    Case("nnclr", literal.nnclr),
    Case("densecl", literal.densecl, {"size": 8, "weight": 0.3}),
    Case("pixpro", literal.pixpro, {"size": 8}),
    Case("supcon", literal.sup_con, {"temperature": 0.3}),
    Case("npid", literal.npid, {"temperature": 0.3}),
    Case("npid", literal.npid, NOISE, detached=True),
    Case("npid", literal.npid, NOISE, with_a_mean_score),
    Case("swav", literal.swav, detached=True),
    Case("swav", literal.swav, LOCAL, detached=True),
    Case("swav", literal.swav, {"queue": 9}, with_a_full_queue, detached=True),
    Case("deepcluster", literal.deepcluster, {}, with_uneven_clusters),
    Case("deepcluster-v2", literal.deepcluster_v2),
    Case("deepcluster-v2", literal.deepcluster_v2, LOCAL),
    Case("barlow-twins", literal.barlow_twins, {"lam": 0.02}),
    Case("vicreg", literal.vicreg, {}, wide_columns),
    Case("tico", literal.tico, {}, with_a_moment, detached=True),
    Case("w-mse", literal.w_mse, {"eps": 0.01}),
    Case("w-mse", literal.w_mse, {"eps": 0.01, "number": 3}),
    Case("lejepa", literal.lejepa),
    Case("lejepa", literal.lejepa, LOCAL),
]


def gradients(loss: Tensor, task: Any, views: Views) -> dict[str, Tensor]:
    """Return the gradients of a loss by parameters and views, 0 where there is none."""
    of = {name: x for name, x in task.named_parameters() if x.requires_grad}
    of |= {f"views.{i}": x for i, x in enumerate(views) if x.requires_grad}
    found = torch.autograd.grad(loss, list(of.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(of, found, strict=True))


def wanting_gradients(views: Views) -> Views:
    return tuple(x.requires_grad_() if x.ndim == 4 else x for x in views)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_whole_loss_and_its_gradient_are_the_papers(case: Case) -> None:
    task, views = case.build()
    views = wanting_gradients(views)
    expected = case.reference(task, views, Tensor.detach)  # first, in the state before the step
    loss = task.loss(views).total
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(
        gradients(loss, task, views), gradients(expected, task, views), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("case", [case for case in CASES if case.detached], ids=str)
def test_without_its_stop_gradient_a_loss_would_have_another_gradient(case: Case) -> None:
    task, views = case.build()
    mine = gradients(task.loss(views).total, task, views)
    other = gradients(case.reference(task, views, lambda x: x), task, views)
    largest = max(x.abs().max() for x in mine.values())
    assert max((mine[name] - other[name]).abs().max() for name in mine) > 0.01 * largest


# --- what a step leaves behind ---

PROGRESS = 0.4
"""The share of training that is done after the step."""


def moved(teacher: Any, start: float, *networks: Any) -> list[Tensor]:
    """Return a teacher's parameters after a step, by equation 1 of BYOL and its momentum's cosine."""
    return averaged(teacher, 1 - (1 - start) * (math.cos(math.pi * PROGRESS) + 1) / 2, *networks)


def averaged(teacher: Any, m: float, *networks: Any) -> list[Tensor]:
    trained = [p for network in networks for p in network.parameters()]
    return [m * xi + (1 - m) * p for xi, p in zip(teacher.parameters(), trained, strict=True)]


def pushed(queue: Any, new: Tensor) -> Tensor:
    """Return the rows of a queue once new ones have replaced its oldest."""
    rows, oldest = list(queue.features), int(queue.place)
    for i, row in enumerate(new):
        rows[(oldest + i) % len(rows)] = row
    return torch.stack(rows)


def byols_target(task: Any, views: Views) -> list[Tensor]:
    return moved(task.target, 0.99, task.encoder, task.projector)


def moco_v3s_keys(task: Any, views: Views) -> list[Tensor]:
    return moved(task.key_encoder, 0.99, task.encoder, task.projector)


def dinos_state(task: Any, views: Views) -> list[Tensor]:
    """Return the centre by equation 4 of Caron et al. 2021, and the teacher."""
    g = task.teacher(torch.cat(views[:2]))
    centre = 0.9 * task.centre.centre + 0.1 * literal.total(g) / len(g)
    return [centre, *moved(task.teacher, 0.99, task.encoder, task.head, task.prototypes)]


def ibots_state(task: Any, views: Views) -> list[Tensor]:
    """Return the centres, that of patches with all of them, hidden or not, and the teacher."""
    _, rows = literal.teacher(task, views)
    patches = [p for row in rows for p in row]
    centre = 0.9 * task.patch_centre.centre + 0.1 * literal.total(patches) / len(patches)
    return [centre, *dinos_state(task, views)]


def dinov2s_state(task: Any, views: Views) -> list[Tensor]:
    """Return the centres, that of patches with hidden ones alone (authors' code), and the teacher."""
    _, rows = literal.teacher(task, views)
    hidden = [p for row, m in zip(rows, views[-2], strict=True) for p in literal.only(row, m)]
    centre = 0.9 * task.patch_centre.centre + 0.1 * literal.total(hidden) / len(hidden)
    return [centre, *dinos_state(task, views)]


def msns_target(task: Any, views: Views) -> list[Tensor]:
    """Return the target, whose momentum is on a line from 0.99 to 1 over 1.25 times the run."""
    m = 0.99 + 0.01 * PROGRESS / 1.25
    return averaged(task.target, m, task.encoder, task.head)


def nnclrs_queue(task: Any, views: Views) -> list[Tensor]:
    """Return the queue with the first views' projections."""
    return [pushed(task.queue, unit(task.projector(task.encoder(views[0]))))]


def swavs_queue(task: Any, views: Views) -> list[Tensor]:
    """Return the queue with both large views' embeddings, side by side."""
    z = task.head(torch.cat(through(task.encoder, views))).chunk(len(views))
    return [pushed(task.queue, torch.cat([unit(z[0]), unit(z[1])], 1))]


def npids_bank(task: Any, views: Views) -> list[Tensor]:
    """Return the bank with the batch's rows moved, by section 3.1 of Wu et al. 2018."""
    z, rows = unit(task.head(task.encoder(views[0]))), list(task.bank.features)
    for i, image in enumerate(views[-1].tolist()):
        rows[image] = unit(0.25 * rows[image] + 0.75 * z[i])
    return [torch.stack(rows)]


def ticos_state(task: Any, views: Views) -> list[Tensor]:
    """Return the second moment with this batch, once, and the teacher."""
    z = unit(task.head(task.encoder(views[0])))
    moment = 0.9 * task.moment.moment + 0.1 * z.T @ z / N
    return [moment, *moved(task.teacher, 0.99, task.encoder, task.head)]


def partly_pushed(task: Any) -> None:
    """Leave the oldest row of a queue where the next batch wraps around."""
    width = task.queue.features.shape[1]
    task.queue.push(F.normalize(torch.randn(N, width, dtype=torch.float64), dim=1))


def densecls_queues(task: Any, views: Views) -> list[Tensor]:
    """Return the queues with whole keys, and with the means of keys' places before unit length."""
    *_, x2, shuffle = views
    (encoder, head), (dense_head,) = task.key_encoder, task.dense_key_head
    whole = literal.in_groups(lambda x: head(encoder(x)), x2, shuffle)
    maps = literal.in_groups(encoder.feature_map, x2, shuffle).flatten(2).mT
    of_places = torch.stack([literal.total(dense_head(p)) / len(p) for p in maps])
    return [pushed(task.queue, unit(whole)), pushed(task.dense_queue, unit(of_places))]


CENTRES = ["patch_centre.centre", "centre.centre", "teacher"]
STATES: list[tuple[Case, list[str], Callable[[Any, Views], list[Tensor]]]] = [
    (Case("byol", literal.byol), ["target"], byols_target),
    (Case("moco-v3", literal.moco_v3), ["key_encoder"], moco_v3s_keys),
    (Case("dino", literal.dino, LOCAL, with_a_centre), ["centre.centre", "teacher"], dinos_state),
    (Case("ibot", literal.ibot, LOCAL, with_a_token), CENTRES, ibots_state),
    (Case("dinov2", literal.dinov2, LOCAL, with_a_token), CENTRES, dinov2s_state),
    (Case("msn", literal.msn, LOCAL), ["target"], msns_target),
    (Case("nnclr", literal.nnclr, {}, partly_pushed), ["queue.features"], nnclrs_queue),
    (
        Case("swav", literal.swav, {"queue": 9, "local": 1}, partly_pushed),
        ["queue.features"],
        swavs_queue,
    ),
    (Case("npid", literal.npid, {"momentum": 0.25}), ["bank.features"], npids_bank),
    (Case("tico", literal.tico, {}, with_a_moment), ["moment.moment", "teacher"], ticos_state),
    (
        Case("densecl", literal.densecl, {"size": 8}, partly_pushed),
        ["queue.features", "dense_queue.features"],
        densecls_queues,
    ),
]


def state(task: Any, names: list[str]) -> list[Tensor]:
    """Return copies of buffers, and of the parameters of teachers, by name."""
    found = []
    for name in names:
        value = attrgetter(name)(task)
        found += [value] if isinstance(value, Tensor) else [*value.parameters()]
    return [x.detach().clone() for x in found]


@pytest.mark.parametrize(("case", "names", "expected"), STATES, ids=[case.task for case, *_ in STATES])
def test_a_step_moves_teachers_queues_and_banks_as_the_paper_says(
    case: Case, names: list[str], expected: Callable[[Any, Views], list[Tensor]]
) -> None:
    task, views = case.build()
    before, after = state(task, names), expected(task, views)
    task.loss(views)
    assert all(map(torch.equal, state(task, names), before))
    task.after_step(PROGRESS)
    torch.testing.assert_close(state(task, names), [x.detach() for x in after])
