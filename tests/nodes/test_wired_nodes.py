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

from tests.nodes.wired import CONTROL_LORA, STUDENT, VAE, Bench, Outcome, Wire, behind, copy_of, plain, wired_server
from tests.nodes.wired_classes import NodeClass, node_classes

pytestmark = pytest.mark.timeout(1800)
"""The first test pays for all that is run once, minutes on a busy machine."""

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
    "LTXVReferenceAudio": "asks for a VAE of sound",
    "TripoSplatSamplingPreview": "counts the tokens of another model",
    "TrainLoraNode": "knows no latents of videos in 0.3.75; later it gives no MODEL",
}
"""Classes that fail on every Wan MODEL before the sampler is reached, and why. They are run all the same."""

MUST_ACT = {
    *("LoraLoader", "LoraLoaderBypass", "LoraLoaderBypassModelOnly", "LoraLoaderModelOnly", "LoraModelLoader"),
    *("ModelAttentionBackend", "ModelMergeBlocks", "ModelComputeDtype", "ModelMergeAdd", "ModelMergeSimple"),
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
    runnable = {name: node for name, node in node_classes(chained.comfy.client).items() if node.why_not() is None}
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
    listed, classes = not_run(chained), node_classes(chained.comfy.client)
    impossible = {name: reason for name, node in classes.items() if (reason := node.why_not()) is not None}
    assert not {name: reason for name, reason in impossible.items() if name not in listed}, "say why these are not run"
    assert not listed.keys() - classes.keys(), "listed, but not there: ComfyUI has dropped or renamed them"
    assert not listed.keys() - impossible.keys(), "listed, but they can be run now"
    assert len(classes) - len(impossible) > 60


@pytest.mark.endurance
def test_what_is_wired_leaves_nothing_behind_and_is_always_the_same(chains: dict[str, Chain]):
    faults = {name: found for name, chain in chains.items() if (found := chain.faults())}
    assert not faults, "\n".join(f"{name}: {'; '.join(found)}" for name, found in faults.items())


@pytest.mark.endurance
def test_what_a_rollout_uses_acts_in_it(chains: dict[str, Chain]):
    there = sorted(MUST_ACT & chains.keys())
    assert len(there) > 20
    idle = [name for name in there if chains[name].used == chains[name].first]
    assert not idle, "these change what a rollout computes with, and were ignored"
    refused = [f"{name}: {chains[name].used}" for name in there if chains[name].used.refused_by]
    assert not refused


@pytest.mark.endurance
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


@pytest.mark.parametrize("kind", ["compiled VAE", "VAE compiled whole"])
def test_a_compiled_vae_encodes_decodes_and_shows_as_the_plain_one(kind: str, apart: Bench):
    """And the plain one does afterwards, although what was compiled stays in it."""
    number, wire = (5, COMPILED_VAE) if kind == "compiled VAE" else (6, behind("WiredCompileWholeVAE", socket="vae"))
    file = copy_of(VAE, number)

    def all_of(use: Wire) -> list[Outcome]:
        return [make(use, file=file) for make in (apart.decoded, apart.encoded, apart.shown)]

    before = all_of(plain)
    assert not any(outcome.refused_by for outcome in before)
    seen = {"with": [str(outcome) for outcome in all_of(wire)], "after": [str(outcome) for outcome in all_of(plain)]}
    assert seen == {when: [str(outcome) for outcome in before] for when in seen}
    assert all_of(plain) == before


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
