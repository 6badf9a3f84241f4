"""Plugins as third parties write them, one file each, for tests: none needs a change of the core."""
