"""Comparison of tasks with the same backbone, data, budget and seeds, in one table."""

from ssl_zoo.comparison.api import compare, open_sweep, run, tabulate
from ssl_zoo.comparison.cells import Cell
from ssl_zoo.comparison.columns import Column, Outcome
from ssl_zoo.comparison.config import Comparison
from ssl_zoo.comparison.launchers import commands, launcher
from ssl_zoo.comparison.sweep import COMPARE_FILE, Sweep, run_cell
from ssl_zoo.comparison.table import Table

__all__ = [
    "COMPARE_FILE",
    "Cell",
    "Column",
    "Comparison",
    "Outcome",
    "Sweep",
    "Table",
    "commands",
    "compare",
    "launcher",
    "open_sweep",
    "run",
    "run_cell",
    "tabulate",
]
