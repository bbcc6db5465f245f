"""What the people who work on the pack run: set-up, demo, a server for tests, the shipped workflows and pictures."""
