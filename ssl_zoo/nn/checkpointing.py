"""Gradient checkpointing: activations are recomputed in the backward pass instead of stored."""

from __future__ import annotations

from typing import Any

from torch import nn


def enable_gradient_checkpointing(network: nn.Module) -> bool:
    """Switch on gradient checkpointing in a model of transformers; return whether the network can.

    Args:
        network: any network; one without the methods of `transformers.PreTrainedModel` cannot.
    """
    if not getattr(network, "supports_gradient_checkpointing", False):
        return False
    model: Any = network
    older = model.gradient_checkpointing_enable  # deprecated since transformers 5
    enable = getattr(model, "activation_checkpointing_enable", older)
    enable({"use_reentrant": False})
    return True
