"""Dynamic VRAM, on by default on NVIDIA cards since ComfyUI 0.33: weights come and go while a video is made.

See dynamic_driver.py for what is real here.
"""

from __future__ import annotations

from typing import Any

import pytest

from sfpp_core.rollout.model_identity import ModelIdentity
from tests.nodes.dynamic_driver import ARGUMENTS, DRIVER, NEEDED, has_dynamic_vram
from tests.nodes.inside import inside_comfyui

pytestmark = pytest.mark.skipif(not has_dynamic_vram(), reason=f"this ComfyUI has no {NEEDED}")

BENCH = """
import tempfile
import comfy.sd
from safetensors.torch import load_file, save_file
from pack.nodes.comfy.fingerprint import environment_of
from pack.nodes.comfy.fingerprint import model_identity
from pack.nodes.load import load_model
from pack.nodes.comfy.model import HostNetwork
from pack.nodes.comfy.wired import castable, compute_dtype, wan_config
from pack.sfpp_core.rollout.config import RolloutConfig
from pack.sfpp_core.rollout.rollout import Rollout
from pack.sfpp_core.rollout.state import RolloutState
from pack.sfpp_core.tiny.family import weights_path

CONFIG = RolloutConfig(chunk=3, window=6, sink=0, steps=(1000.0, 500.0), shift=5.0)
plain_weights = load_file(weights_path("student"))
drawing = torch.Generator().manual_seed(3)
text = torch.randn(1, 8, 4096, generator=drawing)


def loaded(stored, weight_dtype, disable_dynamic=False):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "student.safetensors")
        save_file({name: weight.to(getattr(torch, stored)) for name, weight in plain_weights.items()}, path)
        # A model of the old kind is to be as where there is no dynamic VRAM.
        comfy.memory_management.aimdo_enabled = not disable_dynamic
        model = load_model(path, weight_dtype, True, "auto", disable_dynamic=disable_dynamic)
        comfy.memory_management.aimdo_enabled = True
    assert model.is_dynamic() != disable_dynamic
    return model


def vbar_of(model):
    return model.model.dynamic_vbars[CARD]


def ready(model):
    mm.load_models_gpu([model])
    assert castable(model) is model
    model.pre_run()


def unload():
    mm.unload_all_models()


def evict(model):
    vbar_of(model).free_memory(1 << 60)


def with_lora(model, strength=6.0, form="lora"):
    factors = {}
    for name, weight in plain_weights.items():
        module = "diffusion_model." + name.removesuffix(".weight")
        draw = lambda *shape: 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(len(name)))
        if form == "control" and name == "patch_embedding.weight":
            out, channels, *patch = weight.shape
            factors[module + ".lora_down.weight"] = draw(4, 2 * channels, *patch)
            factors[module + ".lora_up.weight"] = draw(out, 4, 1, 1, 1)
            factors[module + ".reshape_weight"] = torch.tensor([out, 2 * channels, *patch])
        elif form == "lora" and name.endswith(("self_attn.q.weight", "ffn.0.weight")):
            factors[module + ".lora_A.weight"] = draw(4, weight.shape[1])
            factors[module + ".lora_B.weight"] = draw(weight.shape[0], 4)
        elif form == "lora" and name.endswith("self_attn.norm_q.weight"):
            factors[module + ".diff"] = draw(*weight.shape)
        elif form == "lora" and name.endswith("ffn.2.bias"):
            factors["diffusion_model." + name.removesuffix(".bias") + ".diff_b"] = draw(*weight.shape)
    return comfy.sd.load_lora_for_models(model, None, factors, strength, 0.0)[0]


def begun(model):
    return RolloutState(config=CONFIG, seed=5, model_id=str(model_identity(model)), shape=(1, 16, 8, 8))


def video(model, num_chunks, state=None, between=lambda: None):
    state = state or begun(model)
    ready(model)
    rollout = Rollout(HostNetwork(model), state, text, device=model.load_device, dtype=compute_dtype(model))
    with torch.inference_mode():
        for _ in rollout.run(num_chunks):
            between()
    return rollout.state


def told(model):
    ready(model)
    return environment_of(model, None).parts


def same(first, second):
    return torch.equal(first.latents, second.latents)


def apart(first, second):
    return ((first.latents - second.latents).norm() / second.latents.norm()).item()


def look(model):
    # What is said of a MODEL as it is now.
    return str(wan_config(model)), str(model_identity(model))


def identities(model):
    seen, parts = [look(model)], [told(model)]
    for change in (lambda: None, unload, lambda: video(model, 1), lambda: evict(model), lambda: take_away(model)):
        change()
        seen.append(look(model))
        parts.append(told(model))
    changed = with_lora(model)
    changed_seen = [look(changed)]
    video(changed, 1)
    seen.append(look(model))
    changed_seen.append(look(changed))
    parts.append(told(model))
    ready(changed)
    seen.append(look(model))
    unload()
    changed_seen.append(look(changed))
    seen.append(look(model))
    return dict(seen=seen, parts=parts, changed=changed_seen)


def take_away(model):
    # As ComfyUI does for a model of the old kind that needs the memory.
    model.partially_unload(None, 1e32)


def pieces(model):
    whole = video(model, 3)
    faults = vbar_of(model).num_faults
    evicted = video(model, 3, between=lambda: evict(model))
    faults_evicted = vbar_of(model).num_faults - faults
    unload()
    piece = video(model, 1)
    unload()
    in_pieces = video(model, 2, state=piece)
    unload()
    ample, vbar_of(model).most_pages = vbar_of(model).most_pages, 40
    refused = vbar_of(model).num_refused
    crowded = video(model, 3)
    vbar_of(model).most_pages = ample
    compared = dict(evicted=evicted, in_pieces=in_pieces, crowded=crowded)
    return dict(
        apart={name: apart(state, whole) for name, state in compared.items()},
        faults_evicted=faults_evicted,
        refused=vbar_of(model).num_refused - refused,
    )


def loras(model, static):
    plain, changed, again = video(model, 2), video(with_lora(model), 2), video(model, 2)
    static_plain, static_changed = video(static, 2), video(with_lora(static), 2)
    return dict(
        plain=apart(plain, static_plain),
        changed=apart(changed, static_changed),
        again=apart(again, plain),
        acts=apart(changed, plain),
    )


def control(model):
    first, changed, words = video(model, 1), with_lora(model, form="control"), []
    for before in (lambda: None, lambda: mm.load_models_gpu([changed])):
        before()
        try:
            wan_config(changed)
        except ValueError as error:
            words.append(str(error))
    return dict(words=words, again=apart(video(model, 1), first), config=str(wan_config(model)))


def everything(stored, weight_dtype):
    model = loaded(stored, weight_dtype)
    found = dict(identities=identities(model), plain=pieces(model), lora=pieces(with_lora(model)))
    static = loaded(stored, weight_dtype, disable_dynamic=True)
    found["is_cast"] = model.model_dtype() != compute_dtype(model)
    return found | dict(static=str(model_identity(static)), loras=loras(model, static), control=control(model))
"""

STORED = [("float16", "default"), ("float32", "bf16"), ("float16", "fp8_e4m3fn")]
"""Number formats of a file's weights and of the model that ComfyUI makes of it; it computes in float32 on a CPU."""


@pytest.fixture(scope="module", params=STORED, ids=" as ".join)
def found(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What one process saw of one file."""
    return inside_comfyui(f"{DRIVER}{BENCH}\nprint(json.dumps(everything(*{request.param!r})))\n", *ARGUMENTS)


def test_a_model_is_the_same_before_during_and_after_loading_and_behind_a_lora(found: dict[str, Any]):
    seen, parts, changed = (found["identities"][name] for name in ("seen", "parts", "changed"))
    assert all(each == seen[0] for each in seen)
    assert all(each == parts[0] for each in parts)
    assert all(each == changed[0] for each in changed)
    assert changed[0][1] != seen[0][1]
    # A model of the old kind holds its weights in its own number format, which the sketch shows.
    assert ModelIdentity.parse(found["static"]).is_same_model(ModelIdentity.parse(seen[0][1]))


def test_a_lora_acts_as_without_dynamic_vram_and_leaves_no_trace(found: dict[str, Any]):
    distances = found["loras"]
    assert distances["acts"] > 0.05
    assert distances["changed"] < 0.3 * distances["acts"]
    assert distances["again"] == 0.0


def test_a_control_lora_is_refused_by_name_and_leaves_no_trace(found: dict[str, Any]):
    control = found["control"]
    assert len(control["words"]) == 2
    change = "changes the shape of patch_embedding.weight from 256x16x1x2x2 to 256x32x1x2x2"
    assert all(change in words for words in control["words"])
    assert control["again"] == 0.0
    assert "in_channels=16" in control["config"]


@pytest.mark.parametrize("wired", ["plain", "lora"])
def test_in_pieces_and_with_weights_that_are_evicted_it_is_the_same_video(found: dict[str, Any], wired: str):
    made = found[wired]
    assert made["faults_evicted"] > 2 * 30
    assert made["refused"] > 0
    if wired == "lora" and found["is_cast"]:
        # ComfyUI's own doing: the first call of a layer that has come takes the weight with its LoRA as computed, later
        # ones as rounded to the number format that it is kept in.
        assert max(made["apart"].values()) < 0.5 * found["loras"]["acts"]
    else:
        assert made["apart"] == dict.fromkeys(made["apart"], 0.0)
