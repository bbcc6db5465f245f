"""The judges there are, by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ..score import Judge


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeKind:
    """A kind of judge and its module, relative to this package.

    It is imported when it is chosen, since the clients of remote judges are optional.
    """

    module: str
    factory: str
    remote: bool
    """Whether it sends the video away and its ratings cost money, and a model is to be chosen."""


JUDGES: Final[Mapping[str, JudgeKind]] = MappingProxyType(
    {
        "offline": JudgeKind(module="..offline.judge", factory="OfflineJudge", remote=False),
        "gemini": JudgeKind(module=".gemini", factory="GeminiJudge", remote=True),
        "openai": JudgeKind(module=".openai_compatible", factory="OpenAICompatibleJudge", remote=True),
    }
)


def make_judge(name: str, model: str | None = None) -> Judge:
    """The judge of a name in `JUDGES`; `model` None is the judge's own choice.

    Raises:
        ValueError: there is no such judge, or it has no models to choose from.
        JudgeError: the judge cannot work here: its client is not installed, or it has no key.
    """
    if name not in JUDGES:
        raise ValueError(f"judge is {name!r}; there are {', '.join(JUDGES)}.")
    kind = JUDGES[name]
    if model is not None and not kind.remote:
        raise ValueError(f"model is {model!r}, but the {name} judge has no models; leave it out or take another judge.")
    factory = getattr(importlib.import_module(kind.module, package=__package__), kind.factory)
    return factory() if model is None else factory(model=model)
