"""Opening a checkpoint: a file of any known layout becomes the weights of a whole Wan 2.1 transformer.

This project's own files carry settings in their safetensors header, under `sfpp`, as a JSON object: `kind` (`student`
or `teacher`), `model` (the fields of WanConfig), and for a student `rollout` (the fields of RolloutConfig that it was
trained for). Other entries (seed, stage, ...) are the training's and are not read here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from ..files import parse_json
from ..rollout.config import RolloutConfig
from ..sealed_file import check_own_seal
from ..wan.config import WanConfig, infer_config
from ..wan.transformer import WanTransformer
from .errors import CheckpointError, first_few
from .files import Archive, read_archive, refuse_weightless
from .layouts import Layout, name_weights, refuse_lora, refuse_other_channels, refuse_other_models, refuse_wan_variants
from .presets import Preset, match_preset
from .quantization import QuantizedWeights, separate_quantization

HEADER_KEY = "sfpp"
TransformerKind = Literal["student", "teacher"]
TRANSFORMER_KINDS: tuple[TransformerKind, ...] = get_args(TransformerKind)


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """The description that an own file carries."""

    kind: TransformerKind
    model: WanConfig
    rollout: RolloutConfig | None
    """None for a teacher, which sees whole clips."""


def read_header(path: Path, metadata: Mapping[str, str]) -> Header | None:
    """The header of an own file, None for files of others. Raises CheckpointError."""
    if HEADER_KEY not in metadata:
        return None
    try:
        entries = parse_json(metadata[HEADER_KEY])
        kind = entries["kind"]
        if kind in TRANSFORMER_KINDS:
            return Header(kind=kind, model=WanConfig(**entries["model"]), rollout=_rollout(entries.get("rollout")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            path,
            found=f"a {HEADER_KEY} header that cannot be used ({type(error).__name__}: {error})",
            remedy="The file was edited, or is of a newer version of this pack: then update the pack.",
        ) from error
    remedy = "Choose a student file; this part is loaded with the rest of the built-in model."
    raise CheckpointError(path, found=f"this project's own {kind}", remedy=remedy)


def _rollout(entries: dict | None) -> RolloutConfig | None:
    return None if entries is None else RolloutConfig.from_json(entries)


INCOMPLETE = "The file is incomplete: download it again, or use the publisher's original."
OTHER_MODEL = "It is another model, or was changed: choose a Wan 2.1 text-to-video checkpoint."


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A Wan 2.1 text-to-video transformer's weights and what is known of them."""

    state_dict: dict[str, Tensor]
    """Weights under Wan 2.1's names, then, if quantised, ComfyUI's scales, and settings that a newer ComfyUI keeps
    beside them. The tensors are views of the mapped file."""
    config: WanConfig
    kind: TransformerKind | None
    """What an own file's header calls it; None for files of others, which do not tell."""
    preset: Preset | None
    """How the model is meant to be sampled: from an own file's header, else by file name; None if neither tells."""
    layout: Layout
    """Whose names the file had."""
    part: str | None
    """The part of a training file that the weights are, such as `generator_ema`; None for other files."""
    quantization: tuple[str, ...]
    """Formats of the quantised layers under ComfyUI's names, or `scaled_fp8` for a file with that marker; empty if the
    weights are stored as they are. Quantised ones mean something only to ComfyUI's loader."""
    metadata: dict[str, str]
    """The safetensors header's strings."""


def open_checkpoint(path: str | os.PathLike[str], *, prefer_ema: bool = True) -> Checkpoint:
    """Open a published or own checkpoint: a file, an index of shards, or a folder of diffusers'.

    The layout is recognised by content. Every weight that the inferred configuration calls for must be there, in its
    shape, and nothing else may. Nothing is copied: a 28 GB file costs address space until its weights are used.
    Of a training file that holds both, `prefer_ema` chooses the averaged weights over the live ones.

    Raises CheckpointError, whose message names the file, what was found, what was expected and what to do.
    """
    checkpoint = understand(read_archive(Path(path)), prefer_ema=prefer_ema)
    refuse_weightless(Path(path), checkpoint.state_dict)
    return checkpoint


def understand(archive: Archive, *, prefer_ema: bool = True) -> Checkpoint:
    """Recognise what an archive holds and prove it complete; see open_checkpoint."""
    path = archive.path
    header = read_header(path, archive.metadata)
    if header is not None:
        _require_seal(archive)
    named = name_weights(archive, prefer_ema=prefer_ema)
    refuse_lora(path, named.tensors)
    refuse_other_models(path, named.tensors)
    refuse_wan_variants(path, named.tensors)
    quantized = separate_quantization(named, archive.metadata)
    config = _config(path, header, quantized.shapes, archive.num_heads)
    refuse_other_channels(path, config)
    ordered = _complete_weights(path, config, quantized)
    return Checkpoint(
        state_dict=ordered | quantized.sidecars,
        config=config,
        kind=header.kind if header else None,
        preset=_preset(path, header),
        layout="sfpp" if header else named.layout,
        part=named.part,
        quantization=quantized.formats,
        metadata=quantized.metadata,
    )


def _require_seal(archive: Archive) -> None:
    """Refuse an own file that was changed after it was written."""
    entries = parse_json(archive.metadata[HEADER_KEY])
    try:
        check_own_seal(entries, archive.content, archive.content.__getitem__)
    except ValueError as error:
        raise CheckpointError(
            archive.path, found=f"one of this project's own files, but {error}", remedy="Use the original."
        ) from error


def expected_shapes(config: WanConfig) -> dict[str, torch.Size]:
    """Shape of every weight of a transformer of this configuration, in the order of its modules."""
    with torch.device("meta"):
        return {name: weight.shape for name, weight in WanTransformer(config).state_dict().items()}


def _config(path: Path, header: Header | None, stored: Mapping[str, torch.Size], num_heads: int | None) -> WanConfig:
    """The configuration: an own file's header tells it, but is not believed about what the weights show."""
    if header is None:
        return _infer_config(path, stored, num_heads)
    shown = asdict(_infer_config(path, stored, header.model.num_heads))
    wrong = [
        f"{name} {told} instead of {shown[name]}"
        for name, told in asdict(header.model).items()
        if name != "eps" and told != shown[name]
    ]
    if wrong:
        raise CheckpointError(
            path,
            found=f"a header of another model than the weights ({', '.join(wrong)})",
            remedy="The file was edited or is incomplete: use the original.",
        )
    return header.model


def _infer_config(path: Path, stored: Mapping[str, torch.Size], num_heads: int | None) -> WanConfig:
    try:
        return infer_config(stored, num_heads=num_heads)
    except KeyError as error:
        raise CheckpointError(path, found=f"a Wan transformer without {error.args[0]}", remedy=INCOMPLETE) from error
    except ValueError as error:
        raise CheckpointError(
            path, found=f"a Wan-like transformer of a size that Wan 2.1 cannot have ({error})", remedy=OTHER_MODEL
        ) from error


def _complete_weights(path: Path, config: WanConfig, quantized: QuantizedWeights) -> dict[str, Tensor]:
    """The weights in module order, once it is certain that they are exactly those of `config`."""
    weights, shapes = quantized.weights, expected_shapes(config)
    missing = [name for name in shapes if name not in weights]
    extra = [name for name in weights if name not in shapes] + quantized.strays()
    wrong = [
        f"{name} is {list(shape)} instead of {list(shapes[name])}"
        for name, shape in quantized.shapes.items()
        if name in shapes and shape != shapes[name]
    ]
    problems = [
        f"{len(names)} {what} ({first_few(names)})"
        for names, what in ((missing, "missing"), (extra, "that do not belong"), (wrong, "of another shape"))
        if names
    ]
    if problems:
        raise CheckpointError(
            path,
            found=f"{len(weights)} weights, {'; '.join(problems)}",
            expected=f"the {len(shapes)} weights of a Wan 2.1 text-to-video transformer "
            f"(dim {config.dim}, {config.num_layers} blocks)",
            remedy=INCOMPLETE if missing and not extra else OTHER_MODEL,
        )
    return {name: weights[name] for name in shapes}


def _preset(path: Path, header: Header | None) -> Preset | None:
    if header is None:
        return match_preset(path)
    if header.rollout is None:
        return None
    return Preset(name=path.stem, rollout=header.rollout, source=f"the header of {path.name}")
