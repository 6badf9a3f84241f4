"""Samples that lie in parts of large files, read in lanes.

A part is what is read in sequence: a tar archive, or a row group of a Parquet file. `contents` is
the interface of readers of such files, `index` keeps counts, classes and splits on the disk, `order`
gives passes an order in which each process reads few parts at a time, `sample` chooses few parts for
evaluation, and `dataset` makes splits.
"""
