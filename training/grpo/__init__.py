"""Group relative policy optimisation (GRPO) of the few-step sampler."""
