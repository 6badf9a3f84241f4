"""DeepCluster: principal components, even weights of clusters, and a new classifier after each epoch."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.backbones.create import create_backbone
from ssl_zoo.nn import MemoryBank, principal_components
from ssl_zoo.testing import Check, parametrize_with_checks
from ssl_zoo_vision.clustering.deepcluster import DeepCluster
from tests.vision.small_tasks import TINY_RESNET, spec, views

SAMPLES = 24


@parametrize_with_checks(DeepCluster, options={"prototypes": 4})
def test_deepcluster(check: Check) -> None:
    check()


def build(**options: Any) -> Any:
    torch.manual_seed(0)
    data = replace(spec(), samples=SAMPLES)
    given = {"prototypes": 4, **options}
    return DeepCluster(create_backbone(TINY_RESNET, data), DeepCluster.Options(**given), data)


def remember(task: Any, features: Tensor) -> None:
    task.bank.note(features, torch.arange(len(features)))
    task.bank.update()


def uneven() -> Tensor:
    """Return features [24, 64] in groups of 12, 6, 4 and 2, which span three dimensions."""
    group = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3] * 2)
    noise = torch.randn(SAMPLES, 3, generator=torch.Generator().manual_seed(0))
    corners = torch.cat([torch.zeros(1, 3), torch.eye(3)])
    return F.pad(10 * corners[group] + noise, (0, 61))


def test_principal_components_are_uncorrelated_of_variance_1_and_in_order() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    x = x * torch.tensor([5.0, 0.1, 2.0, 1.0, 3.0, 0.5]) @ torch.linalg.qr(x[:6])[0] + 7
    w = principal_components(x, 3)
    torch.testing.assert_close(w.T @ w / 199, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(w.mean(0), torch.zeros(3, dtype=torch.float64))
    u, *_ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    torch.testing.assert_close((w.T @ u[:, :3]).abs() / 199**0.5, torch.eye(3, dtype=torch.float64))


def test_principal_components_of_few_or_equal_rows_are_finite() -> None:
    assert principal_components(torch.randn(3, 8), 3).isfinite().all()
    assert (principal_components(torch.ones(5, 4), 2) == 0).all()


def test_a_bank_keeps_the_length_of_features_if_it_is_to() -> None:
    bank = MemoryBank(5, 3, momentum=0, normalise=False)
    features = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.5, 0.0]])
    bank.note(features, torch.tensor([4, 1]))
    bank.update()
    assert torch.equal(bank.features[[4, 1]], features)


def test_clusters_do_not_depend_on_the_scale_of_directions_or_on_which_these_are() -> None:
    task, features = build(components=3), uneven()
    remember(task, features)
    task.cluster(0)
    found = task.classes.clone()
    mixed = torch.eye(64)
    mixed[:3, :3] = torch.tensor([[5.0, 1.0, 0.0], [0.0, 0.3, 0.2], [1.0, 0.0, 2.0]])
    remember(task, features @ mixed + 3)
    task.cluster(0)
    assert torch.equal(task.classes, found)
    assert len(found.unique()) == 4


def test_all_clusters_weigh_alike_though_they_are_of_different_sizes() -> None:
    task, features = build(components=3), uneven()
    remember(task, features)
    task.cluster(0)
    sizes = task.classes.bincount(minlength=4)
    assert sizes.max() >= 2 * sizes.min() > 0
    torch.testing.assert_close(sizes * task.weights, torch.full((4,), SAMPLES / 4))
    assert task.weights[task.classes].mean().item() == pytest.approx(1)
    # The mean over all images is that over images drawn evenly from clusters, and then in the cluster.
    errors = torch.rand(SAMPLES, generator=torch.Generator().manual_seed(1))
    drawn = torch.stack([errors[task.classes == k].mean() for k in range(4)]).mean()
    torch.testing.assert_close((task.weights[task.classes] * errors).mean(), drawn)


def test_the_loss_is_the_weighted_cross_entropy_over_images_with_a_cluster() -> None:
    task, features = build(components=3), uneven()
    remember(task, features)
    task.cluster(0)
    task.classes[5] = -100
    task.classifier.weight.data.normal_()
    (x,), index = views(task.eval(), 8), torch.arange(8)
    log_p = task.classifier(task.encoder(x)).log_softmax(1)
    kept = [i for i in range(8) if i != 5]
    terms = [-task.weights[task.classes[i]] * log_p[i, task.classes[i]] for i in kept]
    losses = task.loss((x, index))
    torch.testing.assert_close(losses.total, torch.stack(terms).mean())
    assert losses.weight == 7


def test_labels_that_are_permuted_between_epochs_cost_log_k_at_first_as_the_classifier_is_new() -> None:
    task = build(components=3)
    remember(task, uneven())
    task.cluster(0)
    (x,), index = views(task, SAMPLES), torch.arange(SAMPLES)
    optimizer = torch.optim.Adam(task.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        loss = task.loss((x, index)).total
        loss.backward()
        optimizer.step()
    assert loss < 0.7 * math.log(4)
    task.bank.clear()
    old = task.classes.clone()
    task.cluster(1)
    assert not torch.equal(old, task.classes)  # other numbers of the same clusters
    assert task.loss((x, index)).total.item() == pytest.approx(math.log(4), abs=0.1)
    assert (task.classifier.bias == 0).all()
    assert 0.005 < task.classifier.weight.std() < 0.02


def test_an_epoch_ends_when_as_many_images_were_seen_as_there_are() -> None:
    task = build(components=3)
    task.before_training(iter([]))
    for step in range(4):
        (x,) = views(task, 8)
        before = task.classes.clone()
        task.loss((x, (torch.arange(8) + 8 * step) % SAMPLES))
        task.after_step(0.1)
        assert torch.equal(before, task.classes) == (step != 2)
    assert task.bank.seen.all()


def test_the_first_clusters_are_those_of_the_untrained_network() -> None:
    task = build(components=3).eval()
    (x,) = views(task, SAMPLES)
    task.train()
    task.encoder.eval()
    task.before_training((x[rows], rows) for rows in torch.randperm(SAMPLES).chunk(3))
    torch.testing.assert_close(task.bank.features, task.encoder(x), atol=1e-5, rtol=1e-4)
    assert task.classes.unique().tolist() == [0, 1, 2, 3]
