"""Jigsaw puzzles, a pretext task for ssl-zoo."""
