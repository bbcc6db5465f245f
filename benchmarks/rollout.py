"""What a chunk costs early and late in one rollout, and what the cache saves: `python -m benchmarks.rollout`.

The built-in student on the CPU. Prints medians; everything that is compared is measured in the same run. Exits 1 if a
late chunk costs more than 1.05 of an early one or memory grows.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import torch

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.rollout import Rollout
from sfpp_core.rollout.state import RolloutState
from sfpp_core.tiny.family import load_family_text_encoder, load_student
from sfpp_core.wan.attention import chunk_causal
from sfpp_core.wan.config import FRAMES_PER_SECOND, WAN21
from sfpp_core.wan.transformer import WanTransformer

EARLY = range(10, 21)
LATE = range(300, 311)
MAX_RATIO = 1.05
MAX_GROWTH_MB = 10.0
LATENT_SIZE = (8, 8)
PROMPT = "A red ball glides quickly to the right in a green meadow with flowers."


@dataclass(frozen=True, slots=True)
class Cost:
    """One chunk's seconds, and the process's memory after it."""

    seconds: float
    resident_mb: float


def chunk_costs(network: WanTransformer, config: RolloutConfig, text: torch.Tensor, num_chunks: int) -> list[Cost]:
    """Roll out and measure every chunk."""
    state = RolloutState(config=config, seed=0, model_id="benchmark", shape=(1, WAN21.channels, *LATENT_SIZE))
    rollout = Rollout(network, state, text)
    process, costs = psutil.Process(), []
    started = time.perf_counter()
    for _ in rollout.run(num_chunks):
        costs.append(Cost(time.perf_counter() - started, process.memory_info().rss / 2**20))
        started = time.perf_counter()
    return costs


def seconds_without_cache(network: WanTransformer, config: RolloutConfig, text: torch.Tensor, repeats: int) -> float:
    """Median seconds of a chunk if every call recomputes the whole window, each chunk of it seeing those before."""
    shape = (1, WAN21.channels, config.window, *LATENT_SIZE)
    visibility = chunk_causal(range(config.window), chunk=config.chunk, window=config.window)
    context = network.embed_text(text)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        for timestep in config.timesteps:
            timesteps = torch.zeros(1, config.window)
            timesteps[:, -config.chunk :] = timestep
            network(torch.randn(shape), timesteps, context, visibility=visibility)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _median(costs: Sequence[Cost], chunks: range) -> float:
    return statistics.median(costs[chunk].seconds for chunk in chunks)


def _peak(costs: Sequence[Cost], chunks: range) -> float:
    return max(costs[chunk].resident_mb for chunk in chunks)


@torch.inference_mode()
def main(arguments: list[str] | None = None) -> int:
    """Measure and print; the exit status says whether the bounds hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rollout", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="rollouts to measure; ratios are medians over them")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    network, config = load_student()
    text = load_family_text_encoder().encode([PROMPT])

    ratios, growths, early, peaks = [], [], [], []
    for _ in range(options.repeats):
        costs = chunk_costs(network, config, text, LATE.stop)
        early.append(_median(costs, EARLY))
        ratios.append(_median(costs, LATE) / early[-1])
        peaks.append((_peak(costs, EARLY), _peak(costs, LATE)))
        growths.append(peaks[-1][1] - peaks[-1][0])
    cached = statistics.median(early)
    uncached = seconds_without_cache(network, config, text, repeats=len(EARLY))
    ratio, growth = statistics.median(ratios), statistics.median(growths)

    write = sys.stdout.write
    write(f"chunks {EARLY.start}..{EARLY.stop - 1}: {cached:.4f} s a chunk, peak {peaks[-1][0]:.0f} MB\n")
    write(f"chunks {LATE.start}..{LATE.stop - 1}: {cached * ratio:.4f} s a chunk, peak {peaks[-1][1]:.0f} MB\n")
    write(f"late / early: {ratio:.3f} (bound {MAX_RATIO}), memory growth {growth:.1f} MB (bound {MAX_GROWTH_MB})\n")
    write(f"without a cache: {uncached:.4f} s a chunk, {uncached / cached:.2f} times the cached rollout\n")
    seconds_of_video = config.chunk * WAN21.temporal_stride / FRAMES_PER_SECOND
    write(f"speed: {seconds_of_video / cached:.1f} seconds of video a second, {options.threads} threads\n")
    return int(ratio > MAX_RATIO or growth > MAX_GROWTH_MB)


if __name__ == "__main__":
    sys.exit(main())
