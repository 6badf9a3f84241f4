"""Shards: samples in tar archives, in the layout of WebDataset.

A sample is a run of members whose names agree up to the first dot, such as ``000017.jpg`` and
``000017.cls``. Shards are read by position: `index` knows where in which shard each sample is, and
`split` gives passes an order in which each process reads few places of few shards, one after the other.
"""
