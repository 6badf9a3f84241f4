"""Backbones: timm's models as encoders, small stems, gradient caching."""
