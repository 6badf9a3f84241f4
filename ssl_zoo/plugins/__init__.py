"""Plugins: discovery, validation and calls, with the errors of each plugin isolated."""
