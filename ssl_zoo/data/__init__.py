"""Data: from the name of a source to raw batches on the device."""

from ssl_zoo.data.dataset import DataSet
from ssl_zoo.data.lazy import LazySplit
from ssl_zoo.data.mapped import ArrayFile, MappedSplit
from ssl_zoo.data.sample_files import Excluded, SampleFiles
from ssl_zoo.data.source import Source, SourceOptions, rest_of
from ssl_zoo.data.sources import load
from ssl_zoo.data.splits import ArraySplit, Split
from ssl_zoo.data.streams import Stream

__all__ = [
    "ArrayFile", "ArraySplit", "DataSet", "Excluded", "LazySplit", "MappedSplit", "SampleFiles",
    "Source", "SourceOptions", "Split", "Stream", "load", "rest_of",
]  # fmt: skip
