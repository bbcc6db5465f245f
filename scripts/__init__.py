"""Command lines of the repository, and the ComfyUI server and client that the tests and the demo share."""
