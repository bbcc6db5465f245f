"""The core of Self-Forcing++: model, rolling cache, rollout, checkpoints and video files, in pure PyTorch.

It imports neither ComfyUI nor the training code; both import it.
"""
