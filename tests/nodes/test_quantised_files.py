"""Quantised files in SFPP Load Model: formats that the ComfyUI at hand knows run, and others are refused by name."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sfpp_client import NodeFailed
from sfpp_core.checkpoint.quantization import QUANT_FORMATS
from tests.nodes.conftest import Comfy
from tests.nodes.graphs import Graph, Link, Studio, equal
from tests.nodes.quantised import FORMS, File, write_quantised
from tests.nodes.wired import LORA, STUDENT, Outcome, Wire, behind, wired_server
from tests.nodes.wired import Bench as Anew
from tests.nodes.wired import plain as plainly

SETTINGS = {"steps": "1000, 500", "seed": 11}
MIXED, OTHER_INT8 = "mixed.safetensors", "self_forcing_int8_of_another.safetensors"
STRENGTH = 6.0
SAVED = "saved_by_comfyui.safetensors"
ATTENTION = "self_forcing_attention.safetensors"
"""Plain weights with the settings that later versions of ComfyUI keep beside every attention layer of Wan."""


def file_of(form: str) -> str:
    return f"self_forcing_{form}.safetensors"


@dataclass(frozen=True, kw_only=True)
class Bench:
    comfy: Comfy
    formats: list[str]
    """What the ComfyUI at hand knows."""

    @property
    def studio(self) -> Studio:
        return Studio(self.comfy)

    def require(self, form: str) -> None:
        if FORMS[form].format not in self.formats:
            pytest.skip(f"this ComfyUI does not know {FORMS[form].format}; that it is refused is another test")

    def video(self, file: str) -> tuple[Graph, Link, Link]:
        graph = Graph()
        _, clip, _ = graph.tiny()
        latent, state = graph.video(load(graph, file), graph.text(clip), **SETTINGS)
        return graph, latent, state

    def latent(self, file: str) -> Tensor:
        graph, latent, _ = self.video(file)
        (made,) = self.studio.latents(graph, latent)
        return made

    def said(self) -> str:
        return self.comfy.server.log_path.read_text(encoding="utf-8", errors="replace")


def load(graph: Graph, file: str) -> Link:
    settings = {"weight_dtype": "default", "prefer_ema": True, "preset": "auto"}
    return [graph.add("SFPPLoadModel", model_name=file, **settings), 0]


def apart(first: Tensor, second: Tensor) -> float:
    """How far two latents are apart, as a part of the second."""
    return ((first - second).norm() / second.norm()).item()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with wired_server(tmp_path_factory.mktemp("quantised"), keeps=True) as comfy:
        models = comfy.server.models_directory("diffusion_models")
        plain = load_file(models / STUDENT)
        spelled = torch.tensor(list(b'{"attention": "comfy_kitchen_int8"}'), dtype=torch.uint8)
        layers = [f"blocks.{block}.{name}" for block in range(4) for name in ("self_attn", "cross_attn")]
        keys = [f"{layer}.comfy_attention.config" for layer in layers]
        save_file(plain | {key: spelled.clone() for key in keys}, models / ATTENTION)
        files = [File(file_of(name), form) for name, form in FORMS.items()]
        files.append(File(MIXED, FORMS["float8_e4m3fn"], is_mixed=True))
        files.append(File(OTHER_INT8, FORMS["int8_channels"], models / "redrawn.safetensors"))
        yield Bench(comfy=comfy, formats=write_quantised(models, files))


@pytest.fixture(scope="module")
def plain(bench: Bench) -> Tensor:
    return bench.latent(STUDENT)


def test_these_are_all_formats_of_this_comfyui(bench: Bench):
    assert set(bench.formats) <= QUANT_FORMATS.keys()
    assert QUANT_FORMATS.keys() == {form.format for form in FORMS.values()}


@pytest.mark.parametrize("form", FORMS)
def test_it_opens_with_its_preset_and_makes_the_video_of_the_plain_file(form: str, bench: Bench, plain: Tensor):
    bench.require(form)
    made = bench.latent(file_of(form))
    assert f"{file_of(form)}: layout wan, preset Self-Forcing" in bench.said()
    assert not equal(made, plain)
    assert apart(made, plain) < FORMS[form].error


@pytest.mark.parametrize("form", FORMS)
def test_a_format_that_this_comfyui_does_not_know_is_refused_by_name(form: str, bench: Bench):
    if FORMS[form].format in bench.formats:
        pytest.skip("this ComfyUI knows the format")
    with pytest.raises(NodeFailed, match=f"quantised as {FORMS[form].format}.*Update ComfyUI") as failed:
        bench.latent(file_of(form))
    assert failed.value.node_type == "SFPPLoadModel"


def test_a_file_of_which_some_layers_are_quantised_opens_with_the_preset_in_its_header(bench: Bench, plain: Tensor):
    made = bench.latent(MIXED)
    assert f"{MIXED}: layout sfpp, preset mixed" in bench.said()
    assert not equal(made, plain)
    assert apart(made, plain) < FORMS["float8_e4m3fn"].error


def test_settings_of_attention_layers_do_not_keep_a_file_from_opening(bench: Bench, plain: Tensor):
    assert equal(bench.latent(ATTENTION), plain)
    assert f"{ATTENTION}: layout wan, preset Self-Forcing" in bench.said()


@pytest.mark.parametrize("form", FORMS)
def test_a_state_of_the_plain_file_goes_on_with_it_and_its_own_with_the_plain_file(form: str, bench: Bench):
    bench.require(form)
    for first, second in ((STUDENT, file_of(form)), (file_of(form), STUDENT)):
        graph, _, state = bench.video(first)
        new, _, _ = graph.more(load(graph, second), state)
        graph.keep(new)
        bench.studio.run(graph)


@pytest.mark.parametrize("file", [STUDENT, file_of("int8_channels")])
def test_a_state_does_not_go_on_with_a_quantised_file_of_other_weights(file: str, bench: Bench):
    bench.require("int8_channels")
    graph, _, state = bench.video(file)
    graph.keep(graph.more(load(graph, OTHER_INT8), state)[0])
    with pytest.raises(NodeFailed, match="made by another model"):
        bench.studio.run(graph)


@pytest.mark.parametrize("form", FORMS)
def test_a_lora_acts_on_it_and_leaves_no_trace(form: str, bench: Bench):
    """A strong one, since in 4 bits rounding alone changes a video by as much as a weak one."""
    bench.require(form)
    anew = Anew(bench.comfy)
    lora = behind("LoraLoaderModelOnly", lora_name=LORA, strength_model=STRENGTH)
    wanted = anew.sampled(lora, file=STUDENT).latent

    def sampled(wire: Wire) -> Outcome:
        return anew.sampled(wire, load=lambda graph, _: load(graph, file_of(form)))

    without, with_lora, after = (sampled(wire) for wire in (plainly, lora, plainly))
    assert apart(with_lora.latent, wanted) < 0.7 * apart(without.latent, wanted)
    assert without == after


def test_chunks_are_found_again_after_a_restart(bench: Bench):
    forms = [form for form in FORMS if FORMS[form].format in bench.formats]
    for form in forms:
        bench.latent(file_of(form))
    bench.comfy.restart()
    for form in forms:
        seen = len(bench.said())
        bench.latent(file_of(form))
        assert "1 reused from disk" in bench.said()[seen:], form


def test_what_comfyui_saves_of_it_opens_again(bench: Bench):
    bench.require("int8_convrot")
    graph = Graph()
    graph.add("ModelSave", model=load(graph, file_of("int8_convrot")), filename_prefix="saved/it")
    bench.studio.run(graph)
    (saved,) = (bench.comfy.server.output_directory / "saved").glob("it*.safetensors")
    shutil.copyfile(saved, bench.comfy.server.models_directory("diffusion_models") / SAVED)
    assert equal(bench.latent(SAVED), bench.latent(file_of("int8_convrot")))
