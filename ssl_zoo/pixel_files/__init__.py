"""From an image file to its pixels: the pages of a file, by its head, which are decoded one at a time.

Exports contain the modules of this package, but not `regions`. So they need only NumPy and Pillow, and
tifffile or pydicom for files that Pillow cannot read.
"""

from ssl_zoo.pixel_files.opening import check_size, find_pages, open_pixels, plain, turn_upright
from ssl_zoo.pixel_files.page import Page, library, opened_file
from ssl_zoo.pixel_files.regions import Region, Segments

__all__ = [
    "Page",
    "Region",
    "Segments",
    "check_size",
    "find_pages",
    "library",
    "open_pixels",
    "opened_file",
    "plain",
    "turn_upright",
]
