"""Comparing tasks: the same backbone, data, budget and seeds, and one table."""

from ssl_zoo.comparison.api import compare, open_sweep, run, tabulate
from ssl_zoo.comparison.config import Comparison
from ssl_zoo.comparison.launchers import commands, launcher
from ssl_zoo.comparison.sweep import FILE, Sweep, Watcher, only
from ssl_zoo.comparison.table import Column, Outcome, Table

__all__ = [
    "FILE",
    "Column",
    "Comparison",
    "Outcome",
    "Sweep",
    "Table",
    "Watcher",
    "commands",
    "compare",
    "launcher",
    "only",
    "open_sweep",
    "run",
    "tabulate",
]
