"""The built-in family sfpp-tiny: a whole text-to-video model small enough to ship and to run on a laptop's CPU."""
