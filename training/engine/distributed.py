"""One process or many: which samples of a step a process handles, sharding, and joining and leaving.

Under torchrun every process runs the same stage on a part of each batch (gloo on CPUs, NCCL on GPUs, one GPU a
process). Alone there is no process group, and everything here answers without one.

A network with transformer blocks is sharded (FSDP2, torch's `fully_shard`): each process keeps a part of every weight,
gradient and moment, in float32, and a block's weights are gathered while it computes, in the dtype that it computes
in. Other networks are small; every process keeps all of them and gradients are averaged. Either way a step is that of
one process, to rounding. Activation checkpointing is here too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from sfpp_core.wan.transformer import BlockContext, KeyValueCache, WanBlock

from ..config import TrainConfig, require


@dataclass(frozen=True, kw_only=True, slots=True)
class DistContext:
    """One process's place among all of a run."""

    rank: int = 0
    size: int = 1

    @classmethod
    def alone(cls) -> DistContext:
        """The only process of its run."""
        return cls()

    @classmethod
    def current(cls) -> DistContext:
        """This process's place in the run that it has joined; alone if it has joined none."""
        if dist.is_available() and dist.is_initialized():
            return cls(rank=dist.get_rank(), size=dist.get_world_size())
        return cls.alone()

    @property
    def is_main(self) -> bool:
        """Return whether this process is the one that writes and logs."""
        return self.rank == 0

    def samples(self, batch: int, *, key: str = "batch") -> range:
        """The samples of a global batch that this process handles, equally many in every process.

        key: what the configuration calls their number, for the refusal.

        Raises:
            ConfigError: the batch is not divisible by the number of processes.
        """
        require(
            batch % self.size == 0,
            f"{key} is {batch} for {self.size} processes; it must be a multiple of their number.",
        )
        share = batch // self.size
        return range(self.rank * share, (self.rank + 1) * share)

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Averages over all processes, which must give the same names; NaN and infinity of one become everybody's."""
        if self.size == 1:
            return dict(values)
        total = torch.tensor(list(values.values()), dtype=torch.float64)
        dist.all_reduce(total)
        return dict(zip(values, (total / self.size).tolist(), strict=True))

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether it is set in at least one process; all processes wait for one another here."""
        if self.size == 1:
            return flags
        raised = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(raised, dist.ReduceOp.MAX)
        return tuple(bool(flag) for flag in raised.tolist())

    def meet(self) -> None:
        """Go on once every process has come here."""
        self.any(False)

    def mesh(self, device_type: str) -> DeviceMesh:
        """Return all processes in a row, for tensors that are split among them. Only where there are several."""
        return _mesh(device_type, self.size)


@cache
def _mesh(device_type: str, size: int) -> DeviceMesh:
    return init_device_mesh(device_type, (size,))


def launched_rank() -> int:
    """This process's number among those that torchrun has started, whether it joins them or not."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def joined(device: torch.device) -> Iterator[DistContext]:
    """Join the other processes that torchrun has started, if any, for the length of the block.

    Raises:
        ConfigError: `device` names one GPU for several processes, or there are more processes here than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield DistContext.alone()
        return
    if device.type == "cuda":
        _take_a_gpu(device, local_rank=int(os.environ["LOCAL_RANK"]))
    # Flags, metrics and checkpoints travel between CPUs in either case.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    yield DistContext.current()
    # Not after an error: the others may be waiting in a collective that will never be complete.
    _mesh.cache_clear()
    dist.destroy_process_group()


def _take_a_gpu(device: torch.device, *, local_rank: int) -> None:
    require(
        device.index is None,
        f"run.device is {device}, one GPU for several processes; write run.device=cuda and each takes its own.",
    )
    count = torch.cuda.device_count()
    require(
        local_rank < count,
        f"there are {count} GPUs here and more processes than that; start torchrun with --nproc-per-node {count}.",
    )
    torch.cuda.set_device(local_rank)


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
    """Keep weights gathered between many calls in a row without gradients, if run.gather_rollouts says so."""
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
    world = DistContext.current()
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
    mesh = DistContext.current().mesh(config.device.type)
    blocks = [module for module in network.modules() if isinstance(module, WanBlock)]
    for part in (*blocks, network):
        # The root too: kept gathered, it would not see the next update after a call without gradients.
        fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        if hasattr(part, TEXT_METHOD):
            register_fsdp_forward_method(part, TEXT_METHOD)


def _average_gradients(network: nn.Module, world: DistContext) -> None:
    def average(parameter: nn.Parameter) -> None:
        dist.all_reduce(parameter.grad)
        parameter.grad.div_(world.size)

    for parameter in network.parameters():
        if parameter.requires_grad:
            # Parts of an accumulated gradient that are averaged already are equal everywhere and stay as they are.
            parameter.register_post_accumulate_grad_hook(average)
