"""Plugins: finding, validating and calling them, with the errors of each kept apart."""
