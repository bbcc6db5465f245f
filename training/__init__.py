"""Training: `python -m training STAGE --config FILE [key=value ...]`, for the built-in family and for Wan 2.1."""
