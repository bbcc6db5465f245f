"""Queues a workflow on a ComfyUI server and fetches what it makes: the command line for pipelines."""
