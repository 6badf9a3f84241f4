"""Teachers, banks, prototypes and clusters against slow, literal references in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ssl_zoo.nn
from ssl_zoo.nn import (
    Centre,
    FeatureQueue,
    MemoryBank,
    Prototypes,
    Teacher,
    across,
    kmeans,
    mlp,
    schedule,
    sinkhorn,
    soft_cross_entropy,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def shares(*shape: int, seed: int = 0) -> Tensor:
    return normal(*shape, seed=seed).softmax(-1)


# --- heads and teachers


def test_an_mlp_can_have_another_activation_other_biases_and_a_transformers_start() -> None:
    head = mlp([6, 50, 40], norm=False, act=nn.GELU, std=0.02)
    assert [type(m) for m in head] == [nn.Linear, nn.GELU, nn.Linear]
    assert 0.01 < head[0].weight.std() < 0.03
    assert head[0].weight.abs().max() <= 0.04
    assert head[2].bias.eq(0).all()
    without, everywhere = mlp([6, 5, 3], bias=False), mlp([6, 5, 3], last_norm=True, bias=True)
    assert [m.bias is None for m in without if isinstance(m, nn.Linear)] == [True, True]
    assert [m.bias is None for m in everywhere if isinstance(m, nn.Linear)] == [False, False]


def test_a_teacher_is_the_moving_average_of_its_students_parts() -> None:
    encoder, head = nn.Linear(4, 3).double(), nn.Linear(3, 2).double()
    teacher = Teacher(encoder, head, start=0.9)
    x, expected = normal(5, 4), [p.detach().clone() for p in (*encoder.parameters(), *head.parameters())]
    assert teacher(x).equal(head(encoder(x)))
    assert not teacher(x).requires_grad
    for step in range(4):
        for p in (*encoder.parameters(), *head.parameters()):
            p.data += 1 + step
        momentum = 1 - 0.1 * (math.cos(math.pi * step / 3) + 1) / 2
        teacher.update(step / 3, encoder, head)
        students = (*encoder.parameters(), *head.parameters())
        expected = [momentum * e + (1 - momentum) * p for e, p in zip(expected, students, strict=True)]
    for p, e in zip(teacher.parameters(), expected, strict=True):
        torch.testing.assert_close(p, e)
        assert not p.requires_grad
    assert Teacher(encoder, start=0.9, kind="linear", share=0.5).momentum(0.25) == schedule(
        0.9, 1.0, 0.25, "linear", 0.5
    )


# --- queues and banks


def test_a_queue_knows_how_many_rows_were_pushed_and_when_it_is_full() -> None:
    queue = FeatureQueue(5, 2)
    for pushed, filled in ((2, 2), (2, 4), (3, 5), (9, 5)):
        assert not queue.full or filled == 5
        queue.push(torch.ones(pushed, 2))
        assert queue.filled == filled
    assert queue.pushed == 2 + 2 + 3 + 9
    assert queue.full


def test_a_queue_saved_before_it_counted_is_still_read() -> None:
    queue = FeatureQueue(5, 2)
    state = {k: v for k, v in queue.state_dict().items() if k != "pushed"}
    other = FeatureQueue(5, 2)
    other.load_state_dict(state)
    assert other.features.equal(queue.features)


def test_what_is_noted_waits_for_the_update_and_can_be_forgotten() -> None:
    queue = FeatureQueue(4, 2)
    before = queue.features.clone()
    queue.note(torch.ones(1, 2, requires_grad=True))
    assert queue.features.equal(before)
    queue.clear()
    queue.eval().note(torch.ones(1, 2))
    queue.update()
    assert queue.features.equal(before)
    queue.train().note(torch.ones(1, 2))
    queue.update()
    queue.update()
    assert queue.place == 1
    assert queue.features[0].tolist() == [1, 1]


def test_a_banks_rows_move_by_momentum_and_stay_unit_and_the_last_of_a_sample_counts() -> None:
    bank = MemoryBank(6, 3, momentum=0.5).double()
    expected, z = bank.features.clone(), normal(5, 3)
    index = torch.tensor([4, 1, 4, 0, 1])
    bank.note(z[:3], index[:3])
    bank.note(z[3:], index[3:])
    assert bank.features.equal(expected)
    bank.update()
    for sample, row in ((4, 2), (0, 3), (1, 4)):
        moved = 0.5 * expected[sample] + 0.5 * z[row] / z[row].norm()
        expected[sample] = moved / moved.norm()
    torch.testing.assert_close(bank.features, expected)
    assert bank.seen.tolist() == [True, True, False, False, True, False]
    assert bank.rows(index).equal(bank.features[index])
    bank.update()
    torch.testing.assert_close(bank.features, expected)


# --- prototypes


def test_prototypes_return_the_cosine_with_each_and_rest_while_frozen() -> None:
    prototypes, z = Prototypes(4, 3, gain=True).double(), normal(5, 4)
    cosine = F.cosine_similarity(z.unsqueeze(1), prototypes.weight.unsqueeze(0), dim=2)
    torch.testing.assert_close(prototypes(z), cosine)
    prototypes.weight.data *= 7
    torch.testing.assert_close(prototypes(z), cosine)
    z.requires_grad_()
    prototypes(z, trained=False).pow(2).sum().backward()
    assert prototypes.weight.grad is None
    assert prototypes.gain is not None
    assert prototypes.gain.grad is None
    assert z.grad is not None
    prototypes(z).pow(2).sum().backward()
    assert prototypes.weight.grad is not None
    with torch.autocast("cpu", torch.bfloat16):
        assert prototypes.float()(z.bfloat16()).dtype == torch.float32


def literal_sinkhorn(logits: Tensor, rounds: int) -> list[list[float]]:
    """Algorithm of SwAV's appendix A on plain lists: samples in rows, prototypes in columns."""
    q = [[math.exp(v) for v in row] for row in logits.tolist()]
    b, k = len(q), len(q[0])
    total = sum(map(sum, q))
    q = [[v / total for v in row] for row in q]
    for _ in range(rounds):
        sums = [sum(q[i][j] for i in range(b)) for j in range(k)]
        q = [[v / sums[j] / k for j, v in enumerate(row)] for row in q]
        q = [[v / sum(row) / b for v in row] for row in q]
    return [[v * b for v in row] for row in q]


@pytest.mark.parametrize("rounds", [1, 3])
def test_sinkhorn_is_the_papers_alternation_and_ends_on_samples(rounds: int) -> None:
    logits = 3 * normal(7, 4)
    q = sinkhorn(logits, rounds)
    torch.testing.assert_close(q, torch.tensor(literal_sinkhorn(logits, rounds)).double())
    torch.testing.assert_close(q.sum(1), torch.ones(7).double(), rtol=1e-14, atol=0)


def test_sinkhorn_ignores_what_a_prototype_has_more_but_not_what_a_sample_has() -> None:
    logits = normal(8, 5)
    torch.testing.assert_close(sinkhorn(logits + normal(1, 5, seed=1)), sinkhorn(logits))
    sample = torch.zeros(8, 1).double()
    sample[0] = 3
    assert not torch.allclose(sinkhorn(logits + sample), sinkhorn(logits))
    same = sinkhorn(normal(1, 5).expand(8, 5))
    torch.testing.assert_close(same, torch.full((8, 5), 0.2).double())


def test_sinkhorn_of_large_scores_in_half_precision_is_finite() -> None:
    q = sinkhorn(1000 * normal(6, 3).bfloat16())
    assert q.dtype == torch.float32
    assert q.isfinite().all()
    assert sinkhorn(torch.zeros(0, 3)).shape == (0, 3)


def test_a_centre_moves_towards_the_mean_of_a_step_after_it_was_used() -> None:
    centre, g = Centre(3).double(), normal(2, 5, 3)
    assert centre(g).equal(g)
    centre.note(g[0])
    centre.note(g[1, :2])
    assert centre(g).equal(g)
    centre.update()
    mean = torch.cat([g[0], g[1, :2]]).mean(0)
    torch.testing.assert_close(centre.centre, 0.1 * mean)
    torch.testing.assert_close(centre(g), g - 0.1 * mean)
    centre.note(g)  # of any number of axes
    centre.update()
    expected = 0.9 * 0.1 * mean + 0.1 * g.flatten(0, 1).mean(0)
    torch.testing.assert_close(centre.centre, expected)
    centre.note(g[0, :0])
    centre.update()
    torch.testing.assert_close(centre.centre, expected)


def literal_cross_entropy(q: Tensor, logits: Tensor, temperature: float) -> list[float]:
    losses = []
    for row, scores in zip(q.tolist(), logits.tolist(), strict=True):
        exps = [math.exp(s / temperature) for s in scores]
        losses.append(-sum(a * math.log(e / sum(exps)) for a, e in zip(row, exps, strict=True)))
    return losses


@pytest.mark.parametrize("limit", [2**24, 10])
def test_soft_cross_entropy_is_its_sum_whole_and_in_parts(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssl_zoo.nn, "MAX_SCORES", limit)
    q, z = shares(6, 4), normal(6, 3, seed=1).requires_grad_()
    prototypes = Prototypes(3, 4).double()
    each = literal_cross_entropy(q, prototypes(z), 0.1)
    loss = soft_cross_entropy(q, z, 0.1, scores=prototypes)
    assert loss.item() == pytest.approx(sum(each) / 6, rel=1e-12)
    loss.backward()
    whole = torch.autograd.grad(F.cross_entropy(prototypes(z) / 0.1, q), [z, prototypes.weight])
    torch.testing.assert_close(z.grad, whole[0])
    torch.testing.assert_close(prototypes.weight.grad, whole[1])
    weights = torch.arange(6.0).double()
    weighted = soft_cross_entropy(q, prototypes(z), 0.1, weights=weights)
    assert weighted.item() == pytest.approx(sum(i * e for i, e in enumerate(each)), rel=1e-12)


def test_soft_cross_entropy_is_finite_where_a_probability_underflows() -> None:
    """MSN's authors, and lightly, take log(p^-q), which is infinite there."""
    scores = torch.tensor([[100.0, 0.0]], requires_grad=True)
    loss = soft_cross_entropy(torch.tensor([[0.0, 1.0]]), scores, 0.1)
    loss.backward()
    assert loss.item() == pytest.approx(1000)
    assert scores.grad is not None
    assert scores.grad.tolist() == [[10, -10]]
    assert (scores / 0.1).softmax(1).pow(-1).log().isinf().any()


def test_soft_cross_entropy_of_no_rows_is_0_with_a_gradient() -> None:
    z = torch.zeros(0, 4, requires_grad=True)
    loss = soft_cross_entropy(torch.zeros(0, 4), z)
    loss.backward()
    assert loss == 0


@pytest.mark.parametrize(("large", "all_crops"), [(2, 2), (2, 5), (1, 3)])
def test_across_is_the_mean_over_pairs_of_different_crops(large: int, all_crops: int) -> None:
    targets = [shares(3, 4, seed=i) for i in range(large)]
    logits = [normal(3, 4, seed=10 + j) for j in range(all_crops)]
    pairs = [
        sum(literal_cross_entropy(targets[i], logits[j], 0.2)) / 3
        for i in range(large)
        for j in range(all_crops)
        if i != j
    ]
    assert across(targets, logits, 0.2).item() == pytest.approx(sum(pairs) / len(pairs), rel=1e-12)


def test_across_refuses_a_single_crop() -> None:
    with pytest.raises(ValueError, match="1 targets and 1 predictions make no pair"):
        across([shares(3, 4)], [normal(3, 4)])


# --- clusters


def literal_kmeans(x: list[list[float]], start: list[int], rounds: int) -> list[list[float]]:
    def unit(v: list[float]) -> list[float]:
        return [a / math.hypot(*v) for a in v]

    def nearest(v: list[float]) -> int:
        return max(range(len(c)), key=lambda k: sum(a * b for a, b in zip(v, c[k], strict=True)))

    x = [unit(v) for v in x]
    c = [x[i] for i in start]
    for _ in range(rounds):
        assigned = [nearest(v) for v in x]
        for k in range(len(c)):
            members = [v for v, a in zip(x, assigned, strict=True) if a == k]
            if members:
                c[k] = unit([sum(column) for column in zip(*members, strict=True)])
    return c


@pytest.mark.parametrize("limit", [2**24, 30])
def test_kmeans_is_lloyds_algorithm_on_the_sphere(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssl_zoo.nn, "MAX_SCORES", limit)
    x = normal(30, 3)
    start = torch.randperm(30, generator=torch.Generator().manual_seed(5))[:4]
    centroids, assigned = kmeans(x, 4, rounds=6, seed=5)
    torch.testing.assert_close(
        centroids, torch.tensor(literal_kmeans(x.tolist(), start.tolist(), 6)).double()
    )
    assert assigned.equal((F.normalize(x, dim=1) @ centroids.T).argmax(1))


def test_kmeans_finds_separated_blobs_whatever_the_lengths_of_their_rows() -> None:
    blobs = torch.eye(3).double().repeat_interleave(20, 0)
    x = (blobs + 0.05 * normal(60, 3)) * (1 + torch.arange(60).double().view(60, 1))
    starts = [torch.randperm(60, generator=torch.Generator().manual_seed(s))[:3] for s in range(20)]
    seed = next(s for s, start in enumerate(starts) if len((start // 20).unique()) == 3)
    assigned = kmeans(x, 3, seed=seed)[1].view(3, 20)
    assert assigned.eq(assigned[:, :1]).all()
    assert len(assigned.unique()) == 3
    assert kmeans(x, 3, seed=seed)[1].view(3, 20).equal(assigned)


@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_kmeans_by_distance_is_that_of_literal_rounds(shift: float) -> None:
    x = normal(60, 3) + 2 * F.one_hot(torch.arange(60) % 3, 3) + shift
    centroids, assigned = kmeans(x, 3, spherical=False)
    c = x[torch.randperm(60, generator=torch.Generator().manual_seed(0))[:3]]
    for _ in range(10):
        nearest = [min(range(3), key=lambda k: float((row - c[k]).square().sum())) for row in x]
        c = torch.stack([x[[i for i in range(60) if nearest[i] == k]].mean(0) for k in range(3)])
    torch.testing.assert_close(centroids, c)
    assert assigned.equal(torch.cdist(x - shift, c - shift).argmin(1))
    single, _ = kmeans(x.float(), 3, spherical=False)
    torch.testing.assert_close(single, c.float(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("limit", [2**24, 30])
def test_empty_clusters_take_over_the_farthest_rows(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssl_zoo.nn, "MAX_SCORES", limit)
    x = torch.cat([torch.zeros(50, 2).double(), normal(20, 2)])
    start = x[torch.randperm(70, generator=torch.Generator().manual_seed(0))[:8]]
    assert len(start.unique(dim=0)) < 8  # some are equal, so that only one of these gets rows
    assigned = kmeans(x, 8, spherical=False, relocate=True)[1]
    assert len(assigned.unique()) == 8
    distance, nearest = torch.cdist(x, start).min(1)
    empty = nearest.bincount(minlength=8) == 0
    once = kmeans(x, 8, rounds=1, spherical=False, relocate=True)[0]
    torch.testing.assert_close(once[empty], x[distance.topk(8).indices][empty])


def test_an_empty_cluster_keeps_its_centroid_and_too_many_clusters_are_refused() -> None:
    x = torch.ones(4, 2).double()
    centroids, assigned = kmeans(x, 3)
    torch.testing.assert_close(centroids, torch.full((3, 2), math.sqrt(0.5)).double())
    assert assigned.eq(assigned[0]).all()
    with pytest.raises(ValueError, match="4 rows cannot form 5 clusters"):
        kmeans(x, 5)
