"""Generative tasks: an image, or a part of its content, is produced from features."""
