"""Plugins: found, validated, and kept apart from each other's faults."""
