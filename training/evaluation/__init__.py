"""Judging videos of any length: arms that differ in one thing, the same prompts and seeds for all, and the truth."""
