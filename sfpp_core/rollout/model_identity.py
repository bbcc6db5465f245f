"""Identity of a model in a state: whether the weights at hand are those that made it.

Weights in any floating-point format have one identity. It is made of their signs, which a cast keeps. Quantisation to
integers keeps no sign of a value near zero. So an identity also carries a sketch, a few values of every linear layer.
Two forms, at least one of them quantised, are the same model if their sketches are as near to each other as that form's
rounding explains. Two models that differ by less, such as a model and its lightly trained descendant in 4 bits, cannot
be told apart that way. In one quantised form they are told apart from 0.6 % on, in floating point always.
"""

from __future__ import annotations

import base64
import binascii
import math
from dataclasses import dataclass

import torch
from torch import Tensor

FLOAT_BITS = 16.0
"""From so many bits a value on, and in every floating-point format, signs decide."""
TOLERANCES = ((8.25, 0.012), (7.0, 0.06), (5.0, 0.08), (3.5, 0.2), (0.0, 0.5))
"""From so many bits a value on: how far apart two sketches of one model may be, root mean square, as a part of the
weights' own. Rounding to 8 bits and a scale for a block of 32 (8.5 bits) makes 0.004, to 8 bits a tensor up to 0.05,
to 4 bits a block 0.08 to 0.1; unrelated models are 1.4 apart."""
SAME_FORM_TOLERANCE = 0.006
"""The same for two models in one quantised form, which a device or a number format may compute a little differently:
bfloat16, of which a sketch is made, rounds by 0.002."""
SEPARATOR = ":"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """The facts that tell one model from another."""

    exact: str
    """Hexadecimal digest of the weights' signs, or of a quantised form's values, and of the LoRAs on them."""
    patches: str = ""
    """Hexadecimal digest of the LoRAs alone."""
    form: str = ""
    """What kind of quantised layers there are; empty where all are in floating point."""
    bits: float = FLOAT_BITS
    """Bits that a value takes in the coarsest of them."""
    sketch: bytes = b""
    """Values of every linear layer in bfloat16, as parts of the layer's own root mean square, the same places in every
    form; empty where none were taken."""

    def __str__(self) -> str:
        """Write the identity as states carry it."""
        if not self.sketch:
            return self.exact
        sketch = base64.b64encode(self.sketch).decode("ascii")
        return SEPARATOR.join((self.exact, self.patches, self.form, f"{self.bits:g}", sketch))

    @classmethod
    def parse(cls, text: str) -> ModelIdentity:
        """Read what `str` wrote, or the exact part alone, which is all that older states carry."""
        parts = text.split(SEPARATOR)
        if len(parts) != 5:
            return cls(exact=text)
        exact, patches, form, bits, sketch = parts
        try:
            return cls(
                exact=exact,
                patches=patches,
                form=form,
                bits=float(bits),
                sketch=base64.b64decode(sketch, validate=True),
            )
        except (ValueError, binascii.Error):
            return cls(exact=text)

    def is_same_model(self, other: ModelIdentity) -> bool:
        """Return whether both are forms of one model with the same LoRAs."""
        if self.exact == other.exact:
            return True
        is_floating = not self.form and not other.form
        if is_floating or self.patches != other.patches:
            return False
        if not self.sketch or len(self.sketch) != len(other.sketch):
            return False
        coarsest = min(self.bits, other.bits)
        tolerance = next(most for bits, most in TOLERANCES if coarsest >= bits)
        if self.form == other.form:
            tolerance = SAME_FORM_TOLERANCE
        return _distance(_values(self.sketch), _values(other.sketch)) <= tolerance


def sketch_of(values: Tensor) -> bytes:
    """Bytes of a sketch with these values, in bfloat16."""
    return values.to(torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes()


def _values(sketch: bytes) -> Tensor:
    return torch.frombuffer(bytearray(sketch), dtype=torch.bfloat16).double()


def _distance(first: Tensor, second: Tensor) -> float:
    """Root mean square difference as a part of the first's root mean square."""
    scale = first.square().mean().sqrt().item()
    distance = (first - second).square().mean().sqrt().item()
    return distance / scale if scale > 0 and math.isfinite(distance) else math.inf
