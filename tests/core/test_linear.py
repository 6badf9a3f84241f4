"""The linear probe is scikit-learn's logistic regression, and the test split decides nothing."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from ssl_zoo.evaluation import Features
from ssl_zoo.evaluation.linear import PENALTIES, Axes, fit_logistic, linear_accuracy


def samples(n: int, seed: int, width: int = 12, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Classes that no line parts, of features of different scale and place."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=g)
    logits = x @ torch.randn(width, classes, generator=torch.Generator().manual_seed(99))
    noise = 2 * torch.randn(n, classes, generator=g)
    return x * torch.linspace(0.1, 30, width) + 5, (logits + noise).argmax(1)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_fit_has_scikit_learns_probabilities(penalty: float) -> None:
    x, y = samples(600, seed=0)
    x = (x - x.mean(0)) / x.std(0)
    weight = fit_logistic(x, y, 4, penalty)
    ours = (x @ weight[:, :-1].T + weight[:, -1]).softmax(1)
    theirs = LogisticRegression(C=1 / (penalty * len(x)), max_iter=5000, tol=1e-8)
    expected = torch.from_numpy(theirs.fit(x.numpy(), y.numpy()).predict_proba(x.numpy())).float()
    torch.testing.assert_close(ours, expected, atol=0.01, rtol=0)


def test_the_accuracy_is_scikit_learns_on_standardised_features() -> None:
    (bank, y), (test, test_y) = samples(2000, seed=1), samples(1000, seed=2)
    ours = linear_accuracy(Features(bank, y, test, test_y, 4))
    scaler = StandardScaler().fit(bank.numpy())
    theirs = [
        LogisticRegression(C=1 / (penalty * len(bank)), max_iter=5000)
        .fit(scaler.transform(bank.numpy()), y.numpy())
        .score(scaler.transform(test.numpy()), test_y.numpy())
        for penalty in PENALTIES
    ]
    assert 100 * min(theirs) - 0.2 <= ours <= 100 * max(theirs) + 0.2


def test_starting_elsewhere_ends_at_the_same_fit() -> None:
    x, y = samples(600, seed=0)
    x = (x - x.mean(0)) / x.std(0)
    cold = fit_logistic(x, y, 4, 1e-3)
    warm = fit_logistic(x, y, 4, 1e-3, start=fit_logistic(x, y, 4, 1e-2))
    torch.testing.assert_close(warm, cold, atol=0.02, rtol=0)


def test_the_test_labels_decide_nothing_but_the_score() -> None:
    (bank, y), (test, test_y) = samples(300, seed=1), samples(200, seed=2)
    right = linear_accuracy(Features(bank, y, test, test_y, 4))
    # Of one sample the classifier says one thing, whatever its label: the four scores add up.
    for i in range(3):
        one = [
            linear_accuracy(Features(bank, y, test[i : i + 1], torch.tensor([label]), 4))
            for label in range(4)
        ]
        assert sorted(one) == [0, 0, 0, 100]
    assert right > 40


def test_standardising_ignores_scale_and_place_of_the_features() -> None:
    (bank, y), (test, test_y) = samples(500, seed=1), samples(500, seed=2)
    moved = Features(1000 * bank - 7, y, 1000 * test - 7, test_y, 4)
    assert linear_accuracy(moved) == pytest.approx(
        linear_accuracy(Features(bank, y, test, test_y, 4)), abs=0.4
    )


@pytest.mark.parametrize("penalty", PENALTIES)
def test_measuring_weights_along_principal_axes_changes_no_fit(penalty: float) -> None:
    x, y = samples(600, seed=0)
    noise = torch.randn(600, 6, generator=torch.Generator().manual_seed(0))
    x = torch.cat([x, x[:, :6] + 0.1 * noise], 1)  # nearly collinear
    axes = Axes.of(x)
    rotated = fit_logistic(axes(x), y, 4, penalty, variance=axes.variance)
    standard = (x - axes.mean) / axes.std
    theirs = LogisticRegression(C=1 / (penalty * len(x)), max_iter=20000, tol=1e-9)
    expected = theirs.fit(standard.numpy(), y.numpy()).predict_proba(standard.numpy())
    ours = (axes(x) @ rotated[:, :-1].T + rotated[:, -1]).softmax(1)
    torch.testing.assert_close(ours, torch.from_numpy(expected).float(), atol=0.01, rtol=0)


def test_the_axes_are_those_of_the_standardised_features() -> None:
    x, _ = samples(500, seed=3)
    axes = Axes.of(x)
    torch.testing.assert_close(axes(x).T @ axes(x) / 500, axes.variance.diag(), atol=1e-4, rtol=0)
    assert axes(x).mean(0).abs().max() < 1e-5
    assert float(axes.variance.sum()) == pytest.approx(12, abs=1e-3)


def test_a_feature_that_never_changes_is_no_obstacle() -> None:
    (bank, y), (test, test_y) = samples(500, seed=1), samples(500, seed=2)
    still = [torch.cat([x, torch.full((500, 1), 3.0)], 1) for x in (bank, test)]
    with_it = linear_accuracy(Features(still[0], y, still[1], test_y, 4))
    assert with_it == pytest.approx(linear_accuracy(Features(bank, y, test, test_y, 4)), abs=0.5)
