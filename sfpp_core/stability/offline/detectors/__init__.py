"""The offline judge's detectors: for each kind of damage, how severe it is in each frame, 0 (none) to 1 (all lost).

Axes: F frames, H height, W width, K tiles, C colours (RGB).
"""
