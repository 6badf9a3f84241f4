"""The range of values of a data set's images of more than 8 bits, measured on what their files have."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_zoo.config.errors import SettingError
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data.image_files import ImageFiles
from ssl_zoo.data.lazy import LazySplit
from ssl_zoo.data.sample_files import SampleFiles
from ssl_zoo.data.splits import Split
from ssl_zoo.notices import Notice
from ssl_zoo.text import quantity

MAX_RANGED_IMAGES = 256
"""The number of images on which the range of a data set is measured."""
MAX_STATISTICS = 16_384
"""The number of values that stand for those of an image; of one with more, evenly spaced in rank."""
MAX_SORTED = 4_194_304
"""The number of values of an image that are sorted; of one with more, a random part."""
TAIL = 0.1
"""The percentage of the values that is looked at for outliers at either end."""
WIDE_TAIL = 0.5
"""The share of the range from which on the values of that tail are outliers."""

_RANGE = Notice(
    "range",
    "Of images of more than 8 bits, one range of values for the whole data set becomes the intensities "
    f"0 to 1. It is measured on all pixels in the files of up to {MAX_RANGED_IMAGES} images, before "
    "they are shrunk, and kept with the weights; values beyond it are clipped.",
    "data.range, data.range_percentiles",
)
_OUTLIERS = Notice(
    "outliers",
    "By default the smallest and the largest value are the ends of the range. A line says where "
    f"{TAIL} % of the values take more than half of it, as those of hot pixels do.",
    "data.range_percentiles",
)
_NOT_FINITE = Notice(
    "not-finite",
    "The range is measured without values that are NaN or infinite. NaN and -inf become the smallest "
    "value of their image and channel, and inf the largest; the low end of the range where it has none.",
    "fill them yourself; where a number marks missing values, such as -9999, set data.range",
)


class _Summaries(SampleFiles):
    """The summaries of the values of images as their files have them, in place of the images.

    Args:
        images: the images.
    """

    def __init__(self, images: ImageFiles) -> None:
        # Not counted again in `unreadable.total`.
        self.images, self.name, self.count = images, images.name, images.count
        self.workers = images.workers
        self.unreadable, self.origin = images.unreadable, images.origin

    def read(self, number: int) -> Tensor:
        """Return the summary of an image, float64 [2 + `MAX_STATISTICS`]."""
        return torch.from_numpy(summarise(self.images.read_unscaled(number)))

    def empty(self, count: int, pin: bool = False) -> Tensor:
        """Return uninitialised memory for summaries."""
        return torch.empty(count, MAX_STATISTICS + 2, dtype=torch.float64, pin_memory=pin)

    def reason(self, error: Exception) -> str:
        """Return in a line why an image could not be read."""
        return self.images.reason(error)


def summarise(pixels: NDArray[Any]) -> NDArray[np.float64]:
    """Return a summary of an image's values, float64 [2 + `MAX_STATISTICS`].

    It has the number of values that are finite, and of those that are not, then values in rising order
    with the smallest and the largest one, and NaN where there are fewer.

    Args:
        pixels: the image, of any shape and type.
    """
    flat = pixels.reshape(-1)
    low, high, finite = math.inf, -math.inf, 0
    for start in range(0, len(flat), MAX_SORTED):
        chunk = _finite(flat[start : start + MAX_SORTED])
        if len(chunk):
            low, high = min(low, float(chunk.min())), max(high, float(chunk.max()))
        finite += len(chunk)
    if len(flat) > MAX_SORTED:
        flat = flat[np.random.default_rng(0).integers(0, len(flat), MAX_SORTED)]
    ranked = np.sort(_finite(flat))
    if len(ranked) > MAX_STATISTICS:
        ranked = ranked[np.linspace(0, len(ranked) - 1, MAX_STATISTICS).round().astype(np.int64)]
    row = np.full(MAX_STATISTICS + 2, np.nan)
    row[:2] = finite, pixels.size - finite
    row[2 : 2 + len(ranked)] = ranked
    if len(ranked):  # which a random part need not have
        row[2], row[1 + len(ranked)] = low, high
    return row


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    return values[np.isfinite(values)] if values.dtype.kind == "f" else values


def percentiles(summaries: NDArray[np.float64], shares: Sequence[float]) -> list[float]:
    """Return percentiles of the values of all images together; none without a finite value.

    They are exact for 0 and 100, and otherwise where images have no more values than a summary. Each
    pixel counts alike.

    Args:
        summaries: the summary of each image, [N, 2 + `MAX_STATISTICS`].
        shares: the percentages, in [0, 100].
    """
    values = summaries[:, 2:]
    present = np.isfinite(values)
    weights = np.broadcast_to(summaries[:, :1] / present.sum(1, keepdims=True).clip(1), values.shape)
    values, weights = values[present], weights[present]
    if not len(values):
        return []
    order = values.argsort()
    values, weights = values[order], weights[order]
    ranks = weights.cumsum() - weights / 2  # of equal weights, evenly spaced as np.percentile has them
    ranks = (ranks - ranks[0]) / max(ranks[-1] - ranks[0], 1e-9)
    return [float(value) for value in np.interp(np.asarray(shares) / 100, ranks, values)]


def find_limits(train: Split, config: DataConfig, name: str) -> tuple[float, float] | None:
    """Return the values of the images of a data set that become 0 and 1; None for 0 and 255 of 8 bits.

    They are ``data.range``, or percentiles of the values of a fixed part of the images to train on, as
    their files have them: not of a part of each, and not shrunk.

    Args:
        train: the images to train on, as they are stored.
        config: the ``data`` section.
        name: the name of the data, for the notice.

    Raises:
        SettingError: ``data.range`` is the window of DICOM files, and there are none.
    """
    if config.range == "window":
        raise SettingError(
            "data.range", f"window is for DICOM files in folders, not {name}; give values"
        )
    dtype = train.batch(torch.arange(0)).dtype
    if config.range is not None and not dtype.is_floating_point:
        return config.range
    if dtype == torch.uint8:
        return None
    summaries, source = _summarise(train)
    _report_not_finite(summaries, name, measured=config.range is None)
    if config.range is not None:
        return config.range
    lowest, highest = config.range_percentiles
    shares = [lowest, TAIL, 100 - TAIL, highest]
    low, tail_low, tail_high, high = percentiles(summaries, shares) or [0.0] * len(shares)
    high = high if high > low else low + 1
    if (lowest, highest) == (0, 100):
        source = f"the smallest and largest value {source}"
    else:
        source = f"the percentiles {lowest:g} and {highest:g} of the values {source}"
    _RANGE(f"{name}: the values {low:g} to {high:g} become 0 to 1, {source}; data.range sets them")
    if highest == 100 and high - tail_high > WIDE_TAIL * (high - low):
        share = (high - tail_high) / (high - low)
        _report_outliers(name, 100 - TAIL, tail_high, "largest", high, share, [lowest, 100 - TAIL])
    if lowest == 0 and tail_low - low > WIDE_TAIL * (high - low):
        share = (tail_low - low) / (high - low)
        _report_outliers(name, TAIL, tail_low, "smallest", low, share, [TAIL, highest])
    return low, high


def _summarise(train: Split) -> tuple[NDArray[np.float64], str]:
    """Return the summary of each image of a fixed part, and words for where their values are from."""
    chosen = train.sample(MAX_RANGED_IMAGES)
    images = quantity(len(train), "images")
    images = f"{len(chosen):,} of {images}" if len(chosen) < len(train) else images
    if isinstance(train, LazySplit) and isinstance(train.files, ImageFiles):
        values = copy.copy(train)
        values.files = _Summaries(train.files)
        summaries: NDArray[np.float64] = values.batch(chosen).numpy()
        return summaries, f"in the files of {images}"
    rows = [summarise(train.batch(index)[0].cpu().numpy()) for index in chosen.split(1)]
    return np.asarray(rows).reshape(-1, MAX_STATISTICS + 2), f"of {images}"


def _report_not_finite(summaries: NDArray[np.float64], name: str, measured: bool) -> None:
    finite, others = (int(number) for number in summaries[:, :2].sum(0))
    if others:
        without = ", and the range is measured without them" if measured else ""
        _NOT_FINITE(
            f"{name}: {others:,} of {finite + others:,} values of {quantity(len(summaries), 'images')} "
            "are NaN or infinite: NaN and -inf become the smallest value of their image and channel, "
            f"inf the largest{without}"
        )


def _report_outliers(
    name: str,
    percentile: float,
    value: float,
    end: str,
    extreme: float,
    share: float,
    setting: Sequence[float],
) -> None:
    bounds = ", ".join(f"{bound:g}" for bound in setting)
    _OUTLIERS(
        f"{name}: the {percentile:g}th percentile of the values is {value:,.6g}, and the {end} "
        f"{extreme:,.6g}, so a thousandth of them takes {100 * share:.1f} % of the range; "
        f"data.range_percentiles=[{bounds}] clips them"
    )
