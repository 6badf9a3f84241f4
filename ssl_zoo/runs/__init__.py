"""Runs: the directory of a run, and the objects that are built and read from it."""
