"""The text encoder of the built-in family: words in, the [B, 32, 4096] that a Wan 2.1 transformer takes as text out.

Stands where UMT5 stands for the published models, at the width that ComfyUI takes every Wan 2.1 text-to-video model to
have. As there, padded positions are exactly zero.

Axes: B prompt, L token position, D width of this encoder.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from zlib import crc32

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor, nn

from .weights_file import read_weights

logger = logging.getLogger(__name__)

KIND = "text_encoder"
"""What the header of a weights file calls it."""
PADDING, START, FIRST_WORD = 0, 1, 2
"""Token numbers with a fixed meaning. Every prompt begins with START, so that the empty prompt is a prompt as well."""
_VOCABULARY = Path(__file__).parent / "vocabulary.txt"
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyTextConfig:
    """Sizes of tokenizer and encoder."""

    length: int = 32
    """Tokens of a prompt, padding included."""
    num_buckets: int = 64
    """Token numbers shared by all words that the vocabulary lacks."""
    width: int = 96
    num_layers: int = 2
    num_heads: int = 4
    text_dim: int = 4096
    """Width of the output."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is no multiple of num_heads {self.num_heads}; choose one that is")


class TinyTokenizer:
    """Words to numbers. Case and punctuation do not count, synonyms share a number, any text is accepted.

    A word outside the vocabulary falls into a bucket chosen by its checksum: the same on every machine.
    """

    def __init__(self, config: TinyTextConfig | None = None) -> None:
        self.config = config or TinyTextConfig()
        self._numbers = _vocabulary()
        self._first_bucket = max(self._numbers.values()) + 1

    @property
    def num_tokens(self) -> int:
        """The number of token numbers, padding included."""
        return self._first_bucket + self.config.num_buckets

    def tokenize(self, prompt: str) -> list[int]:
        """`length` token numbers: START, one per word, PADDING. Words that do not fit are left out with a warning."""
        words = [word.replace("\u2019", "'") for word in _WORD.findall(prompt.lower())]
        room = self.config.length - 1
        if len(words) > room:
            logger.warning("The prompt has %d words; the built-in text encoder reads the first %d.", len(words), room)
        numbers = [START, *(self._number(word) for word in words[:room])]
        return numbers + [PADDING] * (self.config.length - len(numbers))

    def batch(self, prompts: Sequence[str]) -> Tensor:
        """Token numbers [B, L], int64."""
        tokens = torch.tensor([self.tokenize(prompt) for prompt in prompts], dtype=torch.int64)
        return tokens.reshape(len(prompts), self.config.length)

    def knows(self, word: str) -> bool:
        """Return whether the vocabulary has this word, in lower case."""
        return word in self._numbers

    def _number(self, word: str) -> int:
        bucket = crc32(word.encode()) % self.config.num_buckets
        return self._numbers.get(word, self._first_bucket + bucket)


class TinyTextEncoder(nn.Module):
    """A small pre-norm transformer over the words of a prompt.

    Built from torch.nn alone and trained together with the teacher. The buckets of unknown words start at zero, so that
    an unknown word takes up a position and says nothing unless somebody trains it to.
    """

    def __init__(self, config: TinyTextConfig | None = None) -> None:
        super().__init__()
        self.config = config or TinyTextConfig()
        self.tokenizer = TinyTokenizer(self.config)
        width = self.config.width
        self.word_embedding = nn.Embedding(self.tokenizer.num_tokens, width)
        self.position_embedding = nn.Embedding(self.config.length, width)
        self.blocks = nn.ModuleList(_Block(width, self.config.num_heads) for _ in range(self.config.num_layers))
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, self.config.text_dim)
        self._initialise()

    def _initialise(self) -> None:
        """Words of unit size, faint positions, silent buckets, and an output of unit size as UMT5's roughly is."""
        nn.init.normal_(self.position_embedding.weight, std=0.1)
        nn.init.normal_(self.projection.weight, std=self.config.width**-0.5)
        nn.init.zeros_(self.projection.bias)
        with torch.no_grad():
            self.word_embedding.weight[-self.config.num_buckets :].zero_()

    def forward(self, tokens: Tensor) -> Tensor:
        """Token numbers [B, L] to text [B, L, text_dim], zero wherever `tokens` is PADDING."""
        if tokens.ndim != 2 or tokens.shape[1] != self.config.length:
            raise ValueError(f"tokens have shape {tuple(tokens.shape)}; expected [B, {self.config.length}]")
        present = tokens != PADDING
        positions = torch.arange(self.config.length, device=tokens.device)
        x = self.word_embedding(tokens) + self.position_embedding(positions)
        for block in self.blocks:
            x = block(x, present)
        return self.projection(self.norm(x)).masked_fill(~present[:, :, None], 0)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Text [B, L, text_dim] of these prompts, on the device of the weights."""
        return self(self.tokenizer.batch(prompts).to(self.word_embedding.weight.device))

    def header(self) -> dict[str, object]:
        """Return what a weights file must say for `load_text_encoder` to take it; more entries do no harm."""
        return {"kind": KIND, "model": asdict(self.config), "vocabulary": _vocabulary_checksum()}


class _Block(nn.Module):
    """Self-attention among the words that are there, then a feed-forward layer, both residual."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """X [B, L, D]; present [B, L], true for words."""
        q, k, v = rearrange(self.qkv(self.norm1(x)), "b l (three h d) -> three b h l d", three=3, h=self.num_heads)
        heard = F.scaled_dot_product_attention(q, k, v, attn_mask=present[:, None, None, :])
        x = x + self.out(rearrange(heard, "b h l d -> b l (h d)"))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def save_text_encoder(encoder: TinyTextEncoder, path: Path) -> None:
    """Weights as safetensors, `encoder.header()` as JSON under the metadata key `sfpp`."""
    weights = {name: tensor.detach().contiguous().cpu() for name, tensor in encoder.state_dict().items()}
    save_file(weights, path, metadata={"sfpp": json.dumps(encoder.header())})


def load_text_encoder(path: Path) -> TinyTextEncoder:
    """The encoder of a file written by `save_text_encoder`, in float32 on the CPU, in evaluation mode."""
    weights, header = read_weights(path, kind=KIND)
    if header.get("vocabulary") != _vocabulary_checksum():
        raise ValueError(f"{path} was trained with another vocabulary.txt; take the one from its time, or train again")
    encoder = TinyTextEncoder(TinyTextConfig(**header["model"]))
    encoder.load_state_dict(weights)
    return encoder.eval()


def _vocabulary_checksum() -> int:
    """Weights fit one vocabulary only: token numbers are line numbers."""
    return crc32(json.dumps(_vocabulary()).encode())


@cache
def _vocabulary() -> dict[str, int]:
    """Token number of each known word. The file has one line per number: a word and its synonyms."""
    numbers: dict[str, int] = {}
    for number, synonyms in enumerate(_VOCABULARY.read_text(encoding="utf-8").splitlines(), start=FIRST_WORD):
        for word in synonyms.split():
            assert word not in numbers, f"vocabulary.txt lists {word!r} twice"
            numbers[word] = number
    return numbers
