"""The process: device, files, signals, and several processes on one machine."""
