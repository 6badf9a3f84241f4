"""Slow, literal readings of papers' losses, from the outputs of a task's networks.

Each takes a task, its views, and the stop-gradient, which a test leaves out to see that it matters. It
calls the task's networks as training does, with the statistics of each batch, and none of its losses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.vision.tiny_tasks import SAMPLES, N

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


def balanced(q: Tensor) -> Tensor:
    """Return positive shares [n, K] after three rounds of Sinkhorn-Knopp, as in SwAV's code."""
    q = (q / q.sum()).T
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / q.shape[0]  # rows are prototypes
        q = q / q.sum(0, keepdim=True) / q.shape[1]  # columns are samples
    return (q * q.shape[1]).T


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


def outputs(last: Any, z: Tensor) -> Tensor:
    """Return the outputs [n, K] of a weight-normalised last layer."""
    cosines = unit(z) @ unit(last.weight).T
    return cosines if last.gain is None else cosines * last.gain


def of_other_crops(targets: list[Tensor], scores: list[Tensor], temperature: float) -> Tensor:
    """Return equation 3 of Caron et al. 2021: each crop has the targets of the other large crops."""
    return mean(
        -dot(targets[v][i], F.log_softmax(scores[w][i] / temperature, dim=0))
        for v in range(2)
        for w in range(len(scores))
        if v != w
        for i in range(N)
    )


def centred(scores: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """Return the teacher's targets in DINO and iBOT."""
    return F.softmax((scores - centre) / temperature, dim=1)


def dino(task: Any, views: Views, stop: Stop) -> Tensor:
    """Equation 3 of Caron et al. 2021, halfway through training, where the teacher's τ is at its end."""
    encoder, head, last = task.teacher
    g = stop(outputs(last, head(encoder(torch.cat(views[:2])))))  # [2B, K]
    targets = centred(g, task.centre.centre, task.options.teacher_end)
    scores = outputs(task.prototypes, task.head(torch.cat(through(task.encoder, views))))
    return of_other_crops([*targets.chunk(2)], [*scores.chunk(len(views))], task.options.temperature)


def student(task: Any, views: Views) -> tuple[list[Tensor], list[Tensor], list[list[Tensor]]]:
    """Return the student's class tokens, the scores of all crops, and those of hidden patches."""
    *crops, masks, _ = views
    tokens, patches = task.encoder.pooled_and_map(torch.cat(crops[:2]), masks, task.token)
    classes = [*tokens.chunk(2)]
    if crops[2:]:
        classes += task.encoder(torch.cat(crops[2:])).chunk(len(crops) - 2)
    scores = [outputs(task.prototypes, task.head(x)) for x in classes]
    hidden = [
        [outputs(task.prototypes, task.head(places[:, r, c])) for r, c in mask.nonzero().tolist()]
        for places, mask in zip(patches, masks, strict=True)
    ]
    return classes, scores, hidden


def teacher(task: Any, views: Views) -> tuple[Tensor, list[list[Tensor]]]:
    """Return the teacher's scores of whole large crops [2B, K], and those of each of their patches."""
    encoder, head, last = task.teacher
    tokens, patches = encoder.pooled_and_map(torch.cat(views[:2]))
    of_patches = [[outputs(last, head(p)) for p in image.flatten(1).T] for image in patches]
    return outputs(last, head(tokens)), of_patches


def of_hidden(targets: Iterable[Tensor], scores: list[list[Tensor]], temperature: float) -> Tensor:
    """Return equation 2 of Zhou et al. 2021, each image's sum over its number of hidden patches.

    As in the authors' code, whose mean over large crops counts those with nothing hidden as 0.
    """
    by_place = iter(targets)
    images = [
        mean(-dot(next(by_place), F.log_softmax(s / temperature, dim=0)) for s in image)
        for image in scores
        if image
    ]
    return total(images) / len(scores)


def ibot(task: Any, views: Views, stop: Stop) -> Tensor:
    """Equations 2 and 3 of Zhou et al. 2021; each kind of token has a centre of its own."""
    tau, of_teacher = task.options.temperature, task.options.teacher_end
    g, of_patches = teacher(task, views)
    _, scores, hidden = student(task, views)
    targets = centred(stop(g), task.centre.centre, of_teacher)
    seen = [p for row, mask in zip(of_patches, views[-2], strict=True) for p in only(row, mask)]
    patches = centred(stop(torch.stack(seen)), task.patch_centre.centre, of_teacher)
    of_classes = of_other_crops([*targets.chunk(2)], scores, tau)
    return of_classes + task.options.patch_weight * of_hidden(patches, hidden, tau)


def only(row: list[Tensor], mask: Tensor) -> list[Tensor]:
    """Return what a row has of hidden places."""
    return [x for x, hidden in zip(row, mask.flatten().tolist(), strict=True) if hidden]


def nearest(x: list[Tensor], i: int) -> Tensor:
    """Return the distance of a point and its nearest other."""
    distances = [(x[i] - x[j]).pow(2).sum().sqrt() for j in range(len(x)) if j != i]
    return torch.stack(distances).min()


def dinov2(task: Any, views: Views, stop: Stop) -> Tensor:
    """Section 4 of Oquab et al. 2023: both crops are balanced together, as are all hidden patches."""
    tau, of_teacher = task.options.temperature, task.options.teacher_end
    g, of_patches = teacher(task, views)
    classes, scores, hidden = student(task, views)
    seen = [p for row, mask in zip(of_patches, views[-2], strict=True) for p in only(row, mask)]
    if task.options.centring == "centre":
        targets = centred(g, task.centre.centre, of_teacher)
        patches = centred(torch.stack(seen), task.patch_centre.centre, of_teacher)
    else:
        targets = balanced(torch.exp(g / of_teacher))
        patches = balanced(torch.exp(torch.stack(seen) / of_teacher))
    of_classes = of_other_crops([*stop(targets).chunk(2)], scores, tau)
    apart = []
    for crop in classes[:2]:
        x = [*unit(crop)]
        apart.append(mean(-torch.log(nearest(x, i) + 1e-8) for i in range(N)))
    return (
        of_classes
        + task.options.patch_weight * of_hidden(stop(patches), hidden, tau)
        + task.options.koleo_weight * total(apart)
    )


def msn(task: Any, views: Views, stop: Stop) -> Tensor:
    """Equation 1 of Assran et al. 2022, its mean entropy as log K - H, and targets that are balanced."""
    whole, masked, *small, mask = views
    tau, sharpening = task.options.temperature, task.options.sharpening
    prototypes = unit(task.prototypes.weight)
    features = [task.encoder.pooled_and_map(masked, mask)[0]]
    if small:
        features += task.encoder(torch.cat(small)).chunk(len(small))
    p = F.softmax(unit(task.head(torch.cat(features))) @ prototypes.T / tau, dim=1)
    encoder, head = task.target
    of_target = F.softmax(unit(head(encoder(whole))) @ prototypes.T / tau, dim=1)
    sharp = of_target ** (1 / sharpening)
    q = stop(balanced(sharp / sharp.sum(1, keepdim=True)))
    anchors = p.chunk(len(features))
    cross_entropy = mean(-dot(q[i], anchor[i].log()) for anchor in anchors for i in range(N))
    average = total(p) / len(p)
    entropy = -dot(average, average.log())
    return cross_entropy + task.options.entropy_weight * (math.log(len(prototypes)) - entropy)


# --- contrast ---


def simclr(task: Any, views: Views, stop: Stop) -> Tensor:
    """Equation 1 of Chen et al. 2020, or equation 6 of Yeh et al. 2021, without the positive."""
    z = unit(task.head(task.encoder(torch.cat(views))))
    terms = []
    for i in range(2 * N):
        right = (i + N) % (2 * N)
        left_out = {i, right} if task.options.decoupled else {i}
        scores = [dot(z[i], z[k]) / task.options.temperature for k in range(2 * N)]
        others = total(s.exp() for k, s in enumerate(scores) if k not in left_out)
        terms.append(-torch.log(scores[right].exp() / others))
    return mean(terms)


def in_groups(network: Callable[[Tensor], Tensor], x: Tensor, shuffle: Tensor) -> Tensor:
    """Return the outputs for images that pass in two groups of a random order, in their own order."""
    outputs: dict[int, Tensor] = {}
    for group in shuffle.chunk(2):
        outputs |= dict(zip(group.tolist(), network(x[group]), strict=True))
    return torch.stack([outputs[i] for i in range(len(x))])


def against(queue: Tensor, q: Tensor, k: Tensor, temperature: float) -> Tensor:
    """Return equation 1 of He et al. 2019, of queries and keys [n, D] and a queue."""
    return mean(
        surprise([dot(q[i], key) / temperature for key in (k[i], *queue)], 0) for i in range(len(q))
    )


def moco(task: Any, views: Views, stop: Stop) -> Tensor:
    """Equation 1 of He et al. 2019, with shuffled keys; both ways if symmetric."""
    *images, shuffle = views
    encoder, head = task.key_encoder
    terms = []
    for a, b in BOTH_WAYS if task.options.symmetric else BOTH_WAYS[:1]:
        q = unit(task.head(task.encoder(images[a])))
        k = unit(stop(in_groups(lambda x: head(encoder(x)), images[b], shuffle)))
        terms.append(against(task.queue.features, q, k, task.options.temperature))
    return mean(terms)


def densecl(task: Any, views: Views, stop: Stop) -> Tensor:
    """Equations 1 to 4 of Wang et al. 2021: the backbones' features say which places are a pair."""
    x1, x2, shuffle = views
    (encoder, head), (dense_head,) = task.key_encoder, task.dense_key_head
    k = unit(stop(in_groups(lambda x: head(encoder(x)), x2, shuffle)))
    key_map = stop(in_groups(encoder.feature_map, x2, shuffle)).flatten(2).mT
    q, query_map = unit(task.head(task.encoder(x1))), task.encoder.feature_map(x1).flatten(2).mT
    queries, keys = [], []
    for i in range(N):
        for place in query_map[i]:
            like = [float(dot(unit(place.detach()), unit(other))) for other in key_map[i]]
            queries.append(unit(task.dense_head(place)))
            keys.append(unit(stop(dense_head(key_map[i, like.index(max(like))]))))
    tau, share = task.options.temperature, task.options.weight
    of_places = against(task.dense_queue.features, torch.stack(queries), torch.stack(keys), tau)
    return (1 - share) * against(task.queue.features, q, k, tau) + share * of_places


def pixpro(task: Any, views: Views, stop: Stop) -> Tensor:
    """Equations 1 to 5 of Xie et al. 2021, both ways added."""
    *images, boxes_1, boxes_2 = views
    rows, columns = task.grid

    def embed(encoder: Any, projector: Any, x: Tensor) -> Tensor:
        places = encoder.feature_map(x).permute(0, 2, 3, 1)  # [B, h, w, d]
        return projector(places.flatten(0, 2)).view(N, rows * columns, -1)

    def cells(box: list[float]) -> tuple[list[tuple[float, float]], float]:
        left, top, right, bottom = box
        width, height = (right - left) / columns, (bottom - top) / rows
        centres = [
            (left + (c + 0.5) * width, top + (r + 0.5) * height)
            for r in range(rows)
            for c in range(columns)
        ]
        return centres, math.hypot(width, height)

    x = [embed(task.encoder, task.projector, image) for image in images]
    targets = [stop(embed(*task.target, image)) for image in images]
    terms = []
    for a, b in BOTH_WAYS:
        for i in range(N):
            g, u = unit(task.transform(x[a][i])), unit(x[a][i])
            y = [((u @ v).clamp(min=0).pow(2).unsqueeze(1) * g).sum(0) for v in u]
            pair = [cells(boxes[i].tolist()) for boxes in (boxes_1, boxes_2)]
            largest = max(diagonal for _, diagonal in pair)
            cosines = [
                dot(unit(y[m]), unit(targets[b][i][n]))
                for m, p in enumerate(pair[a][0])
                for n, q in enumerate(pair[b][0])
                if math.dist(p, q) / largest < task.options.threshold
            ]
            if cosines:
                count = torch.tensor(len(cosines)) + 1e-6  # rounded to float32, as in the task
                terms.append(-2 * total(cosines) / float(count) / N)
    return total(terms)


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
        scores = torch.cat([*old[v], z[v]]) @ prototypes.T
        q = stop(balanced(torch.exp(scores / task.options.epsilon))[-N:])
        for w in range(len(views)):
            if w != v:
                p = F.softmax(z[w] @ prototypes.T / task.options.temperature, dim=1)
                terms += [-dot(q[i], p[i].log()) for i in range(N)]
    return mean(terms)


def deepcluster(task: Any, views: Views, stop: Stop) -> Tensor:
    """Return the cross entropy of each crop and its image's cluster, each cluster's with its weight."""
    x, index = views
    logits = task.classifier(task.encoder(x))
    classes = [int(task.classes[i]) for i in index]
    return mean(task.weights[k] * surprise(list(logits[i]), k) for i, k in enumerate(classes))


def deepcluster_v2(task: Any, views: Views, stop: Stop) -> Tensor:
    """Return the cross entropy of all crops and their image's cluster, the mean over clusterings."""
    *crops, index = views
    features = torch.cat(through(task.encoder, tuple(crops)))
    z = [unit(x) for x in task.head(features).chunk(len(crops))]
    return mean(
        surprise([dot(crop[i], c) / task.options.temperature for c in prototypes], int(classes[i]))
        for prototypes, classes in zip(task.prototypes, task.classes[index].T, strict=True)
        for crop in z
        for i in range(N)
    )


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


def tico(task: Any, views: Views, stop: Stop) -> Tensor:
    """Equations 4 and 6 of Zhu et al. 2022: C holds this batch, and has no gradient."""
    z1 = unit(task.head(task.encoder(views[0])))
    encoder, head = task.teacher
    z2 = unit(stop(head(encoder(views[1]))))
    beta, batch = task.options.beta, total(torch.outer(z, z) for z in z1) / N
    c = stop(beta * task.moment.moment + (1 - beta) * batch)
    return mean(1 - dot(z1[i], z2[i]) + task.options.rho * dot(z1[i], c @ z1[i]) for i in range(N))


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
