"""What it costs to score a long video offline: `python -m benchmarks.stability`.

Makes a video of ten seconds and one of four minutes (832x480, 16 frames a second), scores each in a process of its own,
and prints how much faster than real time that was, the processor time, and the peak memory of both. Exits 1 if the long
one is not faster than real time or needs 150 MB more than the short one. Peaks are read from /proc, so on Linux only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from sfpp_core.stability.offline.judge import OfflineJudge
from sfpp_core.stability.score import visual_stability
from sfpp_core.video.span import VideoSpan
from sfpp_core.video.writer import VideoWriter
from sfpp_core.wan.config import FRAMES_PER_SECOND

WIDTH, HEIGHT = 832, 480
SHORT_SECONDS, LONG_SECONDS = 10, 240
MAX_GROWTH_MB = 150.0
STATUS = Path("/proc/self/status")


def make_video(path: Path, seconds: int) -> Path:
    """A camera that circles over a picture of textures, with a little noise: nothing that is cheap to measure."""
    rng = np.random.default_rng(0)
    texture = [rng.uniform(0, 255, (2 * HEIGHT // size, 2 * WIDTH // size, 3)) for size in (48, 16, 6)]
    scene = np.mean([cv2.resize(layer, (2 * WIDTH, 2 * HEIGHT)) for layer in texture], axis=0)
    with VideoWriter(path, WIDTH, HEIGHT) as writer:
        for index in range(seconds * FRAMES_PER_SECOND):
            x = int(WIDTH / 2 * (1 + np.sin(index / 90)))
            y = int(HEIGHT / 2 * (1 + np.cos(index / 70)))
            view = scene[y : y + HEIGHT, x : x + WIDTH] + rng.normal(0, 2, (HEIGHT, WIDTH, 1))
            writer.write(torch.from_numpy(view.clip(0, 255).astype(np.uint8))[None])
    return path


def score(path: Path) -> tuple[float, float, float, float]:
    """Score a video; the score, seconds, seconds of processor time, and the most MB that this process has held."""
    started, worked = time.perf_counter(), time.process_time()
    result = visual_stability(VideoSpan.open(path), "", OfflineJudge())
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    seconds, busy = time.perf_counter() - started, time.process_time() - worked
    return result.score, seconds, busy, int(line.split()[1]) / 1024


def score_apart(path: Path, threads: int) -> tuple[float, float, float, float]:
    """`score` in a fresh process with so many threads."""
    command = [sys.executable, "-m", "benchmarks.stability", "--score", str(path), "--threads", str(threads)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    points, seconds, busy, peak = (float(word) for word in output.split())
    return points, seconds, busy, peak


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; the exit status says whether the bounds hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stability", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--score", type=Path, metavar="VIDEO", help="only score this: score, seconds, busy seconds, MB")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(options.threads)
    torch.set_num_threads(options.threads)
    if options.score:
        print(*score(options.score))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        peaks = {}
        for length in (SHORT_SECONDS, LONG_SECONDS):
            path = make_video(Path(folder) / f"{length}.mp4", length)
            points, seconds, busy, peaks[length] = score_apart(path, options.threads)
            speed = length / seconds
            print(
                f"{length} s of {WIDTH}x{HEIGHT}: score {points:.1f}, {seconds:.1f} s ({speed:.1f} x real time), "
                f"{busy:.1f} s of processor time, peak {peaks[length]:.0f} MB, {options.threads} threads"
            )
    growth = peaks[LONG_SECONDS] - peaks[SHORT_SECONDS]
    print(f"memory growth {growth:.1f} MB (bound {MAX_GROWTH_MB:g}), speed {speed:.1f} x real time (bound 1)")
    return int(growth > MAX_GROWTH_MB or speed < 1)


if __name__ == "__main__":
    sys.exit(main())
