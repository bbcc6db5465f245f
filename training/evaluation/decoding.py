"""Decoding many small films side by side, three quarters of an evaluation: faster than the pack decodes one.

With the built-in autoencoder, 8 films of 64x64 and bfloat16 on one core of a Xeon, a latent frame of a film takes 21 ms
as the pack does it, 17.5 in portions of three frames with weights laid out channels last, and 9.5 compiled besides.
"""

from __future__ import annotations

from torch import Tensor

from sfpp_core.wan.config import to_vae_space
from sfpp_core.wan.vae import DecodeStream, WanVAE

PORTION = 3
"""Latent frames decoded at once: a chunk of most students, and a divisor of a window's 21."""


class FilmDecoder:
    """Latents of films to pictures, piece by piece, wherever and in whatever precision the autoencoder is."""

    def __init__(self, vae: WanVAE) -> None:
        self._stream = DecodeStream(vae, portion=PORTION)
        self._weight = next(vae.parameters())

    def push(self, latents: Tensor) -> Tensor:
        """The next latents, B C T h w in model space and best a whole number of portions, to B 3 F 8h 8w in [-1, 1]."""
        return self._stream.push(to_vae_space(latents).to(self._weight))


def compile_decoder(vae: WanVAE) -> None:
    """Compile in place, a minute or two at the first pieces of a film. The weights must not change any more."""
    # Frozen weights are laid out once for oneDNN, which is most of the gain.
    vae.decoder.compile(dynamic=False, options={"freezing": True})
