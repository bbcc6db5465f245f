"""The page docs/proof.md: what its runs cost and what its evaluations found, as tables and plots.

training/configs/tiny/Makefile makes the runs and evaluations and then calls `python -m training.proof`.
"""
