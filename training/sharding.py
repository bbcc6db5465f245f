"""Networks where they are trained: on a device, and cut up among processes.

A network with transformer blocks is sharded (FSDP2, torch's `fully_shard`): each process keeps a part of every weight,
gradient and moment, in float32, and a block's weights are gathered while it computes, in the dtype that it computes
in. Other networks are small; every process keeps all of them and gradients are averaged. Either way a step is that of
one process, to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from sfpp_core.wan.transformer import WanBlock

from .config import TrainConfig, require
from .parallel import World
from .recomputation import recompute_blocks

TEXT_METHOD = "embed_text"
"""Of a transformer and of its blocks: uses weights as forward does."""


def place(network: nn.Module, config: TrainConfig) -> None:
    """Put a network where it will be trained, in place; before `Trained` is made of it.

    Weights stay float32; run it under `config.autocast()`. Every process must hold the same weights.

    Raises:
        ConfigError: run.compile with several processes.
    """
    if config.run.checkpoint_activations:
        recompute_blocks(network)
    _distribute(network, config, MixedPrecisionPolicy(param_dtype=config.compute_dtype, reduce_dtype=torch.float32))


def place_frozen(network: nn.Module, config: TrainConfig) -> None:
    """Put a network that is only asked where it is asked, in place: no gradients, weights in the compute dtype."""
    network.eval().requires_grad_(False).to(config.compute_dtype)
    _distribute(network, config, MixedPrecisionPolicy())


def rollout_weights(network: nn.Module, config: TrainConfig) -> AbstractContextManager[None]:
    """For many calls in a row without gradients: weights stay gathered between them if run.gather_rollouts says so."""
    return gathered(network) if config.run.gather_rollouts else nullcontext()


@contextmanager
def gathered(network: nn.Module) -> Iterator[None]:
    """Whole weights in every process inside the block, so that any part of the network may be called on its own.

    Calls inside need no communication, so processes may make different numbers of them. Nothing may be trained inside.
    Inside another such block this one does nothing.
    """
    is_whole = not any(isinstance(parameter, DTensor) for parameter in network.parameters())
    parts = [] if is_whole else [module for module in network.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(True, recurse=False)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its parts; every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _distribute(network: nn.Module, config: TrainConfig, policy: MixedPrecisionPolicy) -> None:
    world = World.current()
    if world.size == 1:
        network.to(config.device)
        return
    require(
        not config.run.compile,
        f"run.compile is on with {world.size} processes; compiled networks are not sharded, write run.compile=false.",
    )
    if any(isinstance(module, WanBlock) for module in network.modules()):
        _shard(network, config, policy)
    else:
        network.to(config.device)
        _average_gradients(network, world)


def _shard(network: nn.Module, config: TrainConfig, policy: MixedPrecisionPolicy) -> None:
    # Not cast: timesteps would be rounded, 937.5 to 936. Autocast decides what is computed in which dtype.
    policy = MixedPrecisionPolicy(policy.param_dtype, policy.reduce_dtype, cast_forward_inputs=False)
    mesh = World.current().mesh(config.device.type)
    blocks = [module for module in network.modules() if isinstance(module, WanBlock)]
    for part in (*blocks, network):
        # The root too: kept gathered, it would not see the next update after a call without gradients.
        fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        if hasattr(part, TEXT_METHOD):
            register_fsdp_forward_method(part, TEXT_METHOD)


def _average_gradients(network: nn.Module, world: World) -> None:
    def average(parameter: nn.Parameter) -> None:
        dist.all_reduce(parameter.grad)
        parameter.grad.div_(world.size)

    for parameter in network.parameters():
        if parameter.requires_grad:
            # Parts of an accumulated gradient that are averaged already are equal everywhere and stay as they are.
            parameter.register_post_accumulate_grad_hook(average)
