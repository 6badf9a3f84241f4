"""Broken tasks, each with the check that catches it; one module for each module of checks."""

from tests.core.broken_tasks import definition, learning, processes, state, views  # noqa: F401
from tests.core.broken_tasks.declare import BROKEN

__all__ = ["BROKEN"]
