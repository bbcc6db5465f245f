"""The passes made instead of counted, and a whole step, with random weights: measured beside computed.

The step is Self-Forcing's with a shared window, made by the code that trains: a window rolled from nothing, its
distribution-matching gradient, its chunks played again with gradients, the critic's updates. Optimisers are left out;
networks are whole, on one device, in the dtype that they compute in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from sfpp_core.rollout.flow import SeededNoise
from sfpp_core.rollout.state import RolloutState

from ..config import require
from ..models.sampling import UNSAVED
from ..self_forcing.dmd import DMDConfig, critic_loss, judge
from ..self_forcing.rollouts import RolloutInputs, backpropagate, record, roll
from .config import ScalingConfig
from .costs import PassCosts
from .passes import Passes, Training
from .report import compute_seconds
from .tables import gigabytes, table
from .work import methods, work

HEADER = ["", "TFLOP", "s computed", "s measured", "measured / computed", "TFLOP/s", "GB computed", "GB measured"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """Something to be timed, and what was computed for it."""

    name: str
    make: Callable[[], Callable[[], None]]
    """Builds it; called when its turn comes, so that one trial's networks are there at a time."""
    flops: float
    seconds: float
    """At the assumed speeds."""
    peak_bytes: float | None
    """None where none was computed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Of the quickest repetition."""

    seconds: float
    peak_bytes: float | None
    """Above what was there before; None on a CPU, where PyTorch does not count."""


def open_device(name: str) -> torch.device:
    """The device to measure on.

    Raises:
        ConfigError: PyTorch sees no such device.
    """
    require(
        name == "cpu" or (name.partition(":")[0] == "cuda" and torch.cuda.is_available()),
        f"--measure is {name}, but PyTorch {torch.__version__} sees no such device here; write --measure cpu, with "
        "a small model.",
    )
    return torch.device(name)


def compute_dtype(device: torch.device) -> torch.dtype:
    """What networks compute in there."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def measurement(
    config: ScalingConfig, costs: PassCosts, place: torch.device, *, checkpointing: bool, repeats: int
) -> str:
    """A table of passes and of a step, each the quickest of `repeats`, at least one; `costs` are those of the device's
    `compute_dtype`.
    """
    dtype = compute_dtype(place)
    passes, training = Passes(config, device=place, dtype=dtype), Training(checkpointing)
    trials = [*_passes(config, passes, costs, training), _whole_step(config, passes, costs, training)]
    rows = [_row(trial, timed(trial.make(), place, repeats)) for trial in trials]
    heading = f"## Measured on {_device_name(place)}, PyTorch {torch.__version__}, {str(dtype).removeprefix('torch.')}"
    return f"{heading}\n\n{table(HEADER, rows)}"


def timed(run: Callable[[], None], device: torch.device, repeats: int) -> Measured:
    """Run once to warm up, then `repeats` times."""
    on_gpu = device.type == "cuda"
    run()
    seconds, peaks = [], []
    for _ in range(repeats):
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
            torch.cuda.synchronize(device)
            before = torch.cuda.memory_allocated(device)
        started = time.perf_counter()
        run()
        if on_gpu:
            torch.cuda.synchronize(device)
            peaks.append(torch.cuda.max_memory_allocated(device) - before)
        seconds.append(time.perf_counter() - started)
    return Measured(seconds=min(seconds), peak_bytes=max(peaks, default=None))


def _passes(config: ScalingConfig, passes: Passes, costs: PassCosts, training: Training) -> Iterator[Trial]:
    past, kind = costs.chunk.most_past, training.checkpointing
    warmup = max(costs.first_frames)
    makers = {
        "critic": (lambda: passes.clip(config.student), costs.critic),
        "critic, forward and backward": (lambda: passes.clip(config.student, training), costs.critic_training[kind]),
        "causal_init, forward and backward": (
            lambda: passes.teacher_forcing(config.student, training),
            costs.causal_init[kind],
        ),
        "chunk": (lambda: passes.chunk(config.student, past), costs.chunk.full),
        "chunk, forward and backward": (
            lambda: passes.chunk(config.student, past, training),
            costs.chunk_training[kind].full,
        ),
        f"first frames anew, {warmup} of warm-up": (lambda: passes.first_frames(warmup), costs.first_frames[warmup]),
    }
    for name, (make, cost) in makers.items():
        speed = config.machine.vae_tflops if name.startswith("first frames") else config.machine.transformer_tflops
        yield Trial(
            name=name,
            make=lambda make=make: make().run,
            flops=cost.flops,
            seconds=cost.flops / (speed * 1e12),
            peak_bytes=cost.peak_bytes,
        )


def _whole_step(config: ScalingConfig, passes: Passes, costs: PassCosts, training: Training) -> Trial:
    teacher = next(iter(config.teachers))
    step = work(
        config,
        costs,
        methods(config)["self_forcing"],
        teacher=teacher,
        fresh=False,
        checkpointing=training.checkpointing,
    )
    return Trial(
        name=f"self_forcing step of 1 + {config.critic_updates} updates, {teacher}",
        make=lambda: step_of(config, passes, teacher, training),
        flops=step.transformer_flops + step.vae_flops,
        seconds=compute_seconds(config, step),
        peak_bytes=None,
    )


def step_of(config: ScalingConfig, passes: Passes, teacher_name: str, training: Training) -> Callable[[], None]:
    """A step that can be made again and again; gradients are dropped where an optimiser would take them."""
    student, critic = (passes.network(config.student, training) for _ in range(2))
    teacher = passes.network(config.teachers[teacher_name]).requires_grad_(False)
    text = passes.text(config.student, torch.float32)
    noise = passes.latents(config.student, config.window.frames, torch.float32)
    device, mask = noise.device, torch.ones(1, 1, config.window.frames, 1, 1, dtype=torch.bool, device=noise.device)
    videos = RolloutInputs(text=text, noise=SeededNoise(0), device=device, dtype=passes.dtype)
    shape = (1, config.student.in_channels, *config.latent_size)
    beginning = RolloutState(config=config.rollout, seed=0, model_id=UNSAVED, shape=shape)
    sigma = torch.tensor([0.5], dtype=torch.float64)

    def run() -> None:
        judges = {"teacher": teacher, "critic": critic, "text": text, "negative": text}
        with passes.autocast():
            before = roll(student, beginning, videos, chunks=0)
            recording = record(student, before, videos, chunks=config.window_chunks)
            x0 = recording.after.latents.to(device)
            gradient = judge(x0, noise, sigma, **judges, config=DMDConfig())
        backpropagate(student, recording, gradient, autocast=passes.autocast)
        for _ in range(config.critic_updates):
            with passes.autocast():
                loss = critic_loss(critic, x0, noise, sigma, text, mask)
            loss.backward()

    return run


def _row(trial: Trial, measured: Measured) -> list[str]:
    return [
        trial.name,
        f"{trial.flops / 1e12:.3g}",
        f"{trial.seconds:.3g}",
        f"{measured.seconds:.3g}",
        f"{measured.seconds / trial.seconds:.2f}",
        f"{trial.flops / measured.seconds / 1e12:.3g}",
        "" if trial.peak_bytes is None else gigabytes(trial.peak_bytes),
        "" if measured.peak_bytes is None else gigabytes(measured.peak_bytes),
    ]


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"a CPU, {torch.get_num_threads()} threads"
