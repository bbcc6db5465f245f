"""What is wired and does not act, in sentences for the artist.

The sampler calls the layers of a MODEL one by one, follows one prompt at a time without guidance, and keeps a memory of
its own. So LoRAs and other changes of weights or layers act, as do an attention kernel, a number format, injections and
callbacks. What other nodes wrap around steps, blocks, guidance or a prompt is passed by, and this says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP

from ...sfpp_core.checkpoint.errors import first_few
from .callables import NOT_COMPILED
from .conditioning import prompt_sentences
from .wired import COMPUTE_DTYPE, ROOT, acts, plain_name, uncompiled

MOST_NAMES = 4
"""Named in one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Things that do not act for the same reason."""

    what: str
    """How the sentence begins."""
    expect: str
    """How it ends: why, and what to do."""

    def sentence(self, names: Iterable[str]) -> str:
        """names: of what is wired, as far as they can be told."""
        told = list(dict.fromkeys(name for name in names if name))
        return f"{self.what}{f' ({first_few(told, limit=MOST_NAMES)})' if told else ''} does not act: {self.expect}"


COMPILING = Kind(
    what="torch.compile of MODEL",
    expect="the sampler calls the model's layers one by one, not what was compiled. The video is the same, and is not "
    "made faster.",
)
STEP_CACHE = Kind(
    what="A step cache on MODEL",
    expect="a chunk has only a few steps, and each is computed in full. The video is the same, and is not made faster.",
)
CONTEXT_WINDOWS = Kind(
    what="Context windows on MODEL",
    expect="the sampler has a memory of its own that rolls along. Its length is the widget window of SFPP Sampler.",
)
WRAPPER = Kind(
    what="A wrapper around sampling or its steps on MODEL",
    expect="the sampler calls the model's layers itself. The video is as without it.",
)
GUIDANCE = Kind(
    what="Changed guidance on MODEL",
    expect="there is no CFG here and no negative; every step follows positive alone. The video is as without it.",
)
SCHEDULE = Kind(
    what="A sampling patch on MODEL",
    expect="steps and shift come from the model's preset, or from these widgets of SFPP Sampler.",
)
PATCHES = Kind(
    what="An attention or block patch on MODEL",
    expect="the sampler calls the layers inside the blocks itself. The video is as without it.",
)
LATENTS = Kind(
    what="Another format of latents on MODEL",
    expect="the sampler makes Wan 2.1's, which its VAE reads.",
)
BLOCKS = Kind(
    what="What was put in the place of whole blocks, attentions or settings of MODEL",
    expect="the sampler calls only the layers inside them. The video is as without it.",
)
ROPE = Kind(
    what="A change of the positions on MODEL (ScaleROPE)",
    expect="the sampler computes positions itself, so that they can roll along. The video is as without it.",
)
MASK = Kind(
    what="A denoise mask function on MODEL",
    expect="the sampler makes whole pictures and knows no masks. The video is as without it.",
)
HOOKS = Kind(
    what="Hooks on MODEL",
    expect="its weights are the same at every step. Use a LoRA loader to change them for the whole video.",
)
DEVICES = Kind(
    what="A second device for MODEL (MultiGPU)",
    expect="the sampler computes on one. The video is the same, and is not made faster.",
)
START_IMAGE = Kind(
    what="A start picture on MODEL",
    expect="wire the picture through VAE Encode into start of SFPP Sampler instead.",
)
UNKNOWN = Kind(
    what="Something on MODEL that the sampler does not know",
    expect="nothing here reads it.",
)

OF_MODEL = {
    "model_function_wrapper": WRAPPER,
    "sampler_cfg_function": GUIDANCE,
    "sampler_pre_cfg_function": GUIDANCE,
    "sampler_post_cfg_function": GUIDANCE,
    "sampler_calc_cond_batch_function": GUIDANCE,
    "denoise_mask_function": MASK,
    "context_handler": CONTEXT_WINDOWS,
    "multigpu_clones": DEVICES,
    "registered_hooks": HOOKS,
}
"""Kinds by key of a MODEL's options."""
OF_TRANSFORMER = {
    "patches": PATCHES,
    "patches_replace": PATCHES,
    "wrappers": WRAPPER,
    "callbacks": WRAPPER,
    "rope_options": ROPE,
    "ar_config": START_IMAGE,
}
"""Kinds by key of its transformer's options."""
BESIDE = {"transformer_options", "disable_cfg1_optimization", "torch_compile_kwargs", "ignore_multigpu"}
BESIDE |= {"multigpu_thread_pool", "optimized_attention_override"}
"""Keys that act, or that come with something that is told by another one."""
OWN = "sfpp_"
"""How our own keys begin."""
ACTING_PATCHES = {COMPUTE_DTYPE}
"""Object patches beside the transformer that are used."""
BETWEEN_STEPS = (CallbacksMP.ON_PREPARE_STATE, CallbacksMP.ON_APPLY_HOOKS, CallbacksMP.ON_REGISTER_ALL_HOOK_PATCHES)
"""Moments of callbacks that a rollout does not have."""
BOOKKEEPING = {"lora_metadata"}
"""Attachments that are not meant to do anything."""
SPOKEN = {"easycache": "EasyCache", "lazycache": "LazyCache"}

MASKED_START = (
    "The mask of start (noise_mask) does not act: start is shown as it is, from its first picture to its last, and the "
    "video goes on from there."
)


def what_does_not_act(
    model: ModelPatcher, positive: list[list[Any]] | None, start: Mapping[str, Any] | None = None
) -> tuple[str, ...]:
    """A sentence for each kind of thing that is wired to MODEL, positive or start and that a rollout passes by."""
    found: dict[Kind, list[str]] = {}
    for kind, name in _passed_by(model):
        found.setdefault(kind, []).append(name)
    # What is not known may belong to something else that is told, or be read by something that acts.
    if not found and not _may_read(model) and (unknown := list(_unknown(model))):
        found[UNKNOWN] = unknown
    masked = [] if start is None or start.get("noise_mask") is None else [MASKED_START]
    return (*(kind.sentence(names) for kind, names in found.items()), *prompt_sentences(positive or []), *masked)


def what_of_the_vae_does_not_act(vae: Any) -> tuple[str, ...]:
    """Return the same for a VAE, whose weights are used in a decoder of our own."""
    network, said = vae.first_stage_model, []
    if any(map(_is_compiled, (*network.modules(), *vars(network).values()))):
        said.append(
            "torch.compile of VAE does not act: the decoder that works frame by frame is another one, with the same "
            "weights. The video is the same, and is not made faster."
        )
    if names := sorted(name for name in vae.patcher.object_patches if name != COMPUTE_DTYPE):
        said.append(
            f"What was put in the place of parts of VAE ({', '.join(names[:MOST_NAMES])}) does not act: the decoder "
            "that works frame by frame is another one, with the same weights."
        )
    return tuple(said)


def _passed_by(model: ModelPatcher) -> Iterator[tuple[Kind, str]]:
    options = model.model_options
    for key, kind in OF_MODEL.items():
        for thing in _things(options.get(key)):
            yield _more_exactly(kind, name := author(thing)), name
    transformer = options.get("transformer_options", {})
    for key, kind in OF_TRANSFORMER.items():
        if key in ("wrappers", "callbacks"):
            yield from _wrappers(transformer.get(key) or {})
        elif held := transformer.get(key):
            if key == "ar_config" and held.get("initial_latent") is None:
                continue
            names = [""] if kind is not PATCHES else list(map(author, _things(held)))
            yield from ((kind, name) for name in names)
    yield from _wrappers(model.wrappers)
    yield from _wrappers({moment: model.callbacks.get(moment, {}) for moment in BETWEEN_STEPS})
    for name, patch in model.object_patches.items():
        if name not in ACTING_PATCHES and not acts(model, name):
            yield _of_object_patch(name, patch)
    if model.hook_patches:
        yield HOOKS, ""
    if model.additional_models.get("multigpu"):
        yield DEVICES, ""


def _wrappers(by_moment: Mapping[str, Mapping[Any, Iterable[Any]]]) -> Iterator[tuple[Kind, str]]:
    """Yield what ComfyUI keeps by moment and key."""
    for by_key in by_moment.values():
        for key, wrappers in by_key.items():
            for wrapper in wrappers:
                name = SPOKEN.get(key, key) if isinstance(key, str) else author(wrapper)
                kind = _more_exactly(WRAPPER, name)
                yield kind, "" if kind in (COMPILING, CONTEXT_WINDOWS) else name


def _more_exactly(kind: Kind, name: str) -> Kind:
    """Return what a wrapper is for, where its name tells."""
    if kind is WRAPPER:
        plain = name.lower().replace("_", "").replace(" ", "")
        for word, other in (("compile", COMPILING), ("contextwindow", CONTEXT_WINDOWS), ("cache", STEP_CACHE)):
            if word in plain:
                return other
    return kind


def _of_object_patch(name: str, patch: Any) -> tuple[Kind, str]:
    if name == "model_sampling":
        return SCHEDULE, author(patch)
    if name == "latent_format":
        return LATENTS, author(patch)
    if _is_compiled(patch):
        return COMPILING, ""
    if not plain_name(name).startswith(ROOT):
        return UNKNOWN, name
    return BLOCKS, re.sub(r"\.\d+(?=\.|$)", ".*", plain_name(name).removeprefix(f"{ROOT}."))


def _is_compiled(thing: Any) -> bool:
    if isinstance(thing, FunctionType):
        return NOT_COMPILED in vars(thing)
    return hasattr(thing, "_modules") and uncompiled(thing) is not thing


def _things(held: Any) -> Iterator[Any]:
    """Yield what stands in nested dicts and lists."""
    if isinstance(held, Mapping):
        held = list(held.values())
    if isinstance(held, (list, tuple)):
        for thing in held:
            yield from _things(thing)
    elif held is not None:
        yield held


def author(thing: Any) -> str:
    """The name of the node or class that made something; empty if it cannot be told."""
    if isinstance(thing, partial):
        return author(thing.func)
    if isinstance(thing, MethodType):
        is_hosts = isinstance(thing.__self__, type) or type(thing.__self__).__module__.startswith("comfy.")
        return author(thing.__func__ if is_hosts else thing.__self__)
    if isinstance(thing, FunctionType) and thing.__module__ == "comfy.model_patcher":
        # ComfyUI's own lambda around a function of the old form.
        inner = [cell.cell_contents for cell in thing.__closure__ or ()]
        return author(inner[0]) if inner else ""
    named = thing if isinstance(thing, FunctionType) else type(thing)
    name = named.__qualname__.split(".")[0]
    return "" if named.__module__ == "builtins" else name


def _may_read(model: ModelPatcher) -> bool:
    """Return whether something that acts gets to see what else is in the MODEL."""
    override = "optimized_attention_override" in model.model_options.get("transformer_options", {})
    callbacks = any(things for by_key in model.callbacks.values() for things in by_key.values())
    return override or callbacks or any(model.injections.values())


def _unknown(model: ModelPatcher) -> Iterator[str]:
    options = model.model_options
    known = OF_MODEL.keys() | OF_TRANSFORMER.keys() | BESIDE
    for key in (*options, *options.get("transformer_options", {})):
        if key not in known and not str(key).startswith(OWN):
            yield str(key)
    yield from (str(key) for key in model.attachments if key not in BOOKKEEPING)
    yield from (str(key) for key, models in model.additional_models.items() if models)
