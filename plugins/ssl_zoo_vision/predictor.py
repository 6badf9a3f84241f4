"""A small transformer that predicts something at wanted places from the tokens of visible ones."""

from __future__ import annotations

import torch
from timm.layers import Mlp, build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn


class CrossBlock(nn.Module):
    """A block in which tokens look at the context, and not at each other (CAPI, arXiv:2502.08769)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.attention = nn.MultiheadAttention(width, width // 32, batch_first=True)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Return new tokens [B, M, D] for tokens x [B, M, D] and their context [B, K, D]."""
        context = self.norm2(context)
        x = x + self.attention(self.norm1(x), context, context, need_weights=False)[0]
        output: Tensor = x + self.mlp(self.norm3(x))
        return output


class ResidualMLP(nn.Module):
    """A block x + MLP(norm(x)) at each place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(width), Mlp(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output [..., width] for tokens [..., width]."""
        output: Tensor = x + self.mlp(self.norm(x))
        return output


class Predictor(nn.Module):
    """A transformer on the tokens of visible places and a mask token at each wanted one.

    Sources: the decoder of MAE, arXiv:2111.06377, section 3; the predictor of I-JEPA, arXiv:2301.08243,
    section 3. Positions are sines and cosines of row and column, which are not trained.

    Args:
        tokens: d, the width of the encoder's tokens.
        out: the number of values to predict at a place.
        grid: the rows and columns of places.
        width: D, the width of the blocks; 32 per attention head, as in MAE.
        depth: the number of blocks.
        cross: whether wanted places look at visible ones alone, by cross attention, as in CAPI; if not,
            all places look at all.
    """

    positions: Tensor

    def __init__(
        self,
        tokens: int,
        out: int,
        grid: tuple[int, int],
        width: int,
        depth: int,
        cross: bool = False,
    ) -> None:
        super().__init__()
        self.cross = cross
        self.embed = nn.Linear(tokens, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        self.register_buffer("positions", build_sincos2d_pos_embed(list(grid), width))  # [N, D]
        self.blocks = nn.ModuleList(
            CrossBlock(width) if cross else Block(width, width // 32, qkv_bias=True)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, out)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor, visible: Tensor, wanted: Tensor) -> Tensor:
        """Return the predictions [B, M, out] at the wanted places.

        Args:
            tokens: the tokens [B, K, d] of the visible places.
            visible: the indices of these places, int64 [B, K].
            wanted: the indices of the wanted places, int64 [B, M].
        """
        seen = self.embed(tokens) + self.positions[visible]  # [B, K, D]
        asked = self.mask_token + self.positions[wanted]  # [B, M, D]
        x = asked.to(seen.dtype)
        if self.cross:
            for block in self.blocks:
                x = block(x, seen)
        else:
            x = torch.cat([seen, x], 1)
            for block in self.blocks:
                x = block(x)
            x = x[:, visible.shape[1] :]
        predictions: Tensor = self.out(self.norm(x))
        return predictions
