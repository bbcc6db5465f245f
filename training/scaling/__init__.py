"""What a training step costs at full size: FLOPs and bytes counted on tensors without storage, and times from them.

`python -m training.scaling` prints the tables of docs/scaling.md; nothing of the size they speak of is needed for it.
"""
