"""Deep InfoMax and MINE: the conformance suite, then what the papers say, by literal loops."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from ssl_zoo_infomax import dim as dim_module
from ssl_zoo_infomax import evaluation
from ssl_zoo_infomax.dim import ConcatCritic, DeepInfoMax, DotCritic, information, prior_losses
from ssl_zoo_infomax.estimators import DonskerVaradhan, donsker_varadhan, info_nce, jsd, log_mean_exp
from ssl_zoo_infomax.evaluation import MAX_SAMPLES, VIEW_INFORMATION, measure
from ssl_zoo_infomax.mine import MINE, estimate
from torch import Tensor, nn

from ssl_zoo import UserError, distributed
from ssl_zoo.evaluation import Subject, known_metrics, known_protocols
from ssl_zoo.runtime.device import Device
from ssl_zoo.testing import Case, Check, SyntheticImages, parametrize_with_checks
from ssl_zoo.views import Rng

SMALL = {"units": 32}
VIT = {"name": "test_vit", "options": {"patch_size": 4}}


@parametrize_with_checks(DeepInfoMax, options=SMALL)
def test_local_conforms(check: Check) -> None:
    check()


@parametrize_with_checks(
    DeepInfoMax, options={**SMALL, "estimator": "infonce", "gamma": 0.0, "alpha": 0.5}
)
def test_local_and_global_with_infonce_conform(check: Check) -> None:
    check()


@parametrize_with_checks(DeepInfoMax, options={**SMALL, "alpha": 1.0, "beta": 0.0})
def test_global_conforms(check: Check) -> None:
    check()


@parametrize_with_checks(
    DeepInfoMax, options={**SMALL, "estimator": "dv", "alpha": 1.0, "global_critic": "dot"}
)
def test_donsker_varadhan_conforms(check: Check) -> None:
    check()


@parametrize_with_checks(DeepInfoMax, options=SMALL, backbone=VIT)
def test_local_conforms_on_a_transformer(check: Check) -> None:
    check()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def task(**options: Any) -> DeepInfoMax:
    case = Case.of(DeepInfoMax, {**SMALL, **options})
    built = case.construct(case.data)
    assert isinstance(built, DeepInfoMax)
    return built


def photos(n: int = 6, seed: int = 0) -> Tensor:
    return SyntheticImages().batch(n, seed)


# --- the estimators ---


def softplus(t: float) -> float:
    return math.log(1 + math.exp(t))


def test_estimators_are_the_papers_sums() -> None:
    positive, negative = noise(5, 3), noise(5, 4, 3, seed=1)
    p, q = positive.flatten().tolist(), negative.flatten().tolist()
    assert jsd(positive, negative).item() == pytest.approx(
        sum(-softplus(-t) for t in p) / 15 - sum(softplus(t) for t in q) / 60, rel=1e-5
    )
    assert donsker_varadhan(positive, negative).item() == pytest.approx(
        sum(p) / 15 - math.log(sum(map(math.exp, q)) / 60), rel=1e-5
    )
    total = 0.0
    for b, place in itertools.product(range(5), range(3)):
        t = positive[b, place].item()
        others = sum(math.exp(negative[b, k, place].item()) for k in range(4))
        total += math.log(5) + t - math.log(math.exp(t) + others)
    assert info_nce(positive, negative).item() == pytest.approx(total / 15, rel=1e-5)


def test_what_estimators_say_of_a_critic_that_knows_nothing_and_of_one_that_knows_all() -> None:
    nothing, others = torch.zeros(7), torch.zeros(7, 6)
    assert jsd(nothing, others).item() == pytest.approx(-math.log(4))
    assert info_nce(nothing, others).item() == pytest.approx(0, abs=1e-6)
    assert donsker_varadhan(nothing + 3, others + 3).item() == pytest.approx(0, abs=1e-6)
    assert jsd(nothing + 50, others - 50).item() == pytest.approx(0, abs=1e-6)
    assert info_nce(nothing + 50, others - 50).item() == pytest.approx(math.log(7), rel=1e-5)


def test_scores_of_any_size_stay_finite() -> None:
    for size in (1e4, -1e4):
        positive, negative = torch.full((3,), size), torch.full((3, 2), -size)
        for estimator in (jsd, info_nce, donsker_varadhan):
            assert estimator(positive, negative).isfinite()


def joint_table() -> Tensor:
    """Return a joint distribution [4, 5] of two dependent variables."""
    table = (1.5 * noise(4, 5)).exp()
    return table.div(table.sum()).double()


def test_the_best_critic_gives_the_divergences_of_a_table() -> None:
    p = joint_table()
    product = p.sum(1, keepdim=True) * p.sum(0, keepdim=True)
    best = (p / product).log()
    information_in_nats = (p * best).sum()
    middle = (p + product) / 2
    divergence = ((p * (p / middle).log()).sum() + (product * (product / middle).log()).sum()) / 2

    # Expectations over a table are means over as many equal scores as a cell has mass.
    units = 4000
    positive = best.flatten().repeat_interleave((p * units).round().long().flatten())
    negative = best.flatten().repeat_interleave((product * units).round().long().flatten())
    assert donsker_varadhan(positive, negative).item() == pytest.approx(
        information_in_nats.item(), abs=0.01
    )
    assert jsd(positive, negative).item() == pytest.approx(2 * divergence.item() - math.log(4), abs=0.01)
    for seed in range(20):  # any other critic says less
        worse = (best + 0.5 * noise(4, 5, seed=seed).double()).flatten()
        expectations = (p.flatten() * worse).sum(), (product.flatten() * worse.exp()).sum().log()
        assert expectations[0] - expectations[1] <= information_in_nats


def test_info_nce_is_a_lower_bound_over_samples_for_any_critic() -> None:
    p = joint_table()
    best = (p / (p.sum(1, keepdim=True) * p.sum(0, keepdim=True))).log()
    truth = (p * best).sum().item()
    n, rounds = 4, 20_000
    drawn = torch.multinomial(
        p.flatten(), n * rounds, replacement=True, generator=torch.Generator().manual_seed(0)
    )
    x, y = (drawn // 5).view(rounds, n), (drawn % 5).view(rounds, n)
    for critic in (best, 2 * best, 8 * best, 0 * best):
        scores = critic[x[:, 0, None], y]  # [rounds, n], the first is the positive
        assert info_nce(scores[:, 0], scores[:, 1:]).item() <= truth + 0.01


def test_donsker_varadhan_of_a_sample_lies_above_its_expectation() -> None:
    scores = torch.tensor([-1.0, 0.0, 2.0])
    exact = donsker_varadhan(torch.zeros(1), scores)
    batches = [torch.tensor(b) for b in itertools.product(scores.tolist(), repeat=2)]
    mean = torch.stack([donsker_varadhan(torch.zeros(1), b) for b in batches]).mean()
    assert mean > exact + 0.1


def test_the_log_of_a_mean_is_that_of_equal_parts() -> None:
    scores = noise(4, 6, 3)
    parts = torch.stack([log_mean_exp(part) for part in scores])
    assert torch.allclose(log_mean_exp(parts), log_mean_exp(scores))
    assert log_mean_exp(scores).item() == pytest.approx(scores.exp().mean().log().item(), rel=1e-5)


# --- the gradient that MINE corrects ---


def test_the_corrected_gradient_has_no_bias_at_tiny_batches_and_the_naive_one_has() -> None:
    a = torch.tensor([-1.0, 0.5, 2.0])  # T = θ·a; every negative is one of these, equally likely
    theta = 1.0
    exact = (a * (theta * a).exp()).mean() / (theta * a).exp().mean()

    def gradient(objective: Any, batch: tuple[float, ...]) -> Tensor:
        t = torch.tensor(theta, requires_grad=True)
        (slope,) = torch.autograd.grad(-objective(torch.zeros(1), t * torch.tensor(batch)), t)
        return slope

    batches = list(itertools.product(a.tolist(), repeat=2))
    naive = torch.stack([gradient(donsker_varadhan, b) for b in batches]).mean()
    mine = DonskerVaradhan()
    mine.log_average.copy_((theta * a).exp().mean().log())  # where the average converges to
    corrected = torch.stack([gradient(mine, b) for b in batches]).mean()
    assert corrected.item() == pytest.approx(exact.item(), rel=1e-5)
    assert abs(naive.item() - exact.item()) > 0.2


def test_the_correction_is_the_sum_over_negatives_by_the_average() -> None:
    mine = DonskerVaradhan()
    mine.log_average.fill_(0.7)
    negative = noise(6).requires_grad_()
    value = mine(torch.ones(2), negative)
    assert value.item() == pytest.approx(donsker_varadhan(torch.ones(2), negative).item(), rel=1e-5)
    value.backward()
    assert negative.grad is not None
    for t, slope in zip(negative.tolist(), negative.grad.tolist(), strict=True):
        assert slope == pytest.approx(-math.exp(t) / 6 / math.exp(0.7), rel=1e-5)


def test_the_moving_average_moves_after_a_step_alone() -> None:
    mine, expected = DonskerVaradhan(decay=0.9), 0.0
    for step in range(4):
        negative = noise(5, seed=step)
        before = mine.log_average.clone()
        first, second = mine(torch.zeros(1), negative), mine(torch.zeros(1), negative)
        assert torch.equal(first, second)
        assert torch.equal(mine.log_average, before)
        mine.after_step()
        mean = negative.exp().mean().item()
        expected = mean if step == 0 else 0.9 * expected + 0.1 * mean
        assert mine.log_average.exp().item() == pytest.approx(expected, rel=1e-5)
    again = DonskerVaradhan()
    again.load_state_dict(mine.state_dict())
    assert torch.equal(again.log_average, mine.log_average)


# --- MINE as an estimator ---


def gaussians(n: int, d: int, rho: float, seed: int = 0) -> tuple[Tensor, Tensor, float]:
    """Return samples of two correlated d-dimensional Gaussians, and their information in nats."""
    x, e = noise(2, n, d, seed=seed)
    return x, rho * x + math.sqrt(1 - rho**2) * e, -d / 2 * math.log(1 - rho**2)


@pytest.mark.parametrize(
    ("d", "rho", "tolerance"), [(1, 0.5, 0.04), (1, 0.9, 0.06), (2, -0.7, 0.06), (4, 0.8, 0.15)]
)
def test_mine_finds_the_information_of_gaussians(d: int, rho: float, tolerance: float) -> None:
    estimates, truth = [], 0.0
    for seed in range(2):
        x, y, truth = gaussians(6000, d, rho, seed)
        estimates.append(estimate(x, y, steps=300, seed=seed))
    mean = sum(estimates) / len(estimates)
    assert mean == pytest.approx(truth, abs=tolerance)
    assert mean < truth + 0.05  # a lower bound, within noise


@pytest.mark.parametrize("n", [400, 4000])
def test_mine_finds_nothing_between_independent_variables(n: int) -> None:
    x, y, _ = gaussians(n, 3, 0.0)
    assert estimate(x, y, steps=200) == pytest.approx(0, abs=0.05)


def test_mine_does_not_depend_on_scale_and_place() -> None:
    x, y, _ = gaussians(2000, 1, 0.8)
    assert estimate(1000 * x + 5, y / 100 - 3, steps=100) == pytest.approx(
        estimate(x, y, steps=100), abs=0.02
    )


def test_mine_finds_what_no_correlation_tells() -> None:
    x = noise(4000, 1)
    y = x.abs() + 0.3 * noise(4000, 1, seed=1)
    assert abs(torch.corrcoef(torch.cat([x, y], 1).T)[0, 1]) < 0.05
    assert estimate(x, y) > 0.4


def test_an_estimate_follows_from_its_seed_and_touches_no_global_generator() -> None:
    x, y, _ = gaussians(500, 2, 0.7)
    state = torch.get_rng_state()
    with torch.no_grad():
        first = estimate(x, y, steps=40, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert estimate(x, y, steps=40, seed=1) == first
    assert estimate(x, y, steps=40, seed=2) != first


def test_constant_columns_say_nothing() -> None:
    x, y, _ = gaussians(500, 2, 0.0)
    x[:, 0] = 3.0
    assert estimate(x, torch.zeros_like(y), steps=40) == 0.0
    assert math.isfinite(estimate(x, y, steps=40))


@pytest.mark.parametrize(("n", "m"), [(20, 21), (9, 9)])
def test_mine_refuses_what_it_cannot_split(n: int, m: int) -> None:
    with pytest.raises(ValueError, match=f"not {n} and {m}"):
        estimate(noise(n, 2), noise(m, 2))


def test_mine_measures_against_every_other_sample() -> None:
    x, y, _ = gaussians(7, 2, 0.5)
    mine = MINE(2, 2, hidden=8, generator=torch.Generator().manual_seed(0))
    nn.init.normal_(mine.critic[-1].weight, generator=torch.Generator().manual_seed(0))

    def t(i: int, j: int) -> float:
        score: Tensor = mine.critic(torch.cat([x[i], y[j]]))
        return score.item()

    together = sum(t(i, i) for i in range(7)) / 7
    apart = sum(math.exp(t(i, j)) for i in range(7) for j in range(7) if i != j) / 42
    assert mine.measure(x, y, shifts=100) == pytest.approx(together - math.log(apart), abs=1e-5)


# --- Deep InfoMax ---


def test_the_dot_critic_is_the_product_of_two_embeddings() -> None:
    torch.manual_seed(0)
    critic = DotCritic(6, 5, 8).eval()
    y, parts = noise(3, 6), noise(3, 4, 5, seed=1)
    scores = critic(y, parts)
    assert scores.shape == (3, 3, 4)
    for b, n, p in itertools.product(range(3), range(3), range(4)):
        product = critic.vector(y[b, None])[0] @ critic.part(parts[n, p, None])[0]
        assert scores[b, n, p].item() == pytest.approx(product.item() / math.sqrt(8), abs=1e-5)


def test_embeddings_of_cells_are_1x1_convolutions_with_a_shortcut() -> None:
    torch.manual_seed(0)
    embedding = dim_module.Embedding(5, 8)
    x = noise(2, 5, 3, 3)
    first, norm, _, second = embedding.layers

    def convolved(weight: Tensor, bias: Tensor | None, z: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(z, weight[:, :, None, None], bias)

    as_map = torch.nn.functional.batch_norm(
        convolved(first.weight, None, x), None, None, norm.weight, norm.bias, training=True
    )
    as_map = convolved(second.weight, second.bias, as_map.relu())
    as_map = as_map + convolved(embedding.shortcut.weight, None, x)
    cells = embedding(x.flatten(2).transpose(1, 2))
    assert torch.allclose(cells.transpose(1, 2).view(2, 8, 3, 3), as_map, atol=1e-5)
    assert torch.equal(embedding.shortcut(x[0, :, 0, 0])[:5], x[0, :, 0, 0])


def test_the_concat_critic_is_a_network_on_vector_and_part_side_by_side() -> None:
    torch.manual_seed(0)
    critic = ConcatCritic(6, 5, 8)
    y, parts = noise(3, 6), noise(3, 2, 5, seed=1)
    whole = nn.Linear(11, 8)
    with torch.no_grad():
        whole.weight.copy_(torch.cat([critic.vector.weight, critic.part.weight], 1))
        whole.bias.copy_(critic.vector.bias)
    scores = critic(y, parts)
    for b, n, p in itertools.product(range(3), range(3), range(2)):
        alone = critic.rest(whole(torch.cat([y[b], parts[n, p]])))
        assert scores[b, n, p].item() == pytest.approx(alone.item(), abs=1e-5)


def test_a_vectors_negatives_are_the_same_part_of_the_other_images() -> None:
    scores = noise(4, 4, 3)
    parts = [(b, p) for b in range(4) for p in range(3)]
    pairs = [(b, n, p) for b, p in parts for n in range(4) if n != b]
    t = scores.tolist()
    of_jsd = sum(-softplus(-t[b][b][p]) for b, p in parts) / 12
    of_jsd -= sum(softplus(t[b][n][p]) for b, n, p in pairs) / 36
    assert information(scores, "jsd").item() == pytest.approx(of_jsd, rel=1e-5)
    of_dv = sum(t[b][b][p] for b, p in parts) / 12
    of_dv -= math.log(sum(math.exp(t[b][n][p]) for b, n, p in pairs) / 36)
    assert information(scores, "dv").item() == pytest.approx(of_dv, rel=1e-5)
    of_nce = sum(
        math.log(4) + t[b][b][p] - math.log(sum(math.exp(t[b][n][p]) for n in range(4)))
        for b, p in parts
    )
    assert information(scores, "infonce").item() == pytest.approx(of_nce / 12, rel=1e-5)


@pytest.mark.parametrize("estimator", ["jsd", "infonce", "dv"])
def test_shares_of_two_processes_make_the_joint_estimate(
    estimator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = noise(6, 6, 2)
    joint = information(scores, estimator)
    of_each = torch.stack(
        [
            log_mean_exp(torch.stack([scores[i, j] for i in rows for j in range(6) if i != j]))
            for rows in (range(3), range(3, 6))
        ]
    )
    monkeypatch.setattr(distributed, "all_gather", lambda x: of_each)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(information(scores[3 * rank : 3 * rank + 3], estimator))
    assert torch.stack(shares).mean().item() == pytest.approx(joint.item(), rel=1e-5)


def test_loss_is_the_weighted_sum_of_what_is_logged() -> None:
    model = task(alpha=0.5, beta=2.0, gamma=0.3, estimator="infonce")
    losses = model.loss(model.views(photos(), Rng(0)))
    logs = {name: value.item() for name, value in losses.logs.items()}
    total = -0.5 * logs["global"] - 2 * logs["local"] + 0.3 * logs["fooling"] + logs["telling"]
    assert losses.total.item() == pytest.approx(total, rel=1e-5)
    assert logs["mi_bound"] == max(logs["global"], logs["local"])


def test_a_bound_is_logged_where_there_is_one() -> None:
    for estimator, given in (("jsd", False), ("infonce", True), ("dv", True)):
        model = task(estimator=estimator)
        assert ("mi_bound" in model.loss(model.views(photos(), Rng(0))).logs) == given


def test_parts_without_weight_are_not_there() -> None:
    local = task(gamma=0.0)
    assert local.global_critic is None
    assert local.discriminator is None
    assert len(local.views(photos(), Rng(0))) == 1
    whole = task(alpha=1.0, beta=0.0)
    assert whole.local_critic is None
    _, prior = whole.views(photos(), Rng(0))
    assert prior.shape == (6, whole.encoder.width)
    assert 0 <= prior.min() < 0.1 < 0.9 < prior.max() < 1


def test_each_player_moves_itself_alone() -> None:
    torch.manual_seed(0)
    discriminator = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    y, prior = noise(5, 3).requires_grad_(), torch.rand(5, 3)
    fooling, telling = prior_losses(discriminator, y, prior)

    def probability(v: Tensor) -> float:
        return 1 / (1 + math.exp(-discriminator(v).item()))

    assert fooling.item() == pytest.approx(-sum(math.log(probability(v)) for v in y) / 5, rel=1e-4)
    log_likelihood = sum(
        math.log(probability(u)) + math.log(1 - probability(v)) for u, v in zip(prior, y, strict=True)
    )
    assert telling.item() == pytest.approx(-log_likelihood / 10, rel=1e-4)
    fooling.backward()
    assert y.grad is not None
    assert y.grad.abs().sum() > 0
    assert all(p.grad is None for p in discriminator.parameters())
    y.grad = None
    telling.backward()
    assert y.grad is None
    assert all(p.grad is not None for p in discriminator.parameters())


def test_matching_the_prior_spreads_features_over_the_unit_interval() -> None:
    def distance(gamma: float) -> float:
        model = task(gamma=gamma)
        adam = torch.optim.Adam(model.parameters(), lr=1e-3)
        for step in range(60):
            adam.zero_grad()
            model.loss(model.views(photos(32, seed=step), Rng(step))).total.backward()
            adam.step()
        with torch.no_grad():
            y = model.encoder(model.views(photos(64, seed=99), Rng(99))[0])
        quantiles = torch.linspace(0.05, 0.95, 19)
        return float((y.flatten().quantile(quantiles) - quantiles).abs().mean())

    assert distance(5.0) < 0.5 * distance(0.0)


def test_the_local_objective_raises_the_bound() -> None:
    model = task(estimator="infonce", gamma=0.0)
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    bounds = []
    for step in range(40):
        losses = model.loss(model.views(photos(32), Rng(step)))
        adam.zero_grad()
        losses.total.backward()
        adam.step()
        bounds.append(losses.logs["mi_bound"].item())
    assert bounds[0] < 0.5
    assert 1.5 < bounds[-1] < math.log(32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0, "beta": 0.0}, "one of them must be above 0"),
        ({"crop_scale": (0.9, 0.5)}, "the smaller one first"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeepInfoMax.Options(**options)


def test_a_stage_that_there_is_not_is_refused_at_once() -> None:
    with pytest.raises(UserError, match=r"task\.stage: .*no stage 9"):
        task(stage=9)


# --- the protocol ---


class Named(nn.Module):
    """Not an encoder, but enough of one for a subject."""


def subject(embed: Any, encoder: Any, n: int = 300) -> Subject:
    from ssl_zoo.data import ArraySplit, DataSet

    split = ArraySplit(photos(n), None)
    device = Device(torch.device("cpu"), "fp32", False)
    return Subject(
        "x",
        DataSet("photos", SyntheticImages().spec, split, None, split),
        device,
        embed,
        encoder=encoder,
    )


def test_the_protocol_is_registered_and_needs_no_labels() -> None:
    assert known_protocols()["mine"] is VIEW_INFORMATION
    assert not VIEW_INFORMATION.labels
    assert known_metrics()["mine"].better is None


def test_views_differ_and_belong_together() -> None:
    x, y = subject(lambda x: x.mean((2, 3)), Named()).two_views(MAX_SAMPLES)
    assert x.shape == y.shape == (300, 3)
    assert not torch.equal(x, y)
    assert (x - y).norm() < 0.5 * (x - y.roll(1, 0)).norm()
    again = subject(lambda x: x.mean((2, 3)), Named()).two_views(MAX_SAMPLES)
    assert torch.equal(x, again[0])


def test_features_that_ignore_the_image_share_nothing_and_those_that_see_it_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluation, "SPLITS", 1)
    seeing = measure(subject(lambda x: x.mean((2, 3)), Named()))["mine"]
    blind = measure(subject(lambda x: x.mean((2, 3)) * 0 + 1, Named()))["mine"]
    raw = measure(subject(None, None))["mine"]
    assert blind == pytest.approx(0, abs=0.05)
    assert seeing > 0.5
    assert raw > 0.5


def test_few_samples_and_views_that_never_differ_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measure(subject(lambda x: x.mean((2, 3)), Named(), n=20)) == {}
    monkeypatch.setattr(
        type(SyntheticImages().spec), "vary", lambda self, batch, generator: self.prepare(batch)
    )
    assert measure(subject(lambda x: x.mean((2, 3)), Named())) == {}


def test_plugins_are_listed_without_torch() -> None:
    code = "import sys, ssl_zoo_infomax.protocols; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
