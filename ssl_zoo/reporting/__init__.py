"""A page about a comparison or a run: its figures, its curves, and views of the features."""

from ssl_zoo.reporting.page import report

__all__ = ["report"]
