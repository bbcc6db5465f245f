"""Finished chunks on disk: what is made once is found again."""
