"""How the built-in family is trained: `python -m training STAGE --config FILE [key=value ...]`."""
