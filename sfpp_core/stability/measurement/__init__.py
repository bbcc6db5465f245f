"""What is measured of every frame, in one streaming pass: light, colour, detail, motion."""
