"""Activation checkpointing: a block keeps its input only and is computed again on the way back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sfpp_core.wan.transformer import BlockContext, KeyValueCache, WanBlock

BlockForward = Callable[[Tensor, int, BlockContext], Tensor]


def recompute_blocks(network: nn.Module) -> None:
    """Make every transformer block of a network forget what it computed between its input and its output.

    Costs one more forward pass; gradients are the same. Names of weights stay. A chunk must go backward before it is
    committed to its cache, because it is computed again against the cache as it then is; otherwise RuntimeError.
    """
    for module in network.modules():
        if isinstance(module, WanBlock):
            # On the instance, inside whatever hooks sharding puts around the call: weights are there when needed.
            module.forward = partial(_recomputed, module.forward)


def _recomputed(forward: BlockForward, x: Tensor, layer: int, context: BlockContext) -> Tensor:
    past = _length(context.cache)

    def run(x: Tensor) -> Tensor:
        if _length(context.cache) != past:
            raise RuntimeError(
                f"a chunk after {past} frames goes backward when its cache holds {_length(context.cache)}: with "
                "run.checkpoint_activations a chunk must go backward before it is committed."
            )
        return forward(x, layer, context)

    # There is no dropout, so no state of generators to keep.
    return checkpoint(run, x, use_reentrant=False, preserve_rng_state=False)


def _length(cache: KeyValueCache | None) -> int:
    """Frames in the past."""
    return 0 if cache is None else cache.positions(1)[0]
