"""Patches of timm's transformers: a token in place of some, some left out, and who may look at whom."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ssl_zoo.errors import Unsuitable

Grid = tuple[int, int]


def patch_embedding(model: nn.Module) -> nn.Module | None:
    """Return the layer that makes a vector of each patch; None if there is none, or patches overlap.

    That is a transformer's `patch_embed`, or the stem of a ConvNeXt or MLP-Mixer.
    """
    embedding = getattr(model, "patch_embed", getattr(model, "stem", None))
    if not isinstance(embedding, nn.Module):
        return None
    kernels = [m for m in embedding.modules() if isinstance(m, nn.Conv2d)]
    cut = len(kernels) == 1 and kernels[0].kernel_size == kernels[0].stride
    return embedding if cut else None


@contextmanager
def token_instead(embedding: Any, hidden: Tensor, token: Tensor, size: Grid) -> Iterator[None]:
    """Temporarily let a token stand for hidden patches, before positions are added.

    Args:
        embedding: the layer that `patch_embedding` returned.
        hidden: the hidden places, bool [B, h, w] on a grid that divides that of the patches.
        token: the token, [e].
        size: the height and width of the images.

    Raises:
        Unsuitable: within, if the grid does not divide that of the patches.
    """

    def replace(module: nn.Module, inputs: tuple[Tensor, ...], embedded: Tensor) -> Tensor:
        """Put the token into [B, N, e], [B, H, W, e] or [B, e, H, W]."""
        first = embedded.ndim == 4 and getattr(embedding, "output_fmt", "NCHW") != "NHWC"
        if embedded.ndim == 3:
            rows, columns = embedding.dynamic_feat_size(size)
        else:
            rows, columns = embedded.shape[2:] if first else embedded.shape[1:3]
        mask = _repeated(hidden, rows, columns)
        mask = mask.flatten(1) if embedded.ndim == 3 else mask
        mask = mask.unsqueeze(1 if first else -1)
        value = token.to(embedded.dtype)
        return torch.where(mask, value.view(-1, 1, 1) if first else value, embedded)

    with embedding.register_forward_hook(replace):
        yield


def _repeated(hidden: Tensor, rows: int, columns: int) -> Tensor:
    """Return a mask [B, h, w] on the finer grid of the patches, [B, rows, columns]."""
    height, width = hidden.shape[1:]
    if rows % height or columns % width:
        raise Unsuitable(
            f"the backbone's map of {height}×{width} places does not divide its {rows}×{columns} "
            "patches, so that no token can stand for hidden places; choose another --image-size, or "
            "--backbone vit_small_patch16_224"
        )
    return hidden.repeat_interleave(rows // height, 1).repeat_interleave(columns // width, 2)


class _Keep(nn.Module):
    """The layer in place of timm's patch dropout that keeps the given patches, in their order."""

    def __init__(self, places: Tensor, prefix: int, with_places: bool) -> None:
        super().__init__()
        self.places = places
        self.prefix = prefix
        self.with_places = with_places

    def forward(self, tokens: Tensor) -> Any:
        """Return the tokens [B, P + K, d] of [B, P + N, d], with their places for rotary positions."""
        places = self.places.expand(len(tokens), -1)
        rows = (places + self.prefix).unsqueeze(2).expand(-1, -1, tokens.shape[2])
        kept = torch.cat([tokens[:, : self.prefix], tokens.gather(1, rows)], 1)
        return (kept, places) if self.with_places else kept


def leaves_patches_out(model: nn.Module) -> bool:
    """Return whether patches can be left out of a model, and attention between them forbidden."""
    return isinstance(model, VisionTransformer | Eva)


@contextmanager
def kept_patches(model: Any, places: Tensor) -> Iterator[None]:
    """Temporarily keep only some patches of a model for which `leaves_patches_out`.

    Args:
        model: the model; class and register tokens always stay.
        places: the indices of patches to keep, int64 [B or 1, K].
    """
    before = model.patch_drop
    model.patch_drop = _Keep(places, model.num_prefix_tokens, isinstance(model, Eva))
    try:
        yield
    finally:
        model.patch_drop = before


def attention_mask(attend: Tensor, prefix: int) -> Tensor:
    """Return which token may look at which, bool [B or 1, 1, P + K, P + K], for timm's attention.

    Class and register tokens may look at all; no other token may look at them.

    Args:
        attend: which patch may look at which, bool [B or 1, K, K].
        prefix: P, the number of class and register tokens.
    """
    size = prefix + attend.shape[1]
    mask = attend.new_zeros(len(attend), size, size)
    mask[:, :prefix] = True
    mask[:, prefix:, prefix:] = attend
    return mask.unsqueeze(1)
