"""The workflows that come with the pack, described by hand and written in both of ComfyUI's formats."""
