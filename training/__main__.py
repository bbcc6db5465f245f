"""`python -m training STAGE --config FILE [key=value ...]`; exit status 0 also for a run paused by max_minutes."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from contextlib import nullcontext

import torch
from safetensors import SafetensorError

from .config import ConfigError, load_config
from .engine.checkpoint import RunCheckpointError
from .engine.checks import NonFiniteError, TrainingDiverged, means_full_disk
from .engine.distributed import DistContext, joined, launched_rank
from .engine.metrics import require_mirror

STAGES = {
    "vae": "the video autoencoder",
    "latents": "a cache of encoded clips with their prompts",
    "embeddings": "a cache of encoded prompts",
    "reader": "the classifier that judges samples",
    "teacher": "the bidirectional teacher and the text encoder",
    "ode_pairs": "trajectories of the teacher's ODE, for the causal student",
    "causal_init": "the causal few-step student, from the teacher",
    "self_forcing": "Self-Forcing: rollouts of the teacher's length, judged by teacher and critic",
    "sfpp": "Self-Forcing++: windows of rollouts far longer than that",
    "grpo": "the student's own videos compared, even motion made more likely",
    "export": "a run's student as one file for ComfyUI",
    "evaluate": "students side by side, at any length: stability, motion, drift, truth",
    "evaluate_tiny": "accuracy by attribute, contact sheets and videos of teacher and student",
}
FOR_ONE_PROCESS = ("export", "evaluate_tiny")
"""Stages whose work is not shared: the first process does it and does not join the others, which end at once."""


def _options(arguments: list[str] | None) -> argparse.Namespace:
    stages = "\n".join(f"  {name:14} {meaning}" for name, meaning in STAGES.items())
    parser = argparse.ArgumentParser(
        prog="python -m training", epilog=f"stages:\n{stages}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=STAGES, metavar="STAGE")
    parser.add_argument(
        "--config",
        required=True,
        action="append",
        metavar="FILE",
        help="YAML, e.g. training/configs/tiny/vae.yaml; given again, the later file's keys go over the earlier's",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. run.max_minutes=9 steps=100")
    return parser.parse_intermixed_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run one stage and return its exit status.

    Mistakes in the configuration, a run that diverges, videos and clips that are not finite, and a full disk end in a
    sentence.
    """
    options = _options(arguments)
    is_alone = options.stage in FOR_ONE_PROCESS
    if is_alone and launched_rank() > 0:
        return 0
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    stage = importlib.import_module(f".stages.{options.stage}", package=__package__)
    try:
        first, *more = options.config
        config = load_config(stage.CONFIG, first, options.overrides, more=more)
        # Before networks are opened, which takes minutes.
        require_mirror(config.run)
        torch.manual_seed(config.seed)
        with nullcontext(DistContext.alone()) if is_alone else joined(config.device) as world:
            logging.getLogger().setLevel(logging.INFO if world.is_main else logging.ERROR)
            stage.run(config)
    except ConfigError as error:
        logging.error("%s", error)
        return 2
    except (TrainingDiverged, RunCheckpointError, NonFiniteError) as error:
        logging.error("%s", error)
        return 1
    except (OSError, SafetensorError) as error:
        if not means_full_disk(error):
            raise
        logging.error(
            "the disk is full: %s. What is whole in %s stays; make room there, or where another path is named, then "
            "give the same command again.",
            error,
            config.run.out,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
