"""Patches of images on the grid of an encoder's feature map, for tasks that hide some of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.errors import Unsuitable, UserError
from ssl_zoo.nn import output_shape
from ssl_zoo.notices import Notice
from ssl_zoo.sizes import Size, height_width
from ssl_zoo.spec import ImageSpec
from ssl_zoo.task import Encoder

Pair = tuple[int, int]

_POOLING = Notice(
    "pooling-of-patches",
    "Tasks on patches train and evaluate the mean of the patches, also where a network pools otherwise.",
    "backbone.options: class_token=false, global_pool=avg, fc_norm=false for a vision transformer",
)


def patchify(x: Tensor, patch: Pair) -> Tensor:
    """Split images [B, C, H, W] into patches [B, N, P] of p × q pixels, row by row; P = C·p·q."""
    return F.unfold(x, patch, stride=patch).transpose(1, 2)


def unpatchify(patches: Tensor, patch: Pair, size: Size) -> Tensor:
    """Join patches [B, N, P] into images [B, C, *size]; inverse of `patchify`."""
    return F.fold(patches.transpose(1, 2), height_width(size), patch, stride=patch)


def take(patches: Tensor, places: Tensor) -> Tensor:
    """Return the patches [B, K, P] at the positions `places` [B, K] of each image."""
    return torch.take_along_dim(patches, places.unsqueeze(2), 1)


def put(patches: Tensor, places: Tensor, new: Tensor) -> Tensor:
    """Return patches [B, N, P] with those at `places` [B, K] replaced by `new` [B, K, P]."""
    return patches.scatter(1, places.unsqueeze(2).expand_as(new), new)


def moments(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the deviation [B, N, 1] of each patch [B, N, P].

    The deviation is at least 1e-3, so that a flat patch is normalised to 0 rather than to noise.
    """
    variance, mean = torch.var_mean(patches, 2, keepdim=True)
    return mean, (variance + 1e-6).sqrt()


def normalised(patches: Tensor) -> Tensor:
    """Return patches [B, N, P], each less its mean and divided by its deviation, see `moments`."""
    mean, deviation = moments(patches)
    return (patches - mean) / deviation


@dataclass(frozen=True)
class PatchGrid:
    """The patches that the places of an encoder's feature map stand for.

    Attributes:
        rows: h, the rows of the map.
        columns: w, its columns.
        patch: the height and width of a patch, in pixels.
        channels: C, the channels of an image.
        width: d, the size of a place's features.
    """

    rows: int
    columns: int
    patch: Pair
    channels: int
    width: int

    @classmethod
    def of(cls, encoder: Encoder, spec: ImageSpec) -> PatchGrid:
        """Return the grid of an encoder.

        Args:
            encoder: the encoder.
            spec: the description of the images.

        Raises:
            UserError: the patches do not divide the images.
        """
        _, width, rows, columns = output_shape(encoder, encoder.feature_map, spec)
        if spec.height % rows or spec.width % columns:
            divisors = " and ".join(map(str, dict.fromkeys((spec.height, spec.width))))
            raise UserError(
                f"backbone.options.patch_size: {rows} × {columns} patches do not divide images of "
                f"{spec.height} × {spec.width}; choose among the divisors of {divisors}"
            )
        patch = spec.height // rows, spec.width // columns
        _compare_pooling(encoder, spec)
        return cls(rows, columns, patch, spec.channels, width)

    @property
    def shape(self) -> Pair:
        """The rows and columns."""
        return self.rows, self.columns

    @property
    def places(self) -> int:
        """N, the number of patches."""
        return self.rows * self.columns

    @property
    def values(self) -> int:
        """P, the number of values in a patch."""
        return self.channels * math.prod(self.patch)

    @property
    def size(self) -> Pair:
        """The height and width of an image, in pixels."""
        return self.rows * self.patch[0], self.columns * self.patch[1]

    def require_parts(self) -> None:
        """Raise if there is nothing to predict from the rest of an image.

        Raises:
            UserError: there is one patch, or a patch is one value.
        """
        if min(self.places, self.values) < 2:
            (height, width), (rows, columns) = self.size, self.patch
            raise UserError(
                f"backbone.options.patch_size: patches of {rows} × {columns} leave "
                f"nothing to reconstruct in images of {height} × {width}; choose others"
            )

    def share(self, share: float) -> int:
        """Return the number of places in a share of the grid: at least one, and not all."""
        return min(max(round(share * self.places), 1), self.places - 1)

    def patches(self, x: Tensor) -> Tensor:
        """Split images [B, C, H, W] into patches [B, N, P], row by row."""
        return patchify(x, self.patch)

    def image(self, patches: Tensor) -> Tensor:
        """Join patches [B, N, P] into images [B, C, H, W]."""
        return unpatchify(patches, self.patch, self.size)

    def replaced(self, x: Tensor, places: Tensor, new: Tensor | float) -> Tensor:
        """Return images with some patches replaced.

        Args:
            x: images [B, C, H, W].
            places: the indices of the patches, int64 [B, K].
            new: what stands there, [B, K, P] or one value.
        """
        patches = self.patches(x)
        if not isinstance(new, Tensor):
            new = torch.full_like(take(patches, places), new)
        return self.image(put(patches, places, new))


def token_width(encoder: Encoder) -> int:
    """Return e, the size of a token that can stand in hidden patches.

    Args:
        encoder: the encoder.

    Raises:
        Unsuitable: it has no patches.
    """
    if encoder.embed_width is None:
        problem = "backbone.name: it has no patches in whose place a token can stand"
        raise Unsuitable(f"{problem}; choose another, such as --backbone vit_small_patch16_224")
    return encoder.embed_width


@torch.no_grad()
def _compare_pooling(encoder: Encoder, spec: ImageSpec) -> None:
    """Give a notice where a network pools in another way than by the mean of its places."""
    training = encoder.training
    pooled, places = encoder.eval().pooled_and_map(spec.example(1))
    encoder.train(training)
    mean = places.flatten(2).mean(2)
    if pooled.shape != mean.shape or not torch.allclose(pooled, mean, rtol=1e-3, atol=1e-4):
        _POOLING(
            "the evaluated features are the mean of all patches, which this task trains; the network's "
            "own pooling, which fine-tuning, exports and load_backbone use, gives others"
        )


def freeze_unreached(
    encoder: Encoder, spec: ImageSpec, output: Callable[[Encoder, Tensor], Tensor]
) -> None:
    """Freeze the parameters that an output does not depend on, such as a pooling head.

    Otherwise they would get no gradient, for which several processes would wait.

    Args:
        encoder: the encoder; its parameters are frozen in place.
        spec: the description of the images.
        output: returns what the loss is computed from, [...], for an encoder and images [1, C, H, W].
    """
    _, *gradients = _gradients(encoder, spec, output)
    _freeze(encoder, gradients)


def _freeze(encoder: Encoder, gradients: Sequence[Tensor | None]) -> None:
    """Freeze the trained parameters whose gradients are None or 0."""
    for parameter, gradient in zip(_trained(encoder), gradients, strict=True):
        parameter.requires_grad_(gradient is not None and bool(gradient.any()))


def fit_to_tokens(encoder: Encoder, spec: ImageSpec, grid: PatchGrid) -> None:
    """Check that patches can be left out, and freeze the parameters that no token depends on.

    Args:
        encoder: the encoder; its parameters are frozen in place.
        spec: the description of the images.
        grid: its patches.

    Raises:
        Unsuitable: the backbone cannot leave patches out, or a token depends on other patches.
        UserError: there is one patch, or a patch is one value.
    """

    def first_token(network: Encoder, x: Tensor) -> Tensor:
        return network.tokens(x, torch.zeros(1, 1, dtype=torch.long))[0, 0]  # of the first patch, [d]

    try:
        of_image, *of_parameters = _gradients(encoder, spec, first_token)
    except Unsuitable as error:
        raise Unsuitable(f"backbone.name: {error}") from error
    if of_image is None or grid.patches(of_image)[0, 1:].any():
        raise Unsuitable(
            "backbone.name: its patches overlap or come from convolutions, so visible ones reveal "
            "hidden ones; choose a backbone with plain patches, such as --backbone vit_small_patch16_224"
        )
    grid.require_parts()
    _freeze(encoder, of_parameters)


def _trained(encoder: Encoder) -> list[torch.nn.Parameter]:
    return [p for p in encoder.parameters() if p.requires_grad]


def _gradients(
    encoder: Encoder, spec: ImageSpec, output: Callable[[Encoder, Tensor], Tensor]
) -> tuple[Tensor | None, ...]:
    """Return the gradients of an output by an image [1, C, H, W] and the parameters, None if unused.

    They are those of a copy with random weights, as layers that start at 0 would let nothing through.
    """
    network, generator = copy.deepcopy(encoder).eval(), torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.1, generator=generator)
    shape = spec.example(1).shape
    x = torch.linspace(-1, 1, shape.numel()).view(shape).requires_grad_()
    with torch.enable_grad():
        y = output(network, x)
        weights = torch.linspace(1, 2, y.numel()).view_as(y)  # a plain sum is constant after a norm
        return torch.autograd.grad((y * weights).sum(), [x, *_trained(network)], allow_unused=True)
