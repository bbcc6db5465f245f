"""What a film's scoring comes to: rating, metrics, events and curves, as JSON and as one plot."""
