"""Contrastive tasks: positives attract, negatives repel."""
