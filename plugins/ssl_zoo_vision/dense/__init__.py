"""Segmentation and detection on frozen feature maps."""

from ssl_zoo_vision.dense.protocol import DENSE

__all__ = ["DENSE"]
