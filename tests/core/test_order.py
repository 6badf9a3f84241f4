"""The random order of a pass, stored or computed."""

import pytest
import torch

from ssl_zoo.data import order
from ssl_zoo.data.order import KeyedOrder, random_order


@pytest.mark.parametrize("n", [1, 2, 3, 5, 64, 65, 1000, 2**16, 100_003])
def test_a_computed_order_has_each_number_once_and_its_parts_are_those_of_the_whole(n: int) -> None:
    computed = KeyedOrder(n, key=7)
    whole = computed[:]
    assert torch.equal(whole.sort().values, torch.arange(n))
    assert torch.equal(torch.cat([computed[: n // 3], computed[n // 3 : n]]), whole)
    assert len(computed) == n


def test_a_computed_order_is_as_random_as_a_drawn_one() -> None:
    n, orders = 1000, 2000
    ours = torch.stack([KeyedOrder(n, key)[:] for key in range(orders)])  # [orders, n]
    # Each place has each number equally often: chi-square over tenths of both, within 4 deviations.
    tenths = torch.zeros(10, 10, dtype=torch.float64)
    places = torch.arange(n).expand_as(ours) // 100
    tenths.index_put_(
        (places.flatten(), ours.flatten() // 100), torch.ones(()).double(), accumulate=True
    )
    expected = n * orders / 100
    chi_square = float(((tenths - expected) ** 2 / expected).sum())
    assert abs(chi_square - 81) < 4 * (2 * 81) ** 0.5
    # Neighbours are unrelated: the correlation of their differences with those of another key.
    steps = ours.diff(dim=1).double()
    correlation = torch.corrcoef(torch.stack([steps[:-1].flatten(), steps[1:].flatten()]))[0, 1]
    assert abs(float(correlation)) < 4 / steps[1:].numel() ** 0.5
    # As in drawn orders, one number on average stays at its place.
    fixed = (ours == torch.arange(n)).sum(1).double()
    assert abs(float(fixed.mean()) - 1) < 4 / orders**0.5


def test_an_order_of_any_length_takes_no_memory_and_depends_on_its_key_alone() -> None:
    n = 10**12 + 39
    first, again, other = (KeyedOrder(n, key)[n - 5 :] for key in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert ((first >= 0) & (first < n)).all()


def test_few_samples_have_a_stored_order_and_many_a_computed_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(order, "MAX_STORED", 100)
    stored, computed = (random_order(n, torch.Generator().manual_seed(3)) for n in (100, 101))
    assert torch.equal(stored[:], torch.randperm(100, generator=torch.Generator().manual_seed(3)))
    assert isinstance(computed, KeyedOrder)
    assert torch.equal(computed[:].sort().values, torch.arange(101))
