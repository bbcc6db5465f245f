"""Visual Stability and the long-video metrics: whether a long video holds up, and where it does not."""
