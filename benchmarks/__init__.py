"""Scripts that measure speed; README.md lists them."""
