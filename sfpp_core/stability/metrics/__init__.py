"""Long-video metrics with their definitions and sources: motion, flicker, drift, repetition."""
