"""Where the built-in family's weights are, and how each part is loaded.

Files are safetensors; their `sfpp` header says what they are and how they were trained. Weights may be stored in half
precision and are loaded as float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from ..rollout.config import RolloutConfig
from ..wan.config import WanConfig
from ..wan.transformer import WanTransformer
from ..wan.vae import WanVAE
from .text import TinyTextEncoder, load_text_encoder
from .weights_file import read_weights

Part = Literal["student", "teacher", "vae", "text_encoder"]
PARTS: tuple[Part, ...] = ("student", "teacher", "vae", "text_encoder")
WEIGHTS = Path(__file__).parent / "weights"


def weights_path(part: Part) -> Path:
    """File of a part of the family.

    Raises ValueError for a name that is no part, FileNotFoundError if the installation lacks the file.
    """
    if part not in PARTS:
        raise ValueError(f"{part!r} is no part of the built-in family; its parts are {', '.join(PARTS)}.")
    path = WEIGHTS / f"{part}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; install the pack again, with all of its files. The teacher is in a clone of the "
            "repository only."
        )
    return path


def load_vae(path: Path | None = None) -> WanVAE:
    """The video autoencoder, float32 on the CPU, evaluation mode; the family's own by default."""
    weights, _ = read_weights(path or weights_path("vae"), kind="vae")
    return WanVAE.from_state_dict(weights).eval()


def load_teacher(path: Path | None = None) -> WanTransformer:
    """The bidirectional teacher, float32 on the CPU, evaluation mode; the family's own by default."""
    return _load_transformer(path or weights_path("teacher"), kind="teacher")[0]


def load_student(path: Path | None = None) -> tuple[WanTransformer, RolloutConfig]:
    """The causal student and the rollout it was trained for; otherwise as `load_teacher`."""
    network, header = _load_transformer(path or weights_path("student"), kind="student")
    return network, RolloutConfig.from_json(header["rollout"])


def load_family_text_encoder(path: Path | None = None) -> TinyTextEncoder:
    """The text encoder, float32 on the CPU, evaluation mode; the family's own by default."""
    return load_text_encoder(path or weights_path("text_encoder"))


def _load_transformer(path: Path, *, kind: str) -> tuple[WanTransformer, dict[str, Any]]:
    weights, header = read_weights(path, kind=kind)
    network = WanTransformer(WanConfig(**header["model"]))
    network.load_state_dict(weights)
    return network.eval(), header
