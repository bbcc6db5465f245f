"""What FSDP2 sends: bytes that one GPU receives in a step when every network is fully sharded.

A forward pass gathers the weights in bfloat16, a backward pass gathers them again, because they are let go in between,
and scatters the sum of gradients in float32. Of n GPUs each already holds 1 / n. A rollout is hundreds of passes with
the same weights; kept gathered, they travel once for all of them.
"""

from __future__ import annotations

from .work import Part, Work

GATHERED_BYTES = 2
"""Of a weight as it is sent: bfloat16."""
REDUCED_BYTES = 4
"""Of a gradient as it is sent: float32."""


def received_bytes(work: Work, *, gpus: int, keep_gathered: bool) -> float:
    """Bytes that one of `gpus` GPUs receives for one video.

    keep_gathered: whether a rollout's weights are gathered once and stay until it is over.
    """

    def bytes_of(part: Part) -> float:
        if part.network is None:
            return 0.0
        passes = 1 if part.rolls and keep_gathered else part.passes
        a_weight = 2 * GATHERED_BYTES + REDUCED_BYTES if part.trains else GATHERED_BYTES
        return passes * part.network.all * a_weight

    return work.total(bytes_of) * (gpus - 1) / gpus
