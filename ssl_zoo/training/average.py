"""Exchanging the weights of a network with their average."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def exchanged(network: nn.Module, average: nn.Module | None) -> Iterator[None]:
    """Temporarily exchange the parameters and buffers of two networks of one architecture.

    Args:
        network: the network.
        average: the other one; None to leave the network as it is.
    """
    _exchange(network, average)
    try:
        yield
    finally:
        _exchange(network, average)


def _exchange(network: nn.Module, average: nn.Module | None) -> None:
    if average is None:
        return
    own = itertools.chain(network.parameters(), network.buffers())
    for a, b in zip(own, itertools.chain(average.parameters(), average.buffers()), strict=True):
        a.data, b.data = b.data, a.data
