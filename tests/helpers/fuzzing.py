"""Damages of files, each of a kind that was met or made on purpose; the same for the same seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any

Damage = Callable[[bytes, random.Random], bytes]


def flipped(content: bytes, draw: random.Random) -> bytes:
    """One bit, anywhere."""
    return with_flip(content, draw.randrange(len(content)), draw)


def flipped_in_head(content: bytes, draw: random.Random) -> bytes:
    """One bit of the first part, where headers lie."""
    return with_flip(content, draw.randrange(min(len(content), 4096)), draw)


def with_flip(content: bytes, place: int, draw: random.Random) -> bytes:
    return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]


def cut(content: bytes, draw: random.Random) -> bytes:
    """Anywhere."""
    return content[: draw.randrange(len(content))]


def blanked(content: bytes, draw: random.Random) -> bytes:
    """A stretch of zeros, as a sparse download leaves it."""
    start = draw.randrange(len(content))
    length = min(draw.randrange(1, 5000), len(content) - start)
    return content[:start] + bytes(length) + content[start + length :]


def shuffled(content: bytes, draw: random.Random) -> bytes:
    """Two halves changed about."""
    place = draw.randrange(1, len(content))
    return content[place:] + content[:place]


def noise(content: bytes, draw: random.Random) -> bytes:
    """Anything at all, of some length."""
    del content
    return draw.randbytes(draw.randrange(1, 5000))


def doubled(content: bytes, draw: random.Random) -> bytes:
    """The file, and some of it again."""
    return content + content[: draw.randrange(len(content))]


BYTES: Mapping[str, Damage] = {
    each.__name__: each for each in (flipped, flipped_in_head, cut, blanked, shuffled, noise, doubled)
}


def strange_value(draw: random.Random) -> Any:
    """What nobody expects in a description."""
    return draw.choice(
        (
            *(None, True, -1, 0, 2**31, 2**63, 2**200, 0.5, float("nan"), float("inf"), "", "x" * 5000, "3", [], {}),
            *([[]], [1, "2"], {"a": {"b": []}}, "\ud800", "\x00", -(10**9), 1e308, [None] * 100),
        )
    )


def with_strange_entry(entries: Any, draw: random.Random) -> Any:
    """A description with one of its values, however deep, replaced, removed or added."""
    if isinstance(entries, dict) and entries and draw.random() < 0.8:
        key = draw.choice(sorted(entries))
        kind = draw.randrange(4)
        if kind == 0:
            return {name: value for name, value in entries.items() if name != key}
        if kind == 1:
            return {**entries, draw.choice(("extra", "kind", "version", "__metadata__")): strange_value(draw)}
        return {**entries, key: with_strange_entry(entries[key], draw)}
    if isinstance(entries, list) and entries and draw.random() < 0.8:
        place = draw.randrange(len(entries))
        return [*entries[:place], with_strange_entry(entries[place], draw), *entries[place + 1 :]]
    return strange_value(draw)


def header_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    """A safetensors file's header, and its data."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(header: Any, data: bytes) -> bytes:
    """The safetensors file of a header, whatever it is, and data."""
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + data


def strange_header(content: bytes, draw: random.Random) -> bytes:
    """A safetensors file whose header has one strange entry."""
    header, data = header_of(content)
    return with_header(with_strange_entry(header, draw), data)


def swapped_tensors(content: bytes, draw: random.Random) -> bytes:
    """A safetensors file in which two tensors go by each other's names."""
    header, data = header_of(content)
    first, second = draw.sample([name for name in header if name != "__metadata__"], 2)
    header[first], header[second] = header[second], header[first]
    return with_header(header, data)


def nested_header(content: bytes, draw: random.Random) -> bytes:
    """A safetensors file with JSON nested thousands deep where a description is expected."""
    header, data = header_of(content)
    metadata = dict(header.get("__metadata__", {}))
    for name in list(metadata) or ["sfpp"]:
        metadata[name] = "[" * draw.randrange(2000, 200_000)
    return with_header({**header, "__metadata__": metadata}, data)


SAFETENSORS: Mapping[str, Damage] = {
    **BYTES,
    **{each.__name__: each for each in (strange_header, swapped_tensors, nested_header)},
}
