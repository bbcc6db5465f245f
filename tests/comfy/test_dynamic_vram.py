"""Dynamic VRAM, on by default on NVIDIA cards since ComfyUI 0.33: what is wired, LoRAs and pieces, with weights that come
and go. See dynamic_driver.py for what is real here."""

from __future__ import annotations

from typing import Any

import pytest

from tests.comfy.dynamic_driver import ARGUMENTS, DRIVER, NEEDED, has_dynamic_vram
from tests.comfy.inside import inside_comfyui

pytestmark = pytest.mark.skipif(not has_dynamic_vram(), reason=f"this ComfyUI has no {NEEDED}")

BENCH = """
import tempfile
import comfy.sd
from safetensors.torch import load_file, save_file
from pack.nodes.host.circumstances import circumstances_of
from pack.nodes.host.identity import model_identity
from pack.nodes.host.loading import load_model
from pack.nodes.host.network import HostNetwork
from pack.nodes.host.wired import compute_dtype, require_one_number_format, wan_config
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
        model = load_model(path, weight_dtype, True, "auto", disable_dynamic=disable_dynamic)
    assert model.is_dynamic() != disable_dynamic
    return model


def vbar_of(model):
    return model.model.dynamic_vbars[CARD]


def ready(model):
    mm.load_models_gpu([model])
    require_one_number_format(model)
    model.pre_run()


def unload():
    mm.unload_all_models()


def evict(model):
    vbar_of(model).free_memory(1 << 60)


def with_lora(model, strength=1.0, form="lora"):
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


def film(model, num_chunks, state=None, between=lambda: None):
    state = state or begun(model)
    ready(model)
    rollout = Rollout(HostNetwork(model), state, text, device=model.load_device, dtype=compute_dtype(model))
    with torch.inference_mode():
        for _ in rollout.run(num_chunks):
            between()
    return rollout.state


def told(model):
    ready(model)
    return circumstances_of(model, None).parts


def same(first, second):
    return torch.equal(first.latents, second.latents)


def apart(first, second):
    return ((first.latents - second.latents).norm() / second.latents.norm()).item()
"""

STORED = [("float16", "default"), ("float32", "default"), ("float16", "fp8_e4m3fn"), ("float32", "bf16")]
"""Number formats of a file's weights and of the model that ComfyUI makes of it; it computes in float32 on a CPU."""


def run(code: str, stored: str = "float16", weight_dtype: str = "default") -> Any:
    begin = f'\nmodel = loaded("{stored}", "{weight_dtype}")\n'
    return inside_comfyui(DRIVER + BENCH + begin + code, *ARGUMENTS)


@pytest.mark.parametrize(("stored", "weight_dtype"), STORED)
def test_a_model_is_the_same_before_during_and_after_loading_and_behind_a_lora(stored: str, weight_dtype: str):
    found = run(
        """
seen, parts = [], []

def look(told_too=True):
    if told_too:
        parts.append(told(model))
    seen.append((str(wan_config(model)), str(model_identity(model))))

look(told_too=False)
look()
unload()
look(told_too=False)
look()
film(model, 1)
look()
evict(model)
look()
model.partially_unload(None, 1e32)
look()
changed = with_lora(model)
before = str(model_identity(changed))
film(changed, 1)
look(told_too=False)
look()
ready(changed)
look(told_too=False)
after = str(model_identity(changed))
unload()
look()
faults = vbar_of(model).num_faults
plain = loaded(*%r, disable_dynamic=True)
print(json.dumps([seen, parts, before, after, faults, str(model_identity(plain))]))
"""
        % ((stored, weight_dtype),),
        stored,
        weight_dtype,
    )
    seen, parts, before, after, faults, undynamic = found
    assert faults > 0
    assert all(each == seen[0] for each in seen)
    assert all(each == parts[0] for each in parts)
    assert before == after != seen[0][1]
    assert undynamic == seen[0][1]


def test_a_lora_acts_as_without_dynamic_vram_and_leaves_no_trace():
    without, with_lora, after, difference, undynamic = run(
        """
plain = film(model, 2)
changed = film(with_lora(model), 2)
again = film(model, 2)
static = loaded("float16", "default", disable_dynamic=True)
static_plain, static_changed = film(static, 2), film(with_lora(static), 2)
print(json.dumps([apart(plain, static_plain), apart(changed, static_changed), apart(again, plain),
                  apart(changed, plain), static.is_dynamic()]))
"""
    )
    assert undynamic is False
    assert difference > 0.05
    assert without < 1e-4
    assert with_lora < 1e-3
    assert after == 0.0


def test_a_control_lora_is_refused_by_name_and_leaves_no_trace():
    words, is_same, config = run(
        """
first = film(model, 1)
control = with_lora(model, form="control")
words = []
for load_it in (False, True):
    if load_it:
        mm.load_models_gpu([control])
    try:
        wan_config(control)
    except ValueError as error:
        words.append(str(error))
print(json.dumps([words, same(film(model, 1), first), str(wan_config(model))]))
"""
    )
    assert len(words) == 2
    assert all("changes the shape of patch_embedding.weight from 256x16x1x2x2 to 256x32x1x2x2" in word for word in words)
    assert is_same
    assert "in_channels=16" in config


@pytest.mark.parametrize(("stored", "weight_dtype"), STORED)
@pytest.mark.parametrize("lora", [False, True], ids=["plain", "lora"])
def test_in_pieces_and_with_weights_that_are_evicted_it_is_the_same_video(stored: str, weight_dtype: str, lora: bool):
    compared, faults, refused = run(
        f"""
if {lora}:
    model = with_lora(model)
whole = film(model, 3)
faults_of_one_go = vbar_of(model).num_faults
evicted = film(model, 3, between=lambda: evict(model))
faults = vbar_of(model).num_faults
taken_away = film(model, 3, between=lambda: model.partially_unload(None, 1e32))
unload()
piece = film(model, 1)
unload()
pieces = film(model, 2, state=piece)
unload()
vbar_of(model).most_pages = 40
crowded = film(model, 3)
print(json.dumps([dict(evicted=apart(evicted, whole), taken=apart(taken_away, whole), pieces=apart(pieces, whole), crowded=apart(crowded, whole)),
                  [faults_of_one_go, faults], vbar_of(model).num_refused]))
""",
        stored,
        weight_dtype,
    )
    assert faults[1] >= 3 * faults[0] > 0
    assert refused > 0
    assert compared == dict.fromkeys(compared, 0.0)
