"""Wan 2.1: one transformer for teacher and student, its rotary positions and attention, and the Wan VAE."""
