"""Generative tasks: model the pixels themselves."""
