"""Further commands, one file each."""
