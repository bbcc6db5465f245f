"""Whatever takes and gives a MODEL or a VAE: wired, it acts or is refused; unwired, nothing of it is left.

ComfyUI's clones of a MODEL share one module tree, which carries what the last loaded clone put there. So every node
class that the server has is run in a chain [without, with, with, without, ...] over one MODEL, with three comparisons:

- `without` is always what it was at first, in that process, bit for bit;
- `with` is the same both times, the first of which loads it and the second of which finds it loaded;
- `with` is what another server makes of it, or refuses it in the same words.

That other server is as good as a fresh one for each class: it gives every class a MODEL that no other has touched,
loaded for it alone from a file name of its own (or a VAE of its own), and is never asked to do without. What is left
between its runs are the process's own globals. A class that left a trace there would change what comes after it, and
both servers would have to be changed alike although one runs the classes in the order of the alphabet and the other in
the opposite one; besides, the other server's plain video is compared at its end with the first one of the chain.
For the worst that real reports told of, really fresh servers are started, which see nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.comfy.graphs import Graph, Link
from tests.comfy.wired import (
    CONTROL_LORA,
    LORA,
    NOISY,
    STUDENT,
    VAE,
    Bench,
    Outcome,
    Wire,
    behind,
    copy_of,
    plain,
    wired_server,
)

OTHER_WEIGHTS = "asks for a MODEL_PATCH, weights beside those of another architecture than Wan 2.1"
UNET = "reads the sizes of Stable Diffusion's U-Net, which Wan has not: it fails itself on every Wan MODEL"

NOT_RUN: dict[str, dict[str, str]] = {
    "0.3.75": {
        "HypernetworkLoader": "asks for a file of weights for Stable Diffusion's attention",
        "QwenImageDiffsynthControlnet": OTHER_WEIGHTS,
        "USOStyleReference": OTHER_WEIGHTS,
    },
    "0.33.0": {
        "AnimaLLLiteApply": OTHER_WEIGHTS,
        "SUPIRApply": OTHER_WEIGHTS,
        "WanInfiniteTalkToVideo": OTHER_WEIGHTS,
        "WanUni3CControlnetApply": OTHER_WEIGHTS,
        "ZImageFunControlnet": OTHER_WEIGHTS,
    },
}
"""Why a class is not run, by the ComfyUI that is the first of those that we run to have it. A later one has them all:
what it lacks is taken out or moved here."""

FAILS_ITSELF = {
    "FreeU": UNET,
    "FreeU_V2": UNET,
    "TrainLoraNode": "knows no latents of videos in 0.3.75; later it gives no MODEL",
}
"""Classes that fail on every Wan MODEL before the sampler is reached, and why. They are run all the same."""

ACTING: dict[str, dict[str, Any]] = {
    "LoraLoader": {"lora_name": LORA},
    "LoraLoaderBypass": {"lora_name": LORA},
    "LoraLoaderBypassModelOnly": {"lora_name": LORA},
    "LoraLoaderModelOnly": {"lora_name": LORA},
    "ModelComputeDtype": {"dtype": "bf16"},
    "ModelMergeBlocks": {"input": 0.5, "middle": 0.5, "out": 0.5},
    "ModelMergeSimple": {"ratio": 0.5},
    "ModelMergeWAN2_1": {"blocks.0.": 0.5},
    "TrainLoraNode": {"steps": 1, "rank": 1},
}
"""Widgets with which a class does something, where its defaults do nothing."""

MUST_ACT = {
    *("LoraLoader", "LoraLoaderModelOnly", "LoraModelLoader", "ModelComputeDtype", "ModelMergeAdd", "ModelMergeSimple"),
    *("ModelMergeSubtract", "ModelMergeWAN2_1", "WiredSageAttention", "WiredClosure", "WiredSelfReferring"),
    *("WiredPartial", "WiredCallableObject", "WiredBoundMethod", "WiredCountingObject", "WiredLockedObject"),
    *("WiredObjectWithFile", "WiredNeverTheSame", "WiredLeafLayer", "WiredLeafForward", "WiredWeightWrapper"),
}
"""Classes that change weights, layers, the precision or the kernel, which are in use in a rollout as well."""

REFUSED = {"WiredControlDiff": "patch_embedding"}
"""Classes that the sampler refuses, and what it names."""


def version_of(bench: Bench) -> tuple[int, ...]:
    text = bench.comfy.client.get_json("/system_stats")["system"]["comfyui_version"]
    return tuple(int(part) for part in text.split("."))


def not_run(bench: Bench) -> dict[str, str]:
    """What is listed for the ComfyUI at hand."""
    version = version_of(bench)
    listed = (names for first, names in NOT_RUN.items() if tuple(map(int, first.split("."))) <= version)
    return {name: reason for names in listed for name, reason in names.items()}


def source(graph: Graph, kind: str) -> Link | None:
    """A small thing of a type that links carry; None: there is none."""
    tiny = {"CLIP": 1, "VAE": 2}
    if kind in tiny:
        return [graph.add("SFPPLoadTiny"), tiny[kind]]
    made: dict[str, Callable[[], tuple[str, dict[str, Any]]]] = {
        "MODEL": lambda: ("UNETLoader", {"unet_name": NOISY, "weight_dtype": "default"}),
        "CONDITIONING": lambda: ("CLIPTextEncode", {"clip": [graph.add("SFPPLoadTiny"), 1], "text": "A red ball."}),
        "LATENT": lambda: ("EmptyHunyuanLatentVideo", {"width": 64, "height": 64, "length": 9, "batch_size": 1}),
        "IMAGE": lambda: ("EmptyImage", {"width": 64, "height": 64, "batch_size": 1, "color": 0x3366CC}),
        "MASK": lambda: ("SolidMask", {"value": 1.0, "width": 64, "height": 64}),
        "AUDIO": lambda: ("EmptyAudio", {"duration": 1.0, "sample_rate": 44100, "channels": 2}),
        "LATENT_OPERATION": lambda: ("LatentOperationTonemapReinhard", {"multiplier": 1.0}),
        "LORA_MODEL": lambda: ("WiredLoraSource", {"lora_name": LORA}),
    }
    if kind not in made:
        return None
    class_type, inputs = made[kind]()
    return [graph.add(class_type, **inputs), 0]


@dataclass(frozen=True, kw_only=True)
class NodeClass:
    """A node class that takes and gives a MODEL or a VAE, as the server describes it."""

    name: str
    description: dict[str, Any]
    kind: str
    """"MODEL" or "VAE"."""

    def required(self) -> Iterator[tuple[str, Any, dict[str, Any]]]:
        """Name, type (or the choices) and options of each input that must be there."""
        for name, spec in self.description["input"].get("required", {}).items():
            yield name, spec[0], spec[1] if len(spec) > 1 else {}

    def wire(self, graph: Graph, link: Link) -> Link:
        """Put it behind a link. Raises LookupError naming an input that there is nothing for."""
        inputs: dict[str, Any] = {}
        for name, kind, options in self.required():
            if kind == self.kind and link not in inputs.values():
                inputs[name] = link
            else:
                inputs[name] = self._given(graph, name, kind, options)
        return [graph.add(self.name, **inputs), self.description["output"].index(self.kind)]

    def _given(self, graph: Graph, name: str, kind: Any, options: dict[str, Any]) -> Any:
        if name in ACTING.get(self.name, {}):
            return ACTING[self.name][name]
        choices = kind if isinstance(kind, list) else options.get("options")
        if choices is not None:
            if not choices:
                raise LookupError(f"{name} has nothing to choose from")
            first = choices[0]
            return options.get("default", first["key"] if isinstance(first, dict) else first)
        if kind in ("INT", "FLOAT", "BOOLEAN", "STRING"):
            nothing = {"INT": 0, "FLOAT": 0.0, "BOOLEAN": False, "STRING": ""}[kind]
            return options.get("default", options.get("min", nothing))
        if (made := source(graph, kind)) is None:
            raise LookupError(f"{name} is a {kind}, and there is no source of these")
        return made

    def why_not(self) -> str | None:
        """Why it cannot be run; None if it can."""
        try:
            self.wire(Graph(), ["0", 0])
        except LookupError as missing:
            return str(missing)
        return None


def node_classes(bench: Bench) -> dict[str, NodeClass]:
    """Every class of the server that takes and gives a MODEL or a VAE, by name."""
    found = {}
    for name, description in sorted(bench.comfy.client.object_info().items()):
        for kind in ("MODEL", "VAE"):
            node = NodeClass(name=name, description=description, kind=kind)
            takes = any(given == kind for _, given, _ in node.required())
            if takes and kind in description["output"] and not name.startswith("SFPP"):
                found[name] = node
    return found


@pytest.fixture(scope="module")
def chained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The server on which all classes are run over one MODEL."""
    with wired_server(tmp_path_factory.mktemp("chained") / "base", keeps=False) as comfy:
        yield Bench(comfy)


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The server on which each has a MODEL of its own."""
    with wired_server(tmp_path_factory.mktemp("apart") / "base", keeps=False) as comfy:
        yield Bench(comfy)


@dataclass(frozen=True, kw_only=True)
class Chain:
    """What came of one class."""

    first: Outcome
    """Without any, at the beginning of the server's life."""
    used: Outcome
    used_again: Outcome
    without: Outcome
    apart: Outcome

    def faults(self) -> list[str]:
        """What is not as it should be."""
        found = []
        if self.without != self.first:
            found.append(f"without it afterwards: {self.without}, before: {self.first}")
        if self.used_again != self.used:
            found.append(f"with it once more: {self.used_again}, at first: {self.used}")
        if self.used != self.apart:
            found.append(f"with it behind others: {self.used}, alone: {self.apart}")
        return found


def run_of(bench: Bench, node: NodeClass, files: tuple[str, str]) -> tuple[Outcome, Callable[[Wire], Outcome]]:
    """The outcome with a class over MODEL and VAE files, and how to make another."""
    model, vae = files

    def make(wire: Wire) -> Outcome:
        return bench.decoded(wire, file=vae) if node.kind == "VAE" else bench.sampled(wire, file=model)

    return make(node.wire), make


@pytest.fixture(scope="module")
def chains(chained: Bench, apart: Bench) -> dict[str, Chain]:
    """Every class that can be run: in the chain, and alone."""
    runnable = {name: node for name, node in node_classes(chained).items() if node.why_not() is None}
    alone = {}
    vaes = iter(range(10))
    for number, (name, node) in enumerate(reversed(runnable.items())):
        files = copy_of(STUDENT, number), copy_of(VAE, next(vaes)) if node.kind == "VAE" else VAE
        alone[name], _ = run_of(apart, node, files)
    firsts = {"MODEL": chained.sampled(), "VAE": chained.decoded()}
    assert apart.sampled() == firsts["MODEL"] and apart.decoded() == firsts["VAE"], "the other server is another one"
    found = {}
    files, spare = (STUDENT, VAE), iter(range(10))
    for name, node in runnable.items():
        used, make = run_of(chained, node, files)
        found[name] = chain = Chain(
            first=firsts[node.kind], used=used, used_again=make(node.wire), without=make(plain), apart=alone[name]
        )
        if chain.without != chain.first:
            # Not to blame the next for it; the numbers from the end are nobody's.
            number = next(spare)
            files = copy_of(STUDENT, 159 - number), copy_of(VAE, 9 - number % 5)
    return found


def test_every_class_is_run_or_listed_with_its_reason(chained: Bench):
    listed, classes = not_run(chained), node_classes(chained)
    impossible = {name: reason for name, node in classes.items() if (reason := node.why_not()) is not None}
    assert not {name: reason for name, reason in impossible.items() if name not in listed}, "say why these are not run"
    assert not listed.keys() - classes.keys(), "listed, but not there: ComfyUI has dropped or renamed them"
    assert not listed.keys() - impossible.keys(), "listed, but they can be run now"
    assert len(classes) - len(impossible) > 60


def test_what_is_wired_leaves_nothing_behind_and_is_always_the_same(chains: dict[str, Chain]):
    faults = {name: found for name, chain in chains.items() if (found := chain.faults())}
    assert not faults, "\n".join(f"{name}: {'; '.join(found)}" for name, found in faults.items())


def test_what_a_rollout_uses_acts_in_it(chains: dict[str, Chain]):
    idle = [name for name in sorted(MUST_ACT) if chains[name].used == chains[name].first]
    assert not idle, "these change what a rollout computes with, and were ignored"
    refused = [f"{name}: {chains[name].used}" for name in sorted(MUST_ACT) if chains[name].used.refused_by]
    assert not refused


def test_what_fails_fails_by_itself_or_is_refused_before_sampling_by_name(chains: dict[str, Chain]):
    failed = {name: chain.used for name, chain in chains.items() if chain.used.refused_by}
    unexpected = {
        name: str(outcome)
        for name, outcome in failed.items()
        if name not in REFUSED and not (name in FAILS_ITSELF and outcome.refused_by == name)
    }
    assert not unexpected, "\n".join(unexpected.values())
    assert not FAILS_ITSELF.keys() & chains.keys() - failed.keys(), "these work now"
    for name, word in REFUSED.items():
        assert failed[name].refused_by == "SFPPSampler" and word in failed[name].words, str(failed[name])
        assert not failed[name].began, f"{name} was refused only after sampling had begun"


CONTROL = behind("LoraLoaderModelOnly", lora_name=CONTROL_LORA, strength_model=1.0)
HALF = behind("ModelComputeDtype", dtype="bf16")
COMPILED_VAE = behind("WiredCompileVAE", socket="vae", compile_encoder=True, compile_decoder=True)

Make = Callable[[Bench, bool, int], Outcome]
"""A video with something or without it; the number is of the file, so that a MODEL can be had that nothing touched."""


def sampled_with(wire: Wire) -> Make:
    return lambda bench, used, number: bench.sampled(wire if used else plain, file=copy_of(STUDENT, number))


def loaded_by(class_type: str, **widgets: Any) -> Make:
    def make(bench: Bench, used: bool, number: int) -> Outcome:
        file = copy_of(STUDENT, number)
        return bench.sampled(file=file, load=loader(class_type, model_name=file, **widgets) if used else None)

    return make


def loader(class_type: str, **widgets: Any) -> Wire:
    """What makes a MODEL itself."""
    return lambda graph, _: [graph.add(class_type, **widgets), 0]


HALF_LOADER = {"weight_dtype": "default", "compute_dtype": "bf16", "enable_fp16_accumulation": True}

REPORTED: dict[str, Make] = {
    "control LoRA": sampled_with(CONTROL),
    "ModelComputeDtype": sampled_with(HALF),
    "compiled blocks": sampled_with(behind("WiredCompileBlocks")),
    "compiled VAE": lambda bench, used, number: bench.decoded(
        COMPILED_VAE if used else plain, file=copy_of(VAE, number % 4)
    ),
    "loader that sets the precision": loaded_by("WiredComputeDtypeLoader", **HALF_LOADER),
    "blocks of eight bits": loaded_by("WiredBlockLoader", form="q8", dequant_dtype="float32"),
    "blocks of four bits": loaded_by("WiredBlockLoader", form="q4", dequant_dtype="default"),
}
"""What real reports told of."""


@pytest.mark.parametrize("kind", ["control LoRA", "ModelComputeDtype", "compiled VAE"])
def test_what_was_reported_is_as_on_a_fresh_server(kind: str, tmp_path: Path, chained: Bench):
    """[with, with, without] on one that sees nothing else, against [without, with, without] where much was before."""
    make = REPORTED[kind]
    with wired_server(tmp_path / "fresh", keeps=False) as comfy:
        fresh = [make(Bench(comfy), used, 0) for used in (True, True, False)]
    used = [make(chained, used, 120) for used in (False, True, False)]
    assert fresh == [used[1], used[1], used[0]] and used[2] == used[0], {
        "fresh [with, with, without]": [str(outcome) for outcome in fresh],
        "used [without, with, without]": [str(outcome) for outcome in used],
    }


@pytest.mark.parametrize("number, kind", list(enumerate(REPORTED, start=130)))
def test_what_was_reported_comes_and_goes(number: int, kind: str, chained: Bench, apart: Bench):
    """[without, with, without, with, without], and what comes of it where it is the first thing that is made.

    A VAE is compiled once only: what is compiled already cannot be compiled by that pack.
    """
    make = REPORTED[kind]
    alone = make(apart, True, number)
    times = 1 if kind == "compiled VAE" else 2
    outcomes = [make(chained, used, number) for used in (False, *(True, False) * times)]
    seen = f"{[str(outcome) for outcome in outcomes]}, alone: {alone}"
    assert all(outcome == outcomes[0] for outcome in outcomes[::2]), seen
    assert all(outcome == alone for outcome in outcomes[1::2]), seen
    assert not outcomes[0].refused_by, seen
    if kind == "control LoRA":
        assert alone.refused_by == "SFPPSampler" and "patch_embedding" in alone.words, seen
    else:
        assert not alone.refused_by, seen
        assert (alone == outcomes[0]) == kind.startswith("compiled"), f"only what is compiled is the same: {seen}"


@pytest.mark.parametrize("wire", [HALF, CONTROL], ids=["ModelComputeDtype", "control LoRA"])
def test_stock_sampling_between_changes_nothing(wire: Wire, apart: Bench):
    """KSampler without, with, without, and ours before, between and behind."""
    file = copy_of(STUDENT, 150 if wire is HALF else 151)
    ours = apart.sampled(file=file)
    stock = apart.stock_sampled(file=file)
    stock_with = apart.stock_sampled(wire, file=file)
    assert not stock.refused_by and not stock_with.refused_by and stock != stock_with
    assert apart.sampled(file=file) == ours
    assert apart.stock_sampled(file=file) == stock
    ours_with = apart.sampled(wire, file=file)
    assert apart.stock_sampled(wire, file=file) == stock_with
    assert apart.sampled(wire, file=file) == ours_with
    assert apart.stock_sampled(file=file) == stock
    assert apart.sampled(file=file) == ours


@pytest.mark.parametrize("number, is_loader", [(152, False), (153, True)], ids=["node", "loader"])
def test_a_short_video_in_another_precision_is_the_beginning_of_the_long_one(
    number: int, is_loader: bool, apart: Bench
):
    """The short one is the first that is made with this MODEL."""
    file = copy_of(STUDENT, number)
    load = loader("WiredComputeDtypeLoader", model_name=file, **HALF_LOADER) if is_loader else None
    wire = plain if is_loader else HALF
    short, long = (apart.sampled(wire, file=file, load=load, seconds=seconds) for seconds in (2.0, 4.0))
    assert not short.refused_by and not long.refused_by, f"{short}; {long}"
    assert long.latent.shape[2] > short.latent.shape[2]
    assert torch.equal(short.latent, long.latent[:, :, : short.latent.shape[2]])
