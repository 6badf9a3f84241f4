"""Any timm model as an `Encoder`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from timm.layers import PatchEmbed
from timm.models import group_parameters
from torch import Tensor, nn

from ssl_zoo.backbones import sparse
from ssl_zoo.backbones.patches import (
    attention_mask,
    kept_patches,
    leaves_patches_out,
    patch_embedding,
    token_instead,
)
from ssl_zoo.errors import Unsuitable, UserError
from ssl_zoo.task import Encoder

_VIT = "a vision transformer, such as --backbone vit_small_patch16_224"


class TimmEncoder(Encoder):
    """A timm model without its classifier.

    Attributes:
        model: the timm model, whose state dict is saved in `backbone.safetensors`.
        width: D, the size of the pooled features.
        map_width: the number of channels of the feature map.
        embed_width: e, the size of the vectors that the patches are embedded in; None if it has none.
        recomputes: whether activations are recomputed in the backward pass.
    """

    recomputes = False

    def __init__(self, model: nn.Module, probe: Tensor) -> None:
        """Find the widths with a batch of images `probe` [B, C, H, W]; the model is left unchanged.

        Raises:
            UserError: the model has no pooled features [B, D], or no single feature map.
        """
        super().__init__()
        self.model: Any = model
        training = model.training
        with torch.no_grad():
            model.eval()
            pooled, feature_map = self(probe), self.feature_map(probe)
        model.train(training)
        if pooled.ndim != 2:
            raise UserError(f"does not pool its features; they have shape {list(pooled.shape)}")
        self.width = pooled.shape[1]
        self.map_width = feature_map.shape[1]
        embedding = patch_embedding(model)
        if embedding is not None:
            self.embed_width = next(
                m.out_channels for m in embedding.modules() if isinstance(m, nn.Conv2d)
            )

    @property
    def exported_network(self) -> nn.Module:
        """The timm model."""
        model: nn.Module = self.model
        return model

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled features [B, D] of images [B, C, H, W]."""
        return self.pool(self._unpooled(x))

    def pool(self, unpooled: Tensor) -> Tensor:
        """Return the pooled features [B, D] of the output of `forward_features`."""
        pooled: Tensor = self.model.forward_head(unpooled, pre_logits=True)
        return pooled

    def feature_map(
        self, x: Tensor, hidden: Tensor | None = None, token: Tensor | None = None
    ) -> Tensor:
        """Return the last feature map [B, map_width, h, w] of images [B, C, H, W].

        Raises:
            Unsuitable: the model cannot hide places so, or take images of this size.
        """
        if hidden is None:
            return self.grid(self._unpooled(x), x)
        return self.pooled_and_map(x, hidden, token)[1]

    def pooled_and_map(
        self, x: Tensor, hidden: Tensor | None = None, token: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the pooled features [B, D] and the last map [B, map_width, h, w], in one pass.

        Where patches are left out, or a convolutional network computes sparsely, the features are
        pooled over visible places.

        Raises:
            Unsuitable: the model cannot hide places so, or take images of this size.
        """
        if hidden is not None and token is None:
            pooled, (feature_map,) = self._visible_only(x, hidden, None)
            return pooled, feature_map
        if hidden is not None and token is not None:
            embedding = patch_embedding(self.model)
            if embedding is None:
                raise Unsuitable(
                    f"the backbone has no patches in whose place a token can stand; choose {_VIT}"
                )
            with token_instead(embedding, hidden, token, (x.shape[2], x.shape[3])):
                unpooled = self._unpooled(x)
        else:
            unpooled = self._unpooled(x)
        return self.pool(unpooled), self.grid(unpooled, x)

    def stages(
        self, x: Tensor, indices: Sequence[int], hidden: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the pooled features [B, D] and the maps [B, d, h, w] of some stages, in one pass.

        Raises:
            UserError: the model has no such stage; `Unsuitable` if it has none at all, or cannot hide
                places.
        """
        if hidden is not None:
            return self._visible_only(x, hidden, indices)
        unpooled, maps = self._stages(x, indices)
        return self.pool(unpooled), maps

    def tokens(
        self,
        x: Tensor,
        visible: Tensor | None = None,
        attend: Tensor | None = None,
        prefix: bool = False,
    ) -> Tensor:
        """Return the normalised tokens [B, K, d] of the visible patches of images [B, C, H, W].

        Positions are added before patches are left out. Class and register tokens take part; with
        `attend` they look at all tokens, and no other token looks at them.

        Args:
            x: images [B, C, H, W].
            visible: the indices of the visible patches, int64 [B, K]; None for all.
            attend: which patch may look at which, bool [B or 1, K, K], at least one in each row.
            prefix: whether to return class and register tokens too, before the others.

        Raises:
            Unsuitable: the model is not a vision transformer that can do so.
        """
        if (visible is not None or attend is not None) and not leaves_patches_out(self.model):
            raise Unsuitable(f"the backbone has no patches that can be left out; choose {_VIT}")
        number: int = getattr(self.model, "num_prefix_tokens", 0)
        options = {} if attend is None else {"attn_mask": attention_mask(attend, number)}
        with nullcontext() if visible is None else kept_patches(self.model, visible):
            tokens = self._unpooled(x, **options)
        if tokens.ndim != 3:
            raise Unsuitable(f"the backbone has no tokens; choose {_VIT}")
        return tokens if prefix else tokens[:, number:]

    def checkpoint_gradients(self) -> None:
        """Let the model recompute the activations of its blocks, by timm's `set_grad_checkpointing`.

        Raises:
            Unsuitable: the model cannot.
        """
        try:
            self.model.set_grad_checkpointing()
        except (AttributeError, AssertionError) as error:
            raise Unsuitable(
                "train.grad_checkpointing: timm cannot recompute activations of "
                f"{type(self.model).__name__}; leave it out, or choose --backbone resnet50"
            ) from error
        self.recomputes = True

    def parameter_layers(self) -> list[list[nn.Parameter]]:
        """Return the parameters by layer, from the input on: a transformer's as timm groups them.

        Other networks are one layer, as their fine-tuning uses one rate.
        """
        if not (hasattr(self.model, "blocks") and hasattr(self.model, "no_weight_decay")):
            return super().parameter_layers()
        number = group_parameters(self.model, self.model.group_matcher(coarse=False), reverse=True)
        layers: list[list[nn.Parameter]] = [[] for _ in range(max(number.values()) + 1)]
        for name, parameter in self.model.named_parameters():
            layers[number[name]].append(parameter)
        return layers

    def grid(self, unpooled: Tensor, x: Tensor) -> Tensor:
        """Return the output of `forward_features` for images `x` as a map [B, map_width, h, w].

        A transformer's patch tokens are laid out on their grid, without class and register tokens.

        Raises:
            UserError: the model returns several maps (CoaT, CrossViT).
        """
        if not isinstance(unpooled, Tensor):
            raise UserError("has several feature maps per image, not one; choose another backbone")
        if unpooled.ndim == 3:
            return self._laid_out(unpooled[:, getattr(self.model, "num_prefix_tokens", 0) :], x)
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            return unpooled.permute(0, 3, 1, 2)
        return unpooled

    def _laid_out(self, tokens: Tensor, x: Tensor) -> Tensor:
        """Return the tokens [B, N, d] of all patches of images `x` as a map [B, d, h, w]."""
        rows, columns = self._token_grid(tokens.shape[1], x)
        return tokens.transpose(1, 2).reshape(len(tokens), -1, rows, columns)

    def _token_grid(self, tokens: int, x: Tensor) -> tuple[int, int]:
        embedding: Any = getattr(self.model, "patch_embed", None)
        if hasattr(embedding, "dynamic_feat_size"):
            rows, columns = embedding.dynamic_feat_size((x.shape[2], x.shape[3]))
            if rows * columns == tokens:
                return rows, columns
        rows = max(1, round((tokens * x.shape[2] / x.shape[3]) ** 0.5))
        return rows, tokens // rows

    def _unpooled(self, x: Tensor, **options: Any) -> Tensor:
        """Return the output of `forward_features`.

        Raises:
            Unsuitable: the model cannot take images of this size.
        """
        self._check_size(x)
        unpooled: Tensor = self.model.forward_features(x, **options)
        return unpooled

    def _check_size(self, x: Tensor) -> None:
        """Raise if the patches do not cover the images, or are for another size alone."""
        embedding = getattr(self.model, "patch_embed", getattr(self.model, "stem", None))
        if not isinstance(embedding, PatchEmbed) or embedding.img_size in (None, tuple(x.shape[2:])):
            return
        height, width = x.shape[2:]
        rows, columns = embedding.patch_size
        problem = f"the backbone cannot take {height}×{width} images"
        if embedding.strict_img_size:
            built = "×".join(map(str, embedding.img_size))
            raise Unsuitable(
                f"{problem}, as it is built for {built}: a task that passes other sizes through it sets "
                "any_size = True, for backbones that can take them, such as vit_small_patch16_224"
            )
        if not embedding.dynamic_img_pad and (height % rows or width % columns):
            raise Unsuitable(
                f"{problem}, which {rows}×{columns} patches do not cover: choose multiples of {rows}, "
                "or another backbone.options.patch_size"
            )

    def _stages(self, x: Tensor, indices: Sequence[int], **options: Any) -> tuple[Tensor, list[Tensor]]:
        """Return the output of `forward_features` and of some stages.

        Raises:
            UserError: the model has no such stage, or none at all.
        """
        if not hasattr(self.model, "forward_intermediates"):
            raise Unsuitable("the backbone has no stages to choose from; choose --backbone resnet18")
        self._check_size(x)
        try:
            unpooled, maps = self.model.forward_intermediates(x, indices=list(indices), **options)
        except (AssertionError, IndexError) as error:
            names = f"stage {indices[0]}" if len(indices) == 1 else f"stages {list(indices)}"
            raise UserError(f"the backbone has no {names} ({error})") from error
        return unpooled, list(maps)

    def _visible_only(
        self, x: Tensor, hidden: Tensor, indices: Sequence[int] | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the pooled features and maps of images in whose hidden places nothing stands.

        Args:
            x: images [B, C, H, W].
            hidden: the hidden places, bool [B, h, w] on the grid of the last map.
            indices: the stages of the maps; None for the last feature map alone.

        Raises:
            Unsuitable: the model can neither leave places out nor compute sparsely.
        """
        method = self._left_out if leaves_patches_out(self.model) else self._sparsely
        # Shapes follow from the mask, so that `train.compile` leaves this part out.
        outputs: tuple[Tensor, list[Tensor]] = torch.compiler.disable(method)(x, hidden, indices)
        return outputs

    def _sparsely(
        self, x: Tensor, hidden: Tensor, indices: Sequence[int] | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return what `_visible_only` does, of a convolutional network."""
        if self.recomputes:  # in the backward pass all places would be seen
            raise Unsuitable(
                "train.grad_checkpointing: a convolutional network with hidden places cannot recompute "
                "activations; leave it out, and lower --batch-size or set train.cached_gradients"
            )
        with sparse.masked(self.model, ~hidden):
            if indices is None:
                unpooled = self._unpooled(x)
                maps = [self.grid(unpooled, x)]
            else:
                unpooled, maps = self._stages(x, indices)
            pooled = self.pool(unpooled)
        covers = [sparse.resized(hidden, *m.shape[2:]).unsqueeze(1) for m in maps]
        return pooled, [m.masked_fill(cover, 0) for m, cover in zip(maps, covers, strict=True)]

    def _left_out(
        self, x: Tensor, hidden: Tensor, indices: Sequence[int] | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return what `_visible_only` does, of a transformer: samples with as many places at a time."""
        visible = ~hidden.flatten(1)
        counts = visible.sum(1)
        groups = [(counts == count).nonzero()[:, 0] for count in counts.unique()]
        prefix = self.model.num_prefix_tokens
        outputs = []
        for rows in groups:
            places = visible[rows].nonzero()[:, 1].view(len(rows), -1)
            part = x if len(groups) == 1 else x[rows]
            with kept_patches(self.model, places):
                if indices is None:
                    unpooled = self._unpooled(part)
                    kept = [unpooled[:, prefix:]]
                else:
                    unpooled, kept = self._stages(part, indices, output_fmt="NLC")
            empty = [k.new_zeros(len(rows), visible.shape[1], k.shape[2]) for k in kept]
            where = places.unsqueeze(2)
            full = [e.scatter(1, where.expand_as(k), k) for e, k in zip(empty, kept, strict=True)]
            outputs.append([self.pool(unpooled), *(self._laid_out(f, x) for f in full)])
        order = torch.cat(groups).argsort()
        pooled, *maps = (torch.cat(parts)[order] for parts in zip(*outputs, strict=True))
        return pooled, maps
