"""Configurations of the smallest commands, for tests that look into a stage without running its command."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.stage_cases import CASES
from training.config import ConfigT, load_config


def config_of(name: str, kind: type[ConfigT], here: Path, *words: str) -> ConfigT:
    """Of a case, with more words, whose files lie in `here`; see `stage_cases.write_files`."""
    _, config, *settings = CASES[name].command(here / "one" / name, *words)
    return load_config(kind, config.removeprefix("--config="), settings)
