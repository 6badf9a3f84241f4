"""Runs: the directory of a run, and what is built and read from it."""
