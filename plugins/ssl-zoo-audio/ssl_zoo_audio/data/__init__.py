"""Sources of clips: the bundled syllables, and audio files."""
