"""Calls of an encoder: several sizes of images, heads at each place, the shape of an output."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ssl_zoo.spec import Spec
from ssl_zoo.tree import Tree, join, rows


def by_size(network: Callable[[Tree], Tree], views: Sequence[Tensor]) -> list[Tree]:
    """Pass views through a network, those of one size as one batch, as in SwAV and DINO.

    Batch normalisation then has statistics of its own for each size.

    Args:
        network: maps images [B, C, h, w] to a tensor [B, ...], or a tuple of such tensors.
        views: batches of images, of any sizes.

    Returns:
        The network's output for each view, in the order of the views.
    """
    sizes: dict[tuple[int, ...], list[int]] = {}
    for i, view in enumerate(views):
        sizes.setdefault(tuple(view.shape[1:]), []).append(i)
    outputs: dict[int, Tree] = {}
    for members in sizes.values():
        joint, first = network(join([views[i] for i in members])), 0
        for i in members:
            outputs[i] = rows(joint, slice(first, first + len(views[i])))
            first += len(views[i])
    return [outputs[i] for i in range(len(views))]


def places_of(feature_map: Tensor) -> Tensor:
    """Return the features [B, N, d] of a map's N places, row by row, from the map [B, d, ...]."""
    return feature_map.flatten(2).mT


def at_places(head: Callable[[Tensor], Tensor], feature_map: Tensor) -> Tensor:
    """Apply a head to each place of a map, as a head of 1×1 convolutions does.

    Batch normalisation then has the statistics of all places of all samples.

        y = at_places(mlp([512, 2048, 128]), encoder.feature_map(x))  # [B, h · w, 128]

    Args:
        head: maps rows [n, d] to [n, D], such as `mlp`.
        feature_map: a map [B, d, ...], see `Encoder.feature_map`.

    Returns:
        The outputs [B, N, D] of the N places, row by row.
    """
    x = places_of(feature_map)  # [B, N, d]
    return head(x.flatten(0, 1)).view(len(x), x.shape[1], -1)


@torch.no_grad()
def output_shape(encoder: nn.Module, method: Callable[[Tree], Tensor], spec: Spec) -> tuple[int, ...]:
    """Return the shape [1, ...] of a method's output for one sample; `encoder` is left unchanged.

    Use it to build a head that fits, and to fail in `__init__` rather than after training.

    Args:
        encoder: the encoder.
        method: a method of it.
        spec: the description of the samples.

    Raises:
        UserError: raised by the method, e.g. because there is no such stage.
    """
    training = encoder.training
    encoder.eval()
    try:
        return tuple(method(spec.example(1)).shape)
    finally:
        encoder.train(training)


def undecayed_names(module: nn.Module) -> set[str]:
    """Return the names of parameters that a network inside excludes from weight decay, as timm's do.

    These are a transformer's position embedding and class token, beside vectors and scalars.
    """
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, part in module.named_modules()
        if hasattr(part, "no_weight_decay")
        for name in part.no_weight_decay()
    }
