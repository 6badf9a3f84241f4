"""Clustering: views of an image are assigned to the same prototype."""
