"""Batched image operations whose parameters are given per image.

Images are float [B, C, H, W] in [0, 1] with C of 1 or 3; a parameter is a tensor [B]. Each operation
gives what `torchvision.transforms.v2.functional` gives for each image alone with the same parameter,
within 5e-6 (float32 sums in another order); some write it into `out`, which may be the images
themselves. Each clamps to [0, 1] as torchvision does. Clamping once at the end of several would make a
real difference: a pixel of 0.8 that is brightened 1.8 times and then halved becomes 0.5, and not 0.72.

Cropping, resizing and blurring are separable linear maps, so each is written as a pair of matrices
per image, one over rows and one over columns: two batched matrix products, exact antialiasing
included, at the speed of the machine's BLAS.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LUMA = (0.2989, 0.587, 0.114)


def to_float(images: Tensor) -> Tensor:
    """uint8 in 0..255 to float32 in [0, 1]; floats are returned as they are."""
    return images if images.is_floating_point() else images.float().div_(255)


def separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply a linear map to the rows and one to the columns of each image.

    Args:
        x: [B, C, H, W].
        rows: [B, h, H].
        columns: [B, w, W].

    Returns:
        [B, C, h, w].
    """
    b, c, h, w = x.shape
    x = torch.bmm(x.reshape(b, c * h, w), columns.transpose(1, 2))
    x = x.view(b, c, h, columns.shape[1])
    return torch.matmul(rows.unsqueeze(1), x)


def resize_matrix(
    start: Tensor, length: Tensor, old: int, new: int, mirrored: Tensor | None = None
) -> Tensor:
    """The matrix that crops [start, start + length) out of `old` pixels and resizes it to `new`.

    Antialiased bilinear, as torchvision's `resize(crop(x), antialias=True)`: a triangle as wide as
    the coarser of the two grids, cut off at the crop's edges and normalised.

    Args:
        start: [B], in pixels.
        length: [B], in pixels.
        old: the side before.
        new: the side after.
        mirrored: [B], true where the pixels after are in the opposite order.

    Returns:
        [B, new, old], each row adding up to 1.
    """
    first, last = start.view(-1, 1, 1), (start + length).view(-1, 1, 1)
    step = (length / new).view(-1, 1, 1)
    half_width = step.clamp(min=1)
    if mirrored is not None:
        turned = mirrored.view(-1, 1, 1)
        start, step = torch.where(turned, last, first), torch.where(turned, -step, step)
    source = torch.arange(old, device=start.device) + 0.5
    centre = start.view(-1, 1, 1) + (torch.arange(new, device=start.device).view(-1, 1) + 0.5) * step
    weight = (source - centre).abs_().mul_(-1 / half_width).add_(1).clamp_(min=0)
    weight.mul_((source > first) & (source < last))
    return weight.div_(weight.sum(-1, keepdim=True))


def resized_crop(
    x: Tensor,
    top: Tensor,
    left: Tensor,
    height: Tensor,
    width: Tensor,
    size: int,
    flip: Tensor | None = None,
) -> Tensor:
    """Crop a box out of each image, resize it to `size` × `size`, and mirror it where `flip` is true.

    Bytes in 0..255 become intensities in [0, 1] on the way.
    """
    rows = resize_matrix(top, height, x.shape[-2], size)
    columns = resize_matrix(left, width, x.shape[-1], size, mirrored=flip)
    if not x.is_floating_point():
        x, rows = x.float(), rows.div_(255)
    return separable(x, rows, columns)


def _per_image(parameter: Tensor) -> Tensor:
    return parameter.view(-1, 1, 1, 1)


def luma(x: Tensor) -> Tensor:
    """The brightness of each pixel, [B, 1, H, W] (ITU-R 601 weights)."""
    if x.shape[1] == 1:
        return x
    red, green, blue = x.unbind(1)
    return (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2]).unsqueeze_(1)


def brightness(x: Tensor, factor: Tensor, out: Tensor | None = None) -> Tensor:
    """Multiply by `factor` ≥ 0 and clamp."""
    return torch.mul(x, _per_image(factor), out=out).clamp_(0, 1)


def contrast(x: Tensor, factor: Tensor, out: Tensor | None = None) -> Tensor:
    """Move away from (factor > 1) or towards the image's mean brightness, and clamp."""
    mean = luma(x).mean((1, 2, 3), keepdim=True)
    factor = _per_image(factor)
    return torch.mul(x, factor, out=out).add_(mean * (1 - factor)).clamp_(0, 1)


def saturation(x: Tensor, factor: Tensor, out: Tensor | None = None) -> Tensor:
    """Move away from (factor > 1) or towards each pixel's brightness, and clamp. Gray stays gray."""
    if x.shape[1] == 1:
        return x
    return torch.lerp(luma(x), x, _per_image(factor).to(x.dtype), out=out).clamp_(0, 1)


def hue(x: Tensor, shift: Tensor, out: Tensor | None = None) -> Tensor:
    """Turn the hue by `shift` in [-0.5, 0.5] of a full turn, at constant HSV value and saturation."""
    if x.shape[1] == 1:
        return x
    value, least = x.amax(1), x.amin(1)
    chroma = value - least
    red, green, blue = x.unbind(1)
    # The hue in sixths of a turn, by the sector of the largest channel (0 where all are equal). On a
    # CPU, choosing by a mask and taking remainders cost ten times what arithmetic does.
    not_red, not_green = (value - red).sign_(), (value - green).sign_()
    by_green = (blue - red).add_(chroma, alpha=2)
    by_blue = (red - green).add_(chroma, alpha=4)
    sector = (green - blue).lerp_(by_green.lerp_(by_blue, not_green), not_red)
    sector.div_(chroma.clamp(min=torch.finfo(x.dtype).tiny)).add_(6 * shift.view(-1, 1, 1))
    sector.sub_((sector / 6).floor_(), alpha=6)
    # Back to RGB: up to one sixth from its own hue a channel has the value, from two on the least. Red,
    # whose own hue is at both ends, is told by the distance from the opposite one.
    out = torch.empty_like(x) if out is None else out
    for channel, own, start, slope in ((0, 3, least, 1), (1, 2, value, -1), (2, 4, value, -1)):
        distance = (sector - own).abs_().clamp_(1, 2).sub_(1)
        torch.addcmul(start, chroma, distance, value=slope, out=out[:, channel])
    return out


def grayscale(x: Tensor) -> Tensor:
    """Replace each pixel by its brightness; the number of channels stays."""
    return luma(x).expand_as(x)


def blur_matrix(sigma: Tensor, kernel_size: int, side: int) -> Tensor:
    """The matrix that blurs `side` pixels with a Gaussian, reflecting at the borders.

    Args:
        sigma: [B], in pixels, > 0.
        kernel_size: the number of taps, odd, at most 2 · side - 1.
        side: the number of pixels.

    Returns:
        [B, side, side].
    """
    half = kernel_size // 2
    taps = torch.arange(-half, half + 1, device=sigma.device)
    kernel = torch.exp(-0.5 * (taps / sigma.view(-1, 1)) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    place = (torch.arange(side, device=sigma.device).view(-1, 1) + taps).abs()
    source = torch.where(place < side, place, 2 * (side - 1) - place)
    matrix = kernel.new_zeros(len(sigma), side, side)
    index = source.expand(len(sigma), -1, -1)
    return matrix.scatter_add_(2, index, kernel.unsqueeze(1).expand_as(index))


def gaussian_blur(x: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Blur with a Gaussian of deviation `sigma` pixels, cut off at `kernel_size` taps."""
    rows = blur_matrix(sigma, kernel_size, x.shape[-2])
    columns = rows if x.shape[-1] == x.shape[-2] else blur_matrix(sigma, kernel_size, x.shape[-1])
    return separable(x, rows, columns)


def solarise(x: Tensor, threshold: float = 0.5) -> Tensor:
    """Invert the pixels at or above `threshold`."""
    return torch.lerp(x, 1 - x, (x >= threshold).to(x.dtype))


def rotate90(x: Tensor, quarters: int) -> Tensor:
    """Rotate counter-clockwise by `quarters` · 90°, exactly, without interpolation."""
    return torch.rot90(x, quarters, (-2, -1))


def centre_block(n: int, size: int, side: int, device: torch.device | str = "cpu") -> Tensor:
    """A centred square of `side` pixels as a mask [n, 1, size, size], true inside."""
    mask = torch.zeros(n, 1, size, size, dtype=torch.bool, device=device)
    first = (size - side) // 2
    mask[..., first : first + side, first : first + side] = True
    return mask


def blocks(top: Tensor, left: Tensor, side: Tensor, size: int) -> Tensor:
    """The union of square blocks as a mask [B, 1, size, size], true inside.

    Args:
        top: [B, K], in pixels.
        left: [B, K].
        side: [B, K].
        size: the side of the image.
    """
    at = torch.arange(size, device=top.device)

    def within(first: Tensor) -> Tensor:
        return (at >= first.unsqueeze(-1)) & (at < (first + side).unsqueeze(-1))

    inside = within(top).unsqueeze(-1) & within(left).unsqueeze(-2)
    return inside.any(1).unsqueeze(1)


def default_kernel_size(size: int) -> int:
    """About a tenth of the side, odd, at least 3 (Chen et al. 2020, appendix A)."""
    return max(3, math.ceil(size / 10) | 1)
