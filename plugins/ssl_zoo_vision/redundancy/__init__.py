"""Redundancy reduction: statistics of the embeddings keep them from collapsing, without negatives."""
