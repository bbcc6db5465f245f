"""Few-step causal sampling: the noise schedule, the rolling KV cache, the chunk loop and its resumable state."""
