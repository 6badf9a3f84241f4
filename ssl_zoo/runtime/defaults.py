"""Torch's global modes, at their defaults while ssl-zoo works, and its global random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Temporarily compute with gradients, float32 and the CPU as defaults, and without autocast.

    So a function gives the same result whatever its caller has set: `torch.no_grad`,
    `torch.inference_mode`, `torch.set_default_dtype`, `torch.set_default_device` or `torch.autocast`.
    Use it as a decorator of functions that callers use. What is set already is not set again.
    """
    with ExitStack() as modes:
        if torch.is_inference_mode_enabled():
            modes.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            modes.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":
            modes.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(kind):
                modes.enter_context(torch.autocast(kind, enabled=False))
        if (dtype := torch.get_default_dtype()) != torch.float32:
            torch.set_default_dtype(torch.float32)
            modes.callback(torch.set_default_dtype, dtype)
        yield


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Temporarily draw torch's random numbers on the CPU from a seed, without a trace for the caller."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
