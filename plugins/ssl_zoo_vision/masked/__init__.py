"""Masked tasks: reconstruct what is hidden."""
