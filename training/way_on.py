"""What to do about a run that must not go on as it is."""

from __future__ import annotations

import shlex
from pathlib import Path

from .config import TrainConfig, has_key

EXPORT_CONFIG = Path(__file__).parent / "configs" / "wan" / "export.yaml"
"""Its settings are all overridden but for those of a run."""


def way_on(config: TrainConfig, step: int) -> str:
    """The rest of a sentence that says what to lower: where, and how what was learnt until the checkpoint is kept.

    step: that checkpoint's, 0 if there is none. Only stages whose student starts from `init` can begin with it.
    """
    precision = config.precision
    wider = "" if precision == "float32" else f", or write precision=float32 (it is {precision}),"
    again = f"{wider} in a new run, with another run.out."
    if not (step and has_key(config, "student") and has_key(config, "init")):
        return again
    out, target = config.run.out, Path(config.run.out) / "export"
    settings = [f"source={out}", "weights=raw", "dtype=float32", f"run.out={target}"]
    command = shlex.join(["python", "-m", "training", "export", "--config", str(EXPORT_CONFIG), *settings])
    return (
        f"{again} To begin it with what was learnt until step {step}, give `{command}`, then name "
        f"{target / 'student.safetensors'} in init."
    )
