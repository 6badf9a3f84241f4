"""The window of DICOM files, the range of values that they are to be shown in, as that of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_zoo.config.errors import SettingError
from ssl_zoo.config.schema import DataConfig
from ssl_zoo.data.survey import MAX_SURVEYED
from ssl_zoo.errors import UserError
from ssl_zoo.notices import Notice
from ssl_zoo.pixel_files import library
from ssl_zoo.text import printable, quantity

_WINDOW = Notice(
    "window",
    "With data.range=window the first window in DICOM files is the range of the whole data set; where "
    f"files differ, it is the range that covers them all. About {MAX_SURVEYED} files are looked at.",
    "data.range: two values",
)


def with_window(config: DataConfig, paths: Sequence[Path]) -> DataConfig:
    """Return the section ``data`` with the values of the files' window, where it asks for these.

    Args:
        config: the section.
        paths: the files.

    Raises:
        UserError: no file has a window, or the library that reads them is not installed.
    """
    if config.range != "window":
        return config
    looked_at = paths[:: max(1, len(paths) // MAX_SURVEYED)]
    found = [window for path in looked_at if (window := read_window(path)) is not None]
    if not found:
        raise SettingError("data.range", "no file has a window; give two values, such as [-160, 240]")
    low, high = min(low for low, _ in found), max(high for _, high in found)
    number = len(set(found))
    windows = f"{number} windows, which this range covers," if number > 1 else "one window"
    without = f", and {len(looked_at) - len(found)} without" if len(found) < len(looked_at) else ""
    _WINDOW(
        f"{printable(config.source_name)}: the values {low:g} to {high:g} become 0 to 1: {windows} in "
        f"{quantity(len(found), 'files')} looked at{without}; data.range sets them"
    )
    return config.model_copy(update={"range": (low, high)})


def read_window(file: Path) -> tuple[float, float] | None:
    """Return the lowest and the highest value of a DICOM file's first window; None if it has none.

    They are in the units of `ssl_zoo.pixel_files.open_pixels` (DICOM PS3.3, C.11.2.1.2).

    Raises:
        UserError: pydicom is not installed.
    """
    try:
        pydicom = library("pydicom", "dicom")
        data = pydicom.dcmread(file, stop_before_pixels=True)
        centre, width = (_first(data[name].value) for name in ("WindowCenter", "WindowWidth"))
    except ImportError as error:
        raise UserError(f"data.range: window {error}") from error
    except Exception:  # another format, no window or a broken file, which reading its pixels reports
        return None
    if data.get("VOILUTFunction", "LINEAR") != "LINEAR_EXACT":
        centre, width = centre - 0.5, width - 1
    low, high = centre - width / 2, centre + width / 2
    if not (np.isfinite([low, high]).all() and low < high):
        return None
    return (-high, -low) if data.get("PhotometricInterpretation") == "MONOCHROME1" else (low, high)


def _first(value: Any) -> float:
    """Return a number, or the first of several."""
    return float(np.ravel(value)[0])
