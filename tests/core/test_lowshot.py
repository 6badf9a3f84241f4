"""Few labels: fixed stratified draws, and scikit-learn's classifier on them."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from ssl_zoo.evaluation.lowshot import DRAWS, FEW, draw, lowshot_accuracies
from tests.core.test_evaluate import some


@pytest.mark.parametrize("name", FEW)
def test_of_each_class_so_many_are_drawn_as_is_said_and_at_least_one(name: str) -> None:
    labels = torch.cat([torch.full((n,), i) for i, n in enumerate((300, 100, 40, 3))])
    known = draw(labels, FEW[name][1], seed=0)
    assert len(known.unique()) == len(known)
    counts = torch.bincount(labels[known], minlength=4).tolist()
    expected = {
        "lowshot_1pct": [3, 1, 1, 1],
        "lowshot_10pct": [30, 10, 4, 1],
        "lowshot_5": [5, 5, 5, 3],
    }
    assert counts == expected[name]


def test_draws_are_always_the_same_and_differ_from_each_other() -> None:
    labels = torch.arange(1000) % 10
    first = [draw(labels, lambda n: 5, seed).tolist() for seed in range(DRAWS)]
    assert first == [draw(labels, lambda n: 5, seed).tolist() for seed in range(DRAWS)]
    assert len(set(map(tuple, first))) == DRAWS


def test_each_draw_is_judged_as_scikit_learn_judges_it() -> None:
    features = some(n=600, m=400, width=8, seed=5)
    ours = lowshot_accuracies(features, lambda n: 10)
    scaler = StandardScaler().fit(features.bank.numpy())
    theirs = []
    for seed in range(DRAWS):
        known = draw(features.bank_labels, lambda n: 10, seed)
        x, y = scaler.transform(features.bank[known].numpy()), features.bank_labels[known].numpy()
        fit = LogisticRegression(C=1.0, max_iter=5000, tol=1e-8).fit(x, y)
        right = fit.predict(scaler.transform(features.test.numpy())) == features.test_labels.numpy()
        theirs.append(100 * float(np.mean(right)))
    assert ours == pytest.approx(theirs, abs=0.5)
    assert statistics.stdev(ours) > 0


def test_labels_that_are_not_drawn_decide_nothing() -> None:
    features = some(n=600, m=400, width=8, seed=5)
    known = torch.cat([draw(features.bank_labels, lambda n: 10, seed) for seed in range(DRAWS)])
    hidden = torch.ones(600, dtype=torch.bool)
    hidden[known] = False
    before = lowshot_accuracies(features, lambda n: 10)
    # Exchanging hidden labels within a class's own members changes no draw; their features do not
    # enter but through the mean and the deviation, which permuting them leaves alone.
    order = torch.arange(600)
    places = order[hidden]
    order[places] = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(0))]
    moved = type(features)(
        features.bank[order], features.bank_labels, features.test, features.test_labels, features.classes
    )
    assert lowshot_accuracies(moved, lambda n: 10) == pytest.approx(before, abs=0.3)
