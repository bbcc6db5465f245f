"""What a training step takes at full size: `python -m training.scaling` prints the tables of docs/scaling.md."""
