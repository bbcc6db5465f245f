"""Videos into files and out of them, a few frames at a time."""
