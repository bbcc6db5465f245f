"""The offline judge: detectors of damage over the measured series, their events, and the rating that follows."""
