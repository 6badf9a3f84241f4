"""Masked autoencoders as a task for ssl-zoo."""
