"""Data: from the name of a source to raw batches on the device."""

from ssl_zoo.data.dataset import DataSet
from ssl_zoo.data.lazy import LazySplit
from ssl_zoo.data.sources import load
from ssl_zoo.data.splits import ArraySplit, Split

__all__ = ["ArraySplit", "DataSet", "LazySplit", "Split", "load"]
