"""Predictive tasks: guess how an image was transformed."""
