"""Text for ssl-zoo: tasks, sources of texts, and backbones of the library transformers."""
