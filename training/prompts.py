"""Prompts as people keep them: a text file, one a line."""

from __future__ import annotations

from pathlib import Path

from .config import ConfigError, require


def read_prompts(path: str) -> list[str]:
    """The lines of a UTF-8 text file without the empty ones, in order; a prompt that comes twice counts once.

    Raises:
        ConfigError: no such file, none with a prompt in it, or no UTF-8.
    """
    require(Path(path).is_file(), f"{path} is no file; name a text file of prompts, one a line.")
    try:
        # Written on Windows, such files may start with a byte order mark.
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8.") from error
    prompts = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    require(bool(prompts), f"{path} holds no prompt; write one a line.")
    return prompts
