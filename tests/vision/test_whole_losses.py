"""Each task's loss as a whole, against a slow reading of its paper from the outputs of its networks.

The references call the networks of a task, in training mode, and none of its loss functions. They are
differentiable and say where the gradient stops: the value, and the gradient of all parameters and
pixels, must be the task's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.task import Task
from ssl_zoo_vision.clustering.swav import SwAV
from ssl_zoo_vision.contrastive.moco_v3 import MoCoV3
from ssl_zoo_vision.contrastive.nnclr import NNCLR
from ssl_zoo_vision.contrastive.npid import NPID
from ssl_zoo_vision.contrastive.supcon import SupCon
from ssl_zoo_vision.distillation.byol import BYOL
from ssl_zoo_vision.distillation.simsiam import SimSiam
from ssl_zoo_vision.redundancy.barlow_twins import BarlowTwins
from ssl_zoo_vision.redundancy.lejepa import LeJEPA
from ssl_zoo_vision.redundancy.tico import TiCo
from ssl_zoo_vision.redundancy.vicreg import VICReg
from ssl_zoo_vision.redundancy.w_mse import WMSE
from tests.vision.tiny_tasks import SAMPLES, N, fixed_views, tiny

Views = tuple[Tensor, ...]
Stop = Callable[[Tensor], Tensor]
"""The stop-gradient of a reference, which a test leaves out to see that it matters."""
Reference = Callable[[Any, Views, Stop], Tensor]

BOTH_WAYS = ((0, 1), (1, 0))
"""The view that predicts, and the view that is predicted."""


def unit(x: Tensor) -> Tensor:
    return x / (x * x).sum(-1, keepdim=True).sqrt()


def dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum()


def mean(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).mean()


def total(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum(0)


def surprise(scores: list[Tensor], right: int) -> Tensor:
    """Return -log of the share of one score in a softmax."""
    return -torch.log(scores[right].exp() / total(s.exp() for s in scores))


def through(network: Callable[[Tensor], Tensor], crops: Views) -> list[Tensor]:
    """Return the outputs for the two large crops, then for the small ones, one pass for each size."""
    sizes = [crops[:2], crops[2:]] if crops[2:] else [crops]
    return [y for same in sizes for y in network(torch.cat(same)).chunk(len(same))]


# --- distillation ---


def simsiam(task: Any, views: Views, stop: Stop) -> Tensor:
    """Equations 1 to 4 of Chen & He 2020."""
    z = [task.projector(task.encoder(x)) for x in views]
    p = [task.predictor(x) for x in z]
    return mean(-dot(unit(p[a][i]), unit(stop(z[b][i]))) for a, b in BOTH_WAYS for i in range(N))


def byol(task: Any, views: Views, stop: Stop) -> Tensor:
    """Equation 2 of Grill et al. 2020, and the same with the views exchanged added to it."""
    q = [task.predictor(task.projector(task.encoder(x))) for x in views]
    encoder, projector = task.target
    z = [stop(projector(encoder(x))) for x in views]
    return 2 * mean((unit(q[a][i]) - unit(z[b][i])).pow(2).sum() for a, b in BOTH_WAYS for i in range(N))


# --- contrast ---


def moco_v3(task: Any, views: Views, stop: Stop) -> Tensor:
    """Algorithm 1 of Chen et al. 2021: 2τ times the cross entropy, both ways added."""
    tau = task.options.temperature
    q = [unit(task.predictor(task.projector(task.encoder(x)))) for x in views]
    encoder, projector = task.key_encoder
    k = [unit(stop(projector(encoder(x)))) for x in views]
    ways = [
        mean(surprise([dot(q[a][i], k[b][j]) / tau for j in range(N)], i) for i in range(N))
        for a, b in BOTH_WAYS
    ]
    return 2 * tau * ways[0] + 2 * tau * ways[1]


def nnclr(task: Any, views: Views, stop: Stop) -> Tensor:
    """Equations 2 to 4 of Dwibedi et al. 2021: neighbours are anchors, predictions are candidates."""
    z = [task.projector(task.encoder(x)) for x in views]
    p = [unit(task.predictor(x)) for x in z]
    rows = list(task.queue.features)

    def neighbour(x: Tensor) -> Tensor:
        return min(rows, key=lambda row: float((unit(x.detach()) - row).pow(2).sum()))

    return mean(
        surprise([dot(neighbour(z[a][i]), p[b][j]) / task.options.temperature for j in range(N)], i)
        for a, b in BOTH_WAYS
        for i in range(N)
    )


def sup_con(task: Any, views: Views, stop: Stop) -> Tensor:
    """Equation 2 of Khosla et al. 2020, L_out, the mean over anchors."""
    *images, labels = views
    z = unit(task.head(task.encoder(torch.cat(images))))
    classes = [*labels.tolist(), *labels.tolist()]
    anchors = []
    for i in range(2 * N):
        others = [a for a in range(2 * N) if a != i]
        scores = [dot(z[i], z[a]) / task.options.temperature for a in others]
        same = [n for n, a in enumerate(others) if classes[a] == classes[i]]
        anchors.append(mean(surprise(scores, n) for n in same))
    return mean(anchors)


def npid(task: Any, views: Views, stop: Stop) -> Tensor:
    """Equation 2 of Wu et al. 2018, or with noise equations 6 and 7, whose Z is the first batch's."""
    x, *noise, index = views
    z, bank = unit(task.head(task.encoder(x))), list(task.bank.features)

    def scores(i: int, rows: Iterable[int]) -> list[Tensor]:
        return [dot(z[i], bank[row]) / task.options.temperature for row in rows]

    if not noise:
        return mean(surprise(scores(i, range(SAMPLES)), int(index[i])) for i in range(N))
    rows = torch.cat([index.unsqueeze(1), *noise], 1).tolist()
    exponentials = torch.stack([torch.stack(scores(i, rows[i])).exp() for i in range(N)])
    kept = float(task.mean_score.value)
    normaliser = SAMPLES * (kept or stop(exponentials.mean()))
    p = exponentials / normaliser
    h = p / (p + task.options.negatives / SAMPLES)
    return mean(-h[i, 0].log() - total((1 - noise).log() for noise in h[i, 1:]) for i in range(N))


# --- clustering ---


def swav(task: Any, views: Views, stop: Stop) -> Tensor:
    """Section 3.1 of Caron et al. 2020 and the authors' code, which balances the queue too."""
    features = torch.cat(through(task.encoder, views))
    z = [unit(x) for x in task.head(features).chunk(len(views))]
    prototypes = unit(task.prototypes.weight)
    old = [[], []] if task.queue is None else [[x] for x in task.queue.features.chunk(2, 1)]
    terms = []
    for v in range(2):
        q = torch.exp(torch.cat([*old[v], z[v]]) @ prototypes.T / task.options.epsilon).T
        q = q / q.sum()
        for _ in range(3):
            q = q / q.sum(1, keepdim=True) / q.shape[0]  # rows are prototypes
            q = q / q.sum(0, keepdim=True) / q.shape[1]  # columns are samples
        q = stop((q * q.shape[1]).T[-N:])
        for w in range(len(views)):
            if w != v:
                p = F.softmax(z[w] @ prototypes.T / task.options.temperature, dim=1)
                terms += [-dot(q[i], p[i].log()) for i in range(N)]
    return mean(terms)


def with_a_full_queue(task: Any) -> None:
    """Fill the queue with embeddings that lie near each other, so that balancing moves them."""
    width = task.queue.features.shape[1]
    half = torch.randn(len(task.queue.features), width, dtype=torch.float64) + 2
    task.queue.push(torch.cat([unit(x) for x in half.chunk(2, 1)], 1))


# --- redundancy reduction ---


def barlow_twins(task: Any, views: Views, stop: Stop) -> Tensor:
    """Equations 1 and 2 of Zbontar et al. 2021, with the batch norm of the authors' code."""
    z = [F.batch_norm(task.head(task.encoder(x)), None, None, training=True) for x in views]
    width = z[0].shape[1]
    c = [[dot(z[0][:, i], z[1][:, j]) / N for j in range(width)] for i in range(width)]
    diagonal = total((1 - c[i][i]) ** 2 for i in range(width))
    return diagonal + task.options.lam * total(
        c[i][j] ** 2 for i in range(width) for j in range(width) if i != j
    )


def vicreg(task: Any, views: Views, stop: Stop) -> Tensor:
    """Equations 1 to 6 of Bardes et al. 2021, with the authors' code's weights of 25, 25 / 2 and 1."""
    z = [task.head(task.encoder(x)) for x in views]
    terms = [25 * mean((z[0] - z[1]).flatten() ** 2)]
    for x in z:
        off = x - total(x) / N
        cov, width = total(torch.outer(row, row) for row in off) / (N - 1), x.shape[1]
        deviations = [(cov[d, d] + 1e-4).sqrt() for d in range(width)]
        terms.append(25 / 2 * mean((1 - s).clamp(min=0) for s in deviations))
        terms += [cov[i, j] ** 2 / width for i in range(width) for j in range(width) if i != j]
    return total(terms)


def wide_columns(task: Any) -> None:
    """Let some columns deviate by more than 1, where the variance term is 0."""
    task.head[-1].weight.data *= 3


def tico(task: Any, views: Views, stop: Stop) -> Tensor:
    """Equations 4 and 6 of Zhu et al. 2022: C holds this batch, and has no gradient."""
    z1 = unit(task.head(task.encoder(views[0])))
    encoder, head = task.teacher
    z2 = unit(stop(head(encoder(views[1]))))
    beta, batch = task.options.beta, total(torch.outer(z, z) for z in z1) / N
    c = stop(beta * task.moment.moment + (1 - beta) * batch)
    return mean(1 - dot(z1[i], z2[i]) + task.options.rho * dot(z1[i], c @ z1[i]) for i in range(N))


def with_a_moment(task: Any) -> None:
    z = unit(torch.randn(20, len(task.moment.moment), dtype=torch.float64))
    task.moment.moment.copy_(z.T @ z / 20)


def w_mse(task: Any, views: Views, stop: Stop) -> Tensor:
    """Equations 3 to 5 of Ermolov et al. 2020: each view is whitened in slices, by Cholesky's factor."""
    *crops, order = views
    z = task.head(task.encoder(torch.cat(crops))).chunk(len(crops))
    eps, terms = task.options.eps, []
    for rows in order.split(task.options.slice):
        whitened = []
        for view in z:
            off = view[rows] - total(view[rows]) / len(rows)
            cov = total(torch.outer(row, row) for row in off) / (len(rows) - 1)
            eye = torch.eye(len(cov), dtype=cov.dtype)
            factor = torch.linalg.cholesky((1 - eps) * cov + eps * eye)
            whitened.append([torch.linalg.inv(factor) @ row for row in off])
        for a, b in combinations(whitened, 2):
            terms += [2 - 2 * dot(unit(v), unit(w)) for v, w in zip(a, b, strict=True)]
    return mean(terms)


def lejepa(task: Any, views: Views, stop: Stop) -> Tensor:
    """Section 4 of Balestriero and LeCun 2025: the trapezoidal rule has 17 knots on [0, 3], doubled."""
    *crops, directions = views
    z = task.head(torch.cat(through(task.encoder, tuple(crops)))).chunk(len(crops))
    centre = (z[0] + z[1]) / 2
    alike = mean((x - centre).pow(2).mean() for x in z)
    statistics = []
    for view in z:
        for a in unit(directions):
            integral = []
            for knot in range(17):
                t = 3 * knot / 16
                angles = t * (view @ a)
                phi = torch.complex(angles.cos(), angles.sin()).mean()
                error = (phi - math.exp(-(t**2) / 2)).abs().pow(2)
                step = 3 / 16 * (1 if knot in (0, 16) else 2)
                integral.append(step * error * math.exp(-(t**2) / 2))
            statistics.append(N * total(integral))
    lam = task.options.lam
    return (1 - lam) * alike + lam * mean(statistics)


# --- the comparison ---


@dataclass(frozen=True)
class Case:
    """A task in a state, and the reference of its loss."""

    cls: type[Task]
    reference: Reference
    options: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Any], None] | None = None
    detached: bool = False  # whether the reference stops a gradient of networks in training

    def __str__(self) -> str:
        return "-".join([self.cls.name, *self.options])

    def build(self) -> tuple[Any, Views]:
        """Return the task halfway through training, and its views."""
        task = tiny(self.cls, **self.options)
        if self.prepare is not None:
            self.prepare(task)
        task.before_step(0.5)
        return task, fixed_views(task)


def kept_mean_score(task: Any) -> None:
    task.mean_score.value.fill_(1.3)


NOISE = {"negatives": 7, "temperature": 0.3}
CASES = [
    Case(SimSiam, simsiam, detached=True),
    Case(BYOL, byol),
    Case(MoCoV3, moco_v3, {"temperature": 0.3}),
    Case(NNCLR, nnclr),
    Case(SupCon, sup_con, {"temperature": 0.3}),
    Case(NPID, npid, {"temperature": 0.3}),
    Case(NPID, npid, NOISE, detached=True),
    Case(NPID, npid, {**NOISE, "momentum": 0.5}, kept_mean_score),
    Case(SwAV, swav, detached=True),
    Case(SwAV, swav, {"local": 2, "local_size": 0.5}, detached=True),
    Case(SwAV, swav, {"queue": 12}, with_a_full_queue, detached=True),
    Case(BarlowTwins, barlow_twins, {"lam": 0.02}),
    Case(VICReg, vicreg, {}, wide_columns),
    Case(TiCo, tico, {}, with_a_moment, detached=True),
    Case(WMSE, w_mse, {"eps": 0.01}),
    Case(WMSE, w_mse, {"eps": 0.01, "number": 3}),
    Case(LeJEPA, lejepa),
    Case(LeJEPA, lejepa, {"local": 2, "local_size": 0.5}),
]
every_case = pytest.mark.parametrize("case", CASES, ids=str)


def gradients(loss: Tensor, task: Any, views: Views) -> dict[str, Tensor]:
    """Return the gradients of a loss by parameters and views, 0 where there is none."""
    of = {name: x for name, x in task.named_parameters() if x.requires_grad}
    of |= {f"views.{i}": x for i, x in enumerate(views) if x.requires_grad}
    found = torch.autograd.grad(loss, list(of.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(of, found, strict=True))


def wanting_gradients(views: Views) -> Views:
    return tuple(x.requires_grad_() if x.ndim == 4 else x for x in views)


@every_case
def test_the_whole_loss_and_its_gradient_are_the_papers(case: Case) -> None:
    task, views = case.build()
    views = wanting_gradients(views)
    loss, expected = task.loss(views).total, case.reference(task, views, Tensor.detach)
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


@every_case
def test_all_that_is_trained_gets_a_gradient_and_frozen_copies_get_none(case: Case) -> None:
    task, views = case.build()
    task.loss(views).total.backward()
    with_gradient = {name for name, x in task.named_parameters() if x.grad is not None}
    assert with_gradient == {name for name, x in task.named_parameters() if x.requires_grad}


# --- what a step leaves behind ---

PROGRESS = 0.4
"""The share of training that is done after the step."""


def moved(teacher: Any, start: float, *networks: Any) -> list[Tensor]:
    """Return a teacher's parameters after a step, by equation 1 of BYOL and its momentum's cosine."""
    m = 1 - (1 - start) * (math.cos(math.pi * PROGRESS) + 1) / 2
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


State = Callable[[Any], Iterable[Tensor]]


@pytest.mark.parametrize(
    ("case", "state", "expected"),
    [
        (Case(BYOL, byol), lambda task: task.target.parameters(), byols_target),
        (Case(MoCoV3, moco_v3), lambda task: task.key_encoder.parameters(), moco_v3s_keys),
        (Case(NNCLR, nnclr, {}, partly_pushed), lambda task: [task.queue.features], nnclrs_queue),
        (
            Case(SwAV, swav, {"queue": 12, "local": 1}, partly_pushed),
            lambda task: [task.queue.features],
            swavs_queue,
        ),
        (Case(NPID, npid, {"momentum": 0.25}), lambda task: [task.bank.features], npids_bank),
        (
            Case(TiCo, tico, {}, with_a_moment),
            lambda task: [task.moment.moment, *task.teacher.parameters()],
            ticos_state,
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, Case) else "",
)
def test_a_step_moves_teachers_queues_and_banks_as_the_paper_says(
    case: Case, state: State, expected: Callable[[Any, Views], list[Tensor]]
) -> None:
    task, views = case.build()
    before, after = [x.clone() for x in state(task)], expected(task, views)
    task.loss(views)
    torch.testing.assert_close(list(state(task)), before, rtol=0, atol=0)
    task.after_step(PROGRESS)
    torch.testing.assert_close([x.detach() for x in state(task)], [x.detach() for x in after])
