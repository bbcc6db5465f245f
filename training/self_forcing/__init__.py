"""Self-Forcing and Self-Forcing++: the student's own rollouts, judged in windows by teacher and critic."""
