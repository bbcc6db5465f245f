"""The layers of a configuration: what YAML files and `key=value` words say goes over a dataclass's own values.

A file or a word that cannot be used is named in a sentence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from .refusals import ConfigError, require


def with_file(config: DictConfig, path: Path) -> DictConfig:
    """A configuration with what a YAML file says over it.

    Raises:
        ConfigError: no such file, one that cannot be read, or a key or a value that the configuration does not take.
    """
    require(path.is_file(), f"{path} is no file; name a configuration, e.g. training/configs/tiny/vae.yaml.")
    with _readable(str(path), instead="write lines of `key: value`, in UTF-8, indented with spaces"):
        content = OmegaConf.load(path)
        require(isinstance(content, DictConfig), f"{path} holds a list; write lines of `key: value`.")
        return OmegaConf.merge(config, content)


def with_words(config: DictConfig, words: Sequence[str], *, example: str) -> DictConfig:
    """A configuration with `key=value` words of a command line over it. example: such a word, for refusals.

    Raises:
        ConfigError: a word is none of these, cannot be read, or says what the configuration does not take.
    """
    said, result = OmegaConf.create(), config
    for word in words:
        require("=" in word, f"{word!r} is no override; write key=value, e.g. {example}.")
        # One after the other, so that a refusal can name its word.
        with _readable(repr(word), instead=f"write key=value, e.g. {example}, with lists as [1, 2]"):
            said.merge_with_dotlist([word])
            result = OmegaConf.merge(config, said)
    return result


def as_dataclass(config: DictConfig, *, named: str) -> Any:
    """The dataclass that a configuration was begun with, holding what it says now. named: what said it, for refusals.

    Raises:
        ConfigError: a value is missing, or the dataclass refuses one.
    """
    with _accepted(named):
        return OmegaConf.to_object(config)


@contextmanager
def _accepted(named: str) -> Iterator[None]:
    """Raise as a ConfigError what OmegaConf does not accept."""
    try:
        yield
    except (ConfigKeyError, ConfigAttributeError) as error:
        raise ConfigError(
            f"{named}: there is no key {error.full_key!r} in this stage or command; mend its name."
        ) from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{named}: {error.full_key or 'all of it'}: {error.msg or error}") from error


@contextmanager
def _readable(named: str, *, instead: str) -> Iterator[None]:
    """The same, and what cannot even be read, or is of another shape than what it is to go over."""
    try:
        with _accepted(named):
            yield
    except ConfigError:
        raise
    except (YAMLError, OSError, ValueError, TypeError, IndexError) as error:
        raise ConfigError(f"{named} cannot be used ({_reason(error)}); {instead}.") from error


def _reason(error: Exception) -> str:
    """What is wrong, in one line; what YAML says of its place fills several."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split())
