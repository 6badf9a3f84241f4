"""Samples that lie in parts of large files, read in lanes.

A part is what is read in sequence: a tar archive, or a row group of a Parquet file. `contents` says what
a reader of such files defines, `index` keeps on the disk what is known of the samples, `order` gives
passes an order in which each process reads few parts at a time, and `dataset` makes splits of them.
"""
