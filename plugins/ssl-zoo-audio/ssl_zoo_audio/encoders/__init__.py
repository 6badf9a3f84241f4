"""Networks for clips: on log-mel spectra, and those of transformers."""
