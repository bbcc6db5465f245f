"""What every stage shares: the loop, optimiser, checkpoints, distribution over processes, metrics, run folders."""
