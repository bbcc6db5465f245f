"""`python -m training.scaling [key=value ...]`: the cost of a training step at full size; see docs/scaling.md."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from omegaconf import OmegaConf

from ..config import ConfigError, as_dataclass, core_refusals, require, with_words
from .config import MODELS, ScalingConfig, teachers
from .costs import count_passes
from .measure import compute_dtype, measurement, open_device
from .report import report


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables. Mistakes end in a sentence, not a traceback."""
    parser = argparse.ArgumentParser(prog="python -m training.scaling", description=__doc__)
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="e.g. batch=64 machine.transformer_tflops=400"
    )
    parser.add_argument("--student", choices=MODELS, default="1.3B", help="student and critic (default 1.3B)")
    parser.add_argument("--teacher", choices=MODELS, action="append", help="may be given again (default 1.3B and 14B)")
    parser.add_argument("--no-checkpointing", action="store_true", help="count steps without activation checkpointing")
    parser.add_argument("--measure", metavar="DEVICE", help="make the passes and a step there, e.g. cuda, and compare")
    parser.add_argument("--repeats", type=int, default=3, help="of each timed pass; the quickest counts (default 3)")
    options = parser.parse_intermixed_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    checkpointing = not options.no_checkpointing
    try:
        models = {"student": MODELS[options.student], "teachers": teachers(*(options.teacher or ("1.3B", "14B")))}
        config = read_config(ScalingConfig(**models), options.overrides)
        if options.measure:
            require(options.repeats >= 1, f"--repeats is {options.repeats}; a pass must be timed at least once.")
            device = open_device(options.measure)
            costs = count_passes(config, dtype=compute_dtype(device))
            text = measurement(config, costs, device, checkpointing=checkpointing, repeats=options.repeats)
        else:
            text = report(config, count_passes(config), checkpointing=checkpointing)
    except ConfigError as error:
        logging.error("%s", error)
        return 2
    sys.stdout.write(text)
    return 0


def read_config(base: ScalingConfig, overrides: Sequence[str]) -> ScalingConfig:
    """A configuration with `key=value` overrides on top.

    Raises:
        ConfigError: a word that cannot be read, a key that does not exist or a value that is refused.
    """
    config = with_words(OmegaConf.structured(base), overrides, example="batch=64")
    with core_refusals():
        return as_dataclass(config, named="the overrides")


if __name__ == "__main__":
    sys.exit(main())
