"""What is wired belongs to a chunk's name on disk, and only that: chunks are found again after a restart behind any
pack's node, never those of another setting or other weights; where that cannot be told, nothing is kept, and the node
says so before it samples.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from sfpp_client import Event, NodeFailed, Progress, RunInterrupted, RunResult
from tests.nodes.conftest import Comfy
from tests.nodes.graphs import Graph, Studio, equal, interrupt_after
from tests.nodes.wired import LORA, NOISY, SPOOL, STUDENT, Wire, again, behind, copy_of, plain, wired_server
from tests.nodes.wired_classes import node_classes

pytestmark = pytest.mark.timeout(1800)
"""The first test pays for all that is run once, minutes on a busy machine."""

SECONDS, NUM_CHUNKS = 1.0, 2

ATTENTION = (
    *("WiredSageAttention", "WiredClosure", "WiredSelfReferring", "WiredPartial", "WiredCallableObject"),
    *("WiredBoundMethod", "WiredCountingObject", "WiredLockedObject", "WiredObjectWithFile"),
)
PATCHES = (
    *("WiredLeafLayer", "WiredLeafForward", "WiredWeightWrapper", "WiredBlockPatches", "WiredAttentionPatches"),
    *("WiredSelfAttentionForward", "WiredTeaCache", "WiredStepCache", "WiredOnLoad", "WiredTorchSettings"),
)
MUST_DIFFER = {
    *ATTENTION,
    *("WiredLeafLayer", "WiredLeafForward", "WiredWeightWrapper", "LoraLoaderModelOnly", "ModelComputeDtype"),
    *("WiredComputeDtypeLoader", "blocks of 8 bits", "blocks of 4 bits", "blocks with a LoRA"),
}
"""What acts in a rollout, so that two settings make two videos."""


SETTINGS = {"half": 0.5, "more": 1.5}


def with_strength(class_type: str, widget: str) -> dict[str, Wire]:
    return {setting: behind(class_type, **{widget: value}) for setting, value in SETTINGS.items()}


def loaded(class_type: str, **widgets: Any) -> Wire:
    """A loader of another pack in the place of ours."""
    return lambda graph, _: [graph.add(class_type, **widgets), 0]


def in_blocks(form: str, dequant_dtype: str = "default", name: str = STUDENT) -> Wire:
    return loaded("WiredBlockLoader", model_name=name, form=form, dequant_dtype=dequant_dtype)


def both(first: Wire, second: Wire) -> Wire:
    return lambda graph, link: second(graph, first(graph, link))


LORA_ON = behind("LoraLoaderModelOnly", lora_name=LORA, strength_model=1.0)

WIRED: dict[str, dict[str, Wire]] = {
    **{name: with_strength(name, "scale") for name in ATTENTION},
    **{name: with_strength(name, "strength") for name in PATCHES},
    **{
        name: {"compiled": behind(name)}
        for name in ("WiredCompileBlocks", "WiredCompileWhole", "WiredCompileWrapper", "WiredCompileByModel")
    },
    "LoraLoaderModelOnly": {
        setting: behind("LoraLoaderModelOnly", lora_name=LORA, strength_model=value)
        for setting, value in SETTINGS.items()
    },
    "ModelComputeDtype": {dtype: behind("ModelComputeDtype", dtype=dtype) for dtype in ("bf16", "fp16")},
    "WiredComputeDtypeLoader": {
        dtype: loaded(
            "WiredComputeDtypeLoader",
            model_name=STUDENT,
            weight_dtype="default",
            compute_dtype=dtype,
            enable_fp16_accumulation=False,
        )
        for dtype in ("bf16", "fp32")
    },
    "blocks of 8 bits": {dtype: in_blocks("q8", dtype) for dtype in ("float16", "float32")},
    "blocks of 4 bits": {dtype: in_blocks("q4", dtype) for dtype in ("float16", "float32")},
    "blocks with a LoRA": {"on": both(in_blocks("q8"), LORA_ON), "off": in_blocks("q8")},
}
"""By what is wired: its settings."""

STOCK = (
    *("ContextWindowsManual", "DifferentialDiffusion", "EasyCache", "LoraLoaderBypassModelOnly"),
    *("ModelAttentionBackend", "ModelMergeSimple", "ModelSamplingSD3", "NAGuidance", "TorchCompileModel"),
)
"""ComfyUI's own, each of which puts something else into a MODEL; not every version has all."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a run came to."""

    latent: Tensor | None = None
    reused: int = 0
    """Chunks that the node said it found."""
    written: int = 0
    """Files of chunks that are new since."""
    failed: str = ""

    def __str__(self) -> str:
        return self.failed or f"{self.reused} reused, {self.written} written"


class Workshop:
    """Queues videos on a server that keeps chunks."""

    def __init__(self, comfy: Comfy) -> None:
        self.comfy = comfy

    def chunks(self) -> set[Path]:
        return set((self.comfy.server.output_directory / SPOOL).rglob("*.safetensors"))

    def log(self) -> str:
        return self.comfy.server.log_path.read_text(encoding="utf-8", errors="replace")

    def said(self, result: RunResult | None, start: int) -> str:
        """All that was said of a run: in the log from `start` on, and on nodes."""
        shown = [] if result is None else [str(output.get("text", "")) for output in result.outputs.values()]
        return "\n".join([self.log()[start:], *shown])

    def graph(self, wire: Wire, *, seed: int, seconds: float = SECONDS, file: str = STUDENT) -> tuple[Graph, str, str]:
        """A video behind what is wired, that ComfyUI does not remember: the graph, its sampler, and what keeps it."""
        graph = Graph()
        _, clip, _ = graph.tiny()
        text = [graph.add("WiredAgain", conditioning=graph.text(clip), number=next(again)), 0]
        model = wire(graph, [graph.add("UNETLoader", unet_name=file, weight_dtype="default"), 0])
        video, _ = graph.video(model, text, seconds=seconds, seed=seed, steps="1000")
        return graph, video[0], graph.keep(video)

    def make(self, wire: Wire, *, seed: int) -> Made:
        graph, _, kept = self.graph(wire, seed=seed, file=copy_of(STUDENT, seed))
        before, start = self.chunks(), len(self.log())
        studio = Studio(self.comfy)
        try:
            result = studio.run(graph)
        except NodeFailed as failed:
            return Made(failed=f"{failed.node_type} failed: {failed.exception_message}")
        found = re.findall(r"(\d+) reused from disk", self.said(result, start))
        return Made(
            latent=studio.latent(result, kept),
            reused=max(map(int, found), default=0),
            written=len(self.chunks() - before),
        )


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    with wired_server(tmp_path_factory.mktemp("keeping") / "base", keeps=True) as comfy:
        yield Workshop(comfy)


@dataclass(frozen=True, kw_only=True)
class Life:
    """What came of one thing that is wired, in two lives of a server."""

    first: Made
    queued_again: Made
    """While ComfyUI still has what the node made."""
    others: list[Made]
    """Other settings."""
    restarted: Made
    others_restarted: list[Made]

    def __str__(self) -> str:
        others = [str(made) for made in self.others]
        return f"first: {self.first}; again: {self.queued_again}; others: {others}; restarted: {self.restarted}"


@pytest.fixture(scope="module")
def lives(workshop: Workshop) -> dict[str, Life]:
    """Everything that is wired, before one restart and after it."""
    stock = node_classes(workshop.comfy.client)
    wired = WIRED | {name: {"default": stock[name].wire} for name in STOCK if name in stock}
    before = {}
    # A seed for each, and a MODEL: two of them that do not act make the same video, and may find each other's chunks.
    for seed, (name, settings) in enumerate(wired.items()):
        wire, *other_wires = settings.values()
        twice = [workshop.make(wire, seed=seed) for _ in range(2)]
        before[name] = *twice, [workshop.make(other, seed=seed) for other in other_wires]
    workshop.comfy.restart()
    found = {}
    for seed, (name, settings) in enumerate(wired.items()):
        first, *others = (workshop.make(wire, seed=seed) for wire in settings.values())
        made, queued_again, made_with_others = before[name]
        found[name] = Life(
            first=made, queued_again=queued_again, others=made_with_others, restarted=first, others_restarted=others
        )
    return found


@pytest.mark.parametrize("name", [*WIRED, "what ComfyUI brings"])
def test_chunks_are_found_again_on_the_same_server_and_after_a_restart(name: str, lives: dict[str, Life]):
    if name in lives:
        _require_found(lives[name])
        return
    stock = [lives[stock_name] for stock_name in STOCK if stock_name in lives]
    assert len(stock) >= 6
    for life in stock:
        _require_found(life)


def _require_found(life: Life) -> None:
    assert life.first.written == NUM_CHUNKS and life.first.reused == 0, str(life)
    for later in (life.queued_again, life.restarted):
        assert later.reused == NUM_CHUNKS and later.written == 0, str(life)
        assert equal(later.latent, life.first.latent)
    for other, later in zip(life.others, life.others_restarted, strict=True):
        assert later.reused == NUM_CHUNKS and equal(later.latent, other.latent), str(life)


@pytest.mark.parametrize("name", [name for name, settings in WIRED.items() if len(settings) > 1])
def test_another_setting_finds_nothing_if_it_makes_another_video(name: str, lives: dict[str, Life]):
    life = lives[name]
    for other in life.others:
        assert not other.failed and not life.first.failed, str(life)
        if other.reused:
            assert equal(other.latent, life.first.latent), f"the video of another setting: {life}"
    if name in MUST_DIFFER:
        assert all(other.reused == 0 and other.written == NUM_CHUNKS for other in life.others), str(life)
        assert not any(equal(other.latent, life.first.latent) for other in life.others), "it does not act"


def test_no_form_finds_the_chunks_of_another(workshop: Workshop):
    """The same weights plain, in 8-bit floats, and in blocks; a file of other weights."""
    forms = {
        "plain": plain,
        "fp8": loaded("UNETLoader", unet_name=STUDENT, weight_dtype="fp8_e4m3fn"),
        "q8": in_blocks("q8"),
        "q4": in_blocks("q4"),
        "other q8": in_blocks("q8", name="redrawn.safetensors"),
        "noisy q8": in_blocks("q8", name=NOISY),
        "other q4": in_blocks("q4", name="redrawn.safetensors"),
        "negated q4": in_blocks("q4", name="negated.safetensors"),
    }
    made = {}
    for name, wire in forms.items():
        graph, _, _ = workshop.graph(wire, seed=100)
        before, start = workshop.chunks(), len(workshop.log())
        result = Studio(workshop.comfy).run(graph)
        made[name] = "reused from disk" in workshop.said(result, start), len(workshop.chunks() - before)
    assert made == {name: (False, NUM_CHUNKS) for name in forms}


def continued(workshop: Workshop, begun: Wire, goes_on: Wire) -> str:
    """Begin a video on one MODEL, extend it on another: what SFPP Extend refuses it with, or nothing."""
    graph = Graph()
    _, clip, _ = graph.tiny()
    text = graph.text(clip)
    load = [graph.add("UNETLoader", unet_name=STUDENT, weight_dtype="default"), 0]
    _, state = graph.video(begun(graph, load), text, seed=79, steps="1000")
    graph.keep(graph.more(goes_on(graph, load), state)[1])
    try:
        Studio(workshop.comfy).run(graph)
    except NodeFailed as failed:
        assert failed.node_type == "SFPPExtend", str(failed)
        return failed.exception_message
    return ""


FP8 = loaded("UNETLoader", unet_name=STUDENT, weight_dtype="fp8_e4m3fn")
SAME = {
    "plain, then 8 bits": (plain, in_blocks("q8")),
    "plain, then 4 bits": (plain, in_blocks("q4")),
    "8 bits, then plain": (in_blocks("q8"), plain),
    "4 bits, then 8": (in_blocks("q4"), in_blocks("q8")),
    "4 bits, then plain": (in_blocks("q4"), plain),
    "8-bit floats, then 4 bits": (FP8, in_blocks("q4")),
    "8 bits, then 8-bit floats": (in_blocks("q8"), FP8),
    "8 bits made in half precision, then in full": (in_blocks("q8", "float16"), in_blocks("q8", "float32")),
    "a LoRA on plain weights, then on 8 bits": (LORA_ON, both(in_blocks("q8"), LORA_ON)),
}


@pytest.mark.parametrize("pair", SAME)
def test_a_model_goes_on_in_another_form(pair: str, workshop: Workshop):
    assert continued(workshop, *SAME[pair]) == ""


OTHER = {
    "8 bits, other 8 bits": (in_blocks("q8"), in_blocks("q8", name="redrawn.safetensors")),
    "8 bits, negated 8 bits": (in_blocks("q8"), in_blocks("q8", name="negated.safetensors")),
    "8 bits, noisy 8 bits": (in_blocks("q8"), in_blocks("q8", name=NOISY)),
    "4 bits, other 4 bits": (in_blocks("q4"), in_blocks("q4", name="redrawn.safetensors")),
    "4 bits, negated 4 bits": (in_blocks("q4"), in_blocks("q4", name="negated.safetensors")),
    "4 bits, noisy 4 bits": (in_blocks("q4"), in_blocks("q4", name=NOISY)),
    "plain, noisy plain": (plain, loaded("UNETLoader", unet_name=NOISY, weight_dtype="default")),
    "plain, noisy 8 bits": (plain, in_blocks("q8", name=NOISY)),
    "8 bits, 8 bits with a LoRA": (in_blocks("q8"), both(in_blocks("q8"), LORA_ON)),
    "8 bits with a LoRA, 8 bits": (both(in_blocks("q8"), LORA_ON), in_blocks("q8")),
}


@pytest.mark.parametrize("pair", OTHER)
def test_another_model_is_refused(pair: str, workshop: Workshop):
    assert "made by another model" in continued(workshop, *OTHER[pair])


NEVER_THE_SAME = behind("WiredNeverTheSame", scale=0.5)


def test_where_nothing_tells_what_is_wired_nothing_is_kept_and_that_is_said_before(workshop: Workshop):
    """An object that cannot be looked into, from a node that tells ComfyUI that it never gives the same."""
    graph, sampler, _ = workshop.graph(NEVER_THE_SAME, seed=101)
    before, start = workshop.chunks(), len(workshop.log())
    said_before: list[str] = []

    def on_event(event: Event) -> None:
        if isinstance(event, Progress) and event.node_id == sampler and not said_before:
            said_before.append(workshop.log()[start:])

    result = Studio(workshop.comfy).run(graph, on_event=on_event)
    assert workshop.chunks() == before
    shown = str(result.outputs.get(sampler, {}).get("text", ""))
    for words in (said_before[0], shown):
        assert re.search(r"chunk[^.]*\bkept\b|\bkept\b[^.]*chunk", words), words
    assert "go on from there" not in workshop.said(result, start)


def test_what_is_not_kept_is_not_promised_when_it_is_interrupted(workshop: Workshop):
    graph, sampler, _ = workshop.graph(NEVER_THE_SAME, seed=102, seconds=12.0)
    before, start = workshop.chunks(), len(workshop.log())
    with pytest.raises(RunInterrupted):
        Studio(workshop.comfy).run(graph, on_event=interrupt_after(workshop.comfy, sampler, 3))
    assert workshop.chunks() == before
    said = workshop.said(None, start)
    assert "go on from there" not in said and "kept on disk" not in said


def test_what_is_kept_is_promised_when_it_is_interrupted(workshop: Workshop):
    """The counterpart: an object that only ComfyUI's own idea of the same can tell."""
    graph, sampler, _ = workshop.graph(behind("WiredLockedObject", scale=0.25), seed=103, seconds=12.0)
    before, start = workshop.chunks(), len(workshop.log())
    with pytest.raises(RunInterrupted):
        Studio(workshop.comfy).run(graph, on_event=interrupt_after(workshop.comfy, sampler, 3))
    written = len(workshop.chunks() - before)
    assert written >= 3 and "go on from there" in workshop.said(None, start)
    start = len(workshop.log())
    result = Studio(workshop.comfy).run(graph)
    assert f"{written} reused from disk" in workshop.said(result, start)
