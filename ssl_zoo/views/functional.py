"""Batched image operations with parameters given per image.

Images are float [B, C, H, W] in [0, 1] with any number of channels; a parameter is a tensor [B], of
brightness and contrast also [B, C] for channels that change each by themselves, as gray images do. With
one or three channels each operation equals that of `torchvision.transforms.v2.functional` on each image
alone, within 5e-6 (float32 sums in another order). Three channels are taken for red, green and blue.
Saturation, hue and grayscale leave other images as they are, which have no colours in this sense; all
other operations treat each channel as they treat gray.

Some operations write the result into `out`, which may be the images themselves. Each clamps to [0, 1] as
torchvision does; clamping once after several would differ: a pixel of 0.8 that is brightened 1.8 times
and then halved becomes 0.5, not 0.72.

Cropping, resizing and blurring are separable linear maps, so each is written as a pair of matrices
per image, one over rows and one over columns: two batched matrix products, with exact antialiasing, at
the speed of BLAS.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssl_zoo.sizes import Size, height_width
from ssl_zoo.spec import to_float as to_float

_LUMA = (0.2989, 0.587, 0.114)


def separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply one linear map to the rows and another to the columns of each image.

    Args:
        x: the images [B, C, H, W].
        rows: the matrices over rows [B, h, H].
        columns: the matrices over columns [B, w, W].

    Returns:
        The images [B, C, h, w].
    """
    b, c, h, w = x.shape
    x = torch.bmm(x.reshape(b, c * h, w), columns.transpose(1, 2))
    x = x.view(b, c, h, columns.shape[1])
    return torch.matmul(rows.unsqueeze(1), x)


def resize_matrix(
    start: Tensor, length: Tensor, old: int, new: int, mirrored: Tensor | None = None
) -> Tensor:
    """Return the matrix that crops [start, start + length) out of `old` pixels and resizes it to `new`.

    Antialiased bilinear, as torchvision's `resize(crop(x), antialias=True)`: a triangle as wide as
    the coarser of the two grids, truncated at the crop's edges and normalised.

    Args:
        start: the first position of the crop [B], in pixels.
        length: the length of the crop [B], in pixels.
        old: the side before, in pixels.
        new: the side after, in pixels.
        mirrored: whether to reverse the order of the resulting pixels, bool [B].

    Returns:
        The matrices [B, new, old]; each row sums to 1.
    """
    first, last = start.view(-1, 1, 1), (start + length).view(-1, 1, 1)
    step = (length / new).view(-1, 1, 1)
    half_width = step.clamp(min=1)
    if mirrored is not None:
        reverse = mirrored.view(-1, 1, 1)
        start, step = torch.where(reverse, last, first), torch.where(reverse, -step, step)
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
    size: Size,
    flip: Tensor | None = None,
) -> Tensor:
    """Crop a box from each image, resize it to `size`, and mirror it where `flip` is true.

    Bytes in 0..255 are converted to intensities in [0, 1].

    Args:
        x: the images, uint8 or float [B, C, H, W].
        top: the first row of each box [B], in pixels.
        left: the first column of each box [B], in pixels.
        height: the height of each box [B], in pixels.
        width: the width of each box [B], in pixels.
        size: the side of the result, or its height and width, in pixels.
        flip: whether to mirror each image, bool [B]; None for none.

    Returns:
        The images, float [B, C, *size].
    """
    new_height, new_width = height_width(size)
    rows = resize_matrix(top, height, x.shape[-2], new_height)
    columns = resize_matrix(left, width, x.shape[-1], new_width, mirrored=flip)
    if not x.is_floating_point():
        x, rows = x.float(), rows.div_(255)
    return separable(x, rows, columns)


def _per_image(parameter: Tensor) -> Tensor:
    return parameter.view(len(parameter), -1, 1, 1)


def is_colour(x: Tensor) -> bool:
    """Return whether images [B, C, H, W] have the three channels red, green and blue."""
    return x.shape[1] == 3


def luma(x: Tensor) -> Tensor:
    """Return the brightness of each pixel, [B, 1, H, W].

    It is weighted by ITU-R 601 for three channels, and the mean of all channels otherwise.
    """
    if not is_colour(x):
        return x if x.shape[1] == 1 else x.mean(1, keepdim=True)
    red, green, blue = x.unbind(1)
    return (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2]).unsqueeze_(1)


def brightness(x: Tensor, factor: Tensor, out: Tensor | None = None) -> Tensor:
    """Multiply by `factor` ≥ 0, [B] or [B, C], and clamp."""
    return torch.mul(x, _per_image(factor), out=out).clamp_(0, 1)


def contrast(x: Tensor, factor: Tensor, out: Tensor | None = None) -> Tensor:
    """Scale the difference from the mean brightness by `factor` ≥ 0, and clamp.

    The mean is one number for an image and its factor [B], or one for each channel for factors [B, C].
    """
    each = factor.ndim == 2
    mean = x.mean((2, 3), keepdim=True) if each else luma(x).mean((1, 2, 3), keepdim=True)
    factor = _per_image(factor)
    return torch.mul(x, factor, out=out).add_(mean * (1 - factor)).clamp_(0, 1)


def saturation(x: Tensor, factor: Tensor, out: Tensor | None = None) -> Tensor:
    """Scale the difference from each pixel's brightness by `factor` ≥ 0, and clamp; of colours only."""
    if not is_colour(x):
        return x
    return torch.lerp(luma(x), x, _per_image(factor).to(x.dtype), out=out).clamp_(0, 1)


def hue(x: Tensor, shift: Tensor, out: Tensor | None = None) -> Tensor:
    """Rotate the hue by `shift` in [-0.5, 0.5] of a full turn, at constant HSV value and saturation.

    Only colours have a hue.
    """
    if not is_colour(x):
        return x
    maximum, minimum = x.amax(1), x.amin(1)
    chroma = maximum - minimum
    red, green, blue = x.unbind(1)
    # The hue in sixths of a turn, by the sector of the largest channel (0 where all are equal). On a
    # CPU, masks and remainders are ten times as slow as arithmetic.
    not_red, not_green = (maximum - red).sign_(), (maximum - green).sign_()
    by_green = (blue - red).add_(chroma, alpha=2)
    by_blue = (red - green).add_(chroma, alpha=4)
    sector = (green - blue).lerp_(by_green.lerp_(by_blue, not_green), not_red)
    sector.div_(chroma.clamp(min=torch.finfo(x.dtype).tiny)).add_(6 * shift.view(-1, 1, 1))
    sector.sub_((sector / 6).floor_(), alpha=6)
    # Back to RGB: a channel has the maximum within one sixth of its own hue, and the minimum beyond two
    # sixths. Red's own hue is at both ends of the circle, so its distance from the opposite hue is used.
    out = torch.empty_like(x) if out is None else out
    for channel, own, start, slope in ((0, 3, minimum, 1), (1, 2, maximum, -1), (2, 4, maximum, -1)):
        distance = (sector - own).abs_().clamp_(1, 2).sub_(1)
        torch.addcmul(start, chroma, distance, value=slope, out=out[:, channel])
    return out


def grayscale(x: Tensor) -> Tensor:
    """Replace each colour by its brightness; the number of channels stays."""
    return luma(x).expand_as(x) if is_colour(x) else x


def blur_matrix(sigma: Tensor, kernel_size: int, side: int) -> Tensor:
    """Return the matrix that blurs `side` pixels with a Gaussian, reflecting at the borders.

    Args:
        sigma: the standard deviation [B], in pixels, ≥ 0; 0 leaves the pixels as they are.
        kernel_size: the number of taps, odd, at most 2 · side - 1.
        side: the number of pixels.

    Returns:
        The matrices [B, side, side].
    """
    half = kernel_size // 2
    taps = torch.arange(-half, half + 1, device=sigma.device)
    sigma = sigma.clamp(min=torch.finfo(sigma.dtype).tiny)
    kernel = torch.exp(-0.5 * (taps / sigma.view(-1, 1)) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    position = (torch.arange(side, device=sigma.device).view(-1, 1) + taps).abs()
    source = torch.where(position < side, position, 2 * (side - 1) - position)
    matrix = kernel.new_zeros(len(sigma), side, side)
    index = source.expand(len(sigma), -1, -1)
    return matrix.scatter_add_(2, index, kernel.unsqueeze(1).expand_as(index))


def gaussian_blur(x: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Blur with a Gaussian of standard deviation `sigma` pixels [B] and `kernel_size` taps."""
    rows = blur_matrix(sigma, kernel_size, x.shape[-2])
    columns = rows if x.shape[-1] == x.shape[-2] else blur_matrix(sigma, kernel_size, x.shape[-1])
    return separable(x, rows, columns)


def solarise(x: Tensor, threshold: float = 0.5) -> Tensor:
    """Invert the pixels at or above `threshold`."""
    return torch.lerp(x, 1 - x, (x >= threshold).to(x.dtype))


def affine(
    x: Tensor, angle: Tensor, shift: Tensor, scale: Tensor, shear: Tensor, size: Size | None = None
) -> Tensor:
    """Shear, enlarge, rotate and shift each image about its centre, in this order.

    Interpolation is bilinear. Beyond its edges an image is 0.

    Args:
        x: the images, float [B, C, H, W].
        angle: the clockwise rotation [B], in degrees.
        shift: the shift to the right and downwards [B, 2], in pixels, after the rotation.
        scale: the factor of enlargement [B], > 0.
        shear: the horizontal shear [B], in degrees.
        size: the side, or the height and width, to which the result is stretched, in pixels; None for
            H × W.

    Returns:
        The images, float [B, C, *size], or [B, C, H, W].
    """
    b, c, h, w = x.shape
    angle, shear = torch.deg2rad(angle), torch.deg2rad(shear)
    cosine, sine, slope = angle.cos(), angle.sin(), shear.tan()
    # From the result to the image, in pixels from the centre: the inverse of the change.
    rows = [cosine - slope * sine, sine + slope * cosine, -sine, cosine]
    inverse = torch.stack(rows, 1).view(-1, 2, 2) / scale.view(-1, 1, 1)
    offset = -(inverse @ shift.unsqueeze(2))
    half = x.new_tensor([w / 2, h / 2])  # the unit of `affine_grid`
    theta = torch.cat([inverse * half / half.unsqueeze(1), offset / half.unsqueeze(1)], 2)
    shape = [b, c, *height_width(size or (h, w))]
    grid = torch.nn.functional.affine_grid(theta.to(x.dtype), shape, align_corners=False)
    return torch.nn.functional.grid_sample(x, grid, align_corners=False)


def flip(x: Tensor, chosen: Tensor, axis: int) -> Tensor:
    """Reverse one axis of the images [B, C, H, W] where `chosen` [B] is true, exactly."""
    return torch.where(chosen.view(-1, 1, 1, 1), x.flip(axis), x)


def rotate90(x: Tensor, quarters: int) -> Tensor:
    """Rotate counter-clockwise by `quarters` · 90°, exactly, without interpolation."""
    return torch.rot90(x, quarters, (-2, -1))


def centre_block(n: int, size: Size, block: Size, device: torch.device | str = "cpu") -> Tensor:
    """Return a mask [n, 1, *size] that is true in a centred block, both sizes in pixels."""
    mask = torch.zeros(n, 1, *height_width(size), dtype=torch.bool, device=device)
    rows, columns = (
        slice((whole - part) // 2, (whole - part) // 2 + part)
        for whole, part in zip(height_width(size), height_width(block), strict=True)
    )
    mask[..., rows, columns] = True
    return mask


def blocks(top: Tensor, left: Tensor, side: Tensor, size: Size) -> Tensor:
    """Return a mask [B, 1, *size] that is true in the union of K square blocks.

    Args:
        top: the first row of each block [B, K], in pixels.
        left: the first column of each block [B, K], in pixels.
        side: the side of each block [B, K], in pixels.
        size: the side of the image, or its height and width, in pixels.
    """

    def within(first: Tensor, length: int) -> Tensor:
        position = torch.arange(length, device=first.device)
        return (position >= first.unsqueeze(-1)) & (position < (first + side).unsqueeze(-1))

    height, width = height_width(size)
    inside = within(top, height).unsqueeze(-1) & within(left, width).unsqueeze(-2)
    return inside.any(1).unsqueeze(1)


def default_kernel_size(size: int) -> int:
    """Return about a tenth of the side, odd, at least 3 (Chen et al. 2020, appendix A)."""
    return max(3, math.ceil(size / 10) | 1)
