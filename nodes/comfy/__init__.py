"""Adapters between ComfyUI's objects and the core. They test for features, never for version numbers."""
