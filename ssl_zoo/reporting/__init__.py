"""A page about a comparison or a run: its figures, its curves, and what its networks see."""

from ssl_zoo.reporting.page import report

__all__ = ["report"]
