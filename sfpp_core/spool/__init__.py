"""Finished chunks on disk, so that hours of sampling survive whatever ends the process."""
