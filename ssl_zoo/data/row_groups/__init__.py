"""Parquet files with images, of the Hugging Face hub or of a folder, read by row group.

The footers of files say where row groups are, and how many rows each has; `index` keeps them. A row
group is fetched whole, by `contents` when a pass comes to it, and `held` while it is read.
"""
