"""`python -m training.scenes --prompts 2000 --seed 5 > prompts.txt`: the prompts of scenes, one a line."""

from __future__ import annotations

import argparse
import sys

from .data.scenes.attributes import FIRST_HELD_OUT, prompt_for, sample_scene


def main(arguments: list[str] | None = None) -> int:
    """Write prompts to standard output."""
    parser = argparse.ArgumentParser(prog="python -m training.scenes", description="Prompts of scenes, one a line.")
    parser.add_argument("--prompts", type=int, required=True, metavar="N", help="how many")
    parser.add_argument("--seed", type=int, default=0, help="which data set of scenes (0)")
    parser.add_argument("--held-out", action="store_true", help="of scenes that no stage ever trains on")
    options = parser.parse_args(arguments)
    if options.prompts < 1 or options.seed < 0:
        parser.error(f"--prompts {options.prompts} --seed {options.seed}: write at least 1 prompt, of seed 0 or more")
    first = FIRST_HELD_OUT if options.held_out else 0
    # Whoever reads prompts reads UTF-8; what a pipe is taken to be depends on the machine.
    sys.stdout.reconfigure(encoding="utf-8")
    sys.stdout.writelines(f"{prompt_for(sample_scene(options.seed, first + n))}\n" for n in range(options.prompts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
