"""What another pack has put into a MODEL is known again after a restart, and not taken for something else."""

from __future__ import annotations

from typing import Any

import pytest

from tests.nodes.inside import inside_comfyui

THINGS = """
import functools, io, threading, dataclasses
from pack.nodes.comfy.callables import described
from comfy.ldm.modules.attention import optimized_attention

def wrapped(func):
    # As ComfyUI wraps its kernels from 0.32 on: the wrapper asks an attribute of itself.
    @functools.wraps(func)
    def wrapper(*args, **kwargs):
        return func(*args, **kwargs) if wrapper.container_function is None else wrapper.container_function(*args)
    wrapper.container_function = None
    return wrapper

def kernel(scale):
    @wrapped
    def attention(q, k, v):
        return q * scale
    return attention

def override(kernel):
    # As KJNodes' SageAttention patch hands one on.
    def attention(func, *args, **kwargs):
        return kernel.__wrapped__(*args, **kwargs)
    return attention

def behind_a_lock(scale):
    lock = threading.Lock()
    def inner(q):
        return q * scale
    @functools.wraps(inner)
    def locked(q):
        with lock:
            return inner(q)
    return locked

def recursive(depth):
    def again(n):
        return again(n - 1) if n > depth else n
    return again

class Scaled:
    def __init__(self, scale): self.scale, self.calls = scale, 0
    def __call__(self, func, q, *rest): self.calls += 1; return func(q * self.scale, *rest)
    def method(self, q): return q * self.scale

class Slotted:
    __slots__ = ("scale",)
    def __init__(self, scale): self.scale = scale

@dataclasses.dataclass(frozen=True)
class Frozen:
    scale: float

def circle(scale):
    first, second = Scaled(scale), Scaled(scale)
    first.other, second.other = second, first
    return first

def by_default(scale):
    def attention(q, scale=scale): return q * scale
    return attention

def by_words(scale):
    def attention(q): return q * scale if q in {"one", "two", "three", "four"} else q
    return attention

def keeping_count(scale):
    calls, seen = 0, {"calls": 0}
    def attention(q):
        nonlocal calls
        calls += 1
        seen["calls"] += 1
        return q * scale
    return attention

MAKERS = {
    "words": by_words,
    "a kernel": kernel,
    "an override": lambda scale: override(kernel(scale)),
    "not compiled": lambda scale: torch.compiler.disable()(kernel(scale)),
    "behind a lock": behind_a_lock,
    "itself": recursive,
    "an object": Scaled,
    "a bound method": lambda scale: Scaled(scale).method,
    "a partial": lambda scale: functools.partial(kernel(1.0), scale=scale),
    "slots": Slotted,
    "frozen": Frozen,
    "a circle": circle,
    "a default": by_default,
    "a tensor": lambda scale: torch.full((3,), scale),
    "data": lambda scale: {"scales": [scale, (1, "two")], 3: {scale, 2.5}},
}
SECRETS = {
    "a lock": threading.Lock(), "a file": io.BytesIO(), "a generator": torch.Generator(),
    "an iterator": (n for n in range(3)), "an object with a lock": Scaled(threading.Lock()),
}
"""

DESCRIBED = (
    THINGS
    + """
told = {name: [described(make(scale)) for scale in (1.25, 1.25, 1.5)] for name, make in MAKERS.items()}
told["the host's own"] = described(optimized_attention)
told["secrets"] = {name: described(thing) for name, thing in SECRETS.items()}
layer = torch.nn.Linear(2, 2)
method = (lambda self, x: x).__get__(layer, torch.nn.Linear)
told["a layer's method"] = [described(method), described(method, opaque=lambda thing: "made by a graph")]
layer.comfy_patched_weights = True
told["a layer's method"].append(described(method, opaque=lambda thing: "made by a graph"))
closure = keeping_count(1.25)
told["a closure"] = [described(closure, opaque=lambda thing: "made by a graph")]
closure(1.0)
told["a closure"].append(described(closure, opaque=lambda thing: "made by a graph"))
told["a closure"].append(described(keeping_count(1.5), opaque=lambda thing: "made by a graph"))
counting = Scaled(1.25)
def seen(opaque): return described(counting, opaque=opaque)
told["counting"] = [seen(lambda thing: "made by a graph"), seen(None)]
counting(lambda q: q, 1.0)
told["counting"] += [seen(lambda thing: "made by a graph"), seen(None), seen(lambda thing: None)]
print(json.dumps(told))
"""
)

NAMES = (
    *("a kernel", "an override", "not compiled", "behind a lock", "itself", "an object", "a bound method", "a partial"),
    *("slots", "frozen", "a circle", "a default", "a tensor", "data", "words"),
)


@pytest.fixture(scope="module")
def two_starts() -> tuple[dict[str, Any], dict[str, Any]]:
    return inside_comfyui(DESCRIBED), inside_comfyui(DESCRIBED)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_known_again_and_its_settings_count(two_starts, name: str):
    first, second = two_starts
    same, again, other = first[name]
    assert same is not None and same == again != other
    assert second[name] == first[name]


def test_the_hosts_kernel_is_told_by_name_and_version(two_starts):
    told = two_starts[0]["the host's own"]
    assert told.startswith("comfy.ldm.modules.attention.attention_") and "ComfyUI 0." in told
    assert two_starts[1]["the host's own"] == told


def test_what_hides_its_contents_is_not_told(two_starts):
    assert set(two_starts[0]["secrets"].values()) == {None}


def test_what_changes_while_it_works_is_told_by_the_graph_that_made_it(two_starts):
    before, by_itself, after, by_itself_after, without_graph = two_starts[0]["counting"]
    assert before == after and "made by a graph" in before
    assert by_itself != by_itself_after == without_graph


def test_a_function_that_keeps_count_is_told_by_the_graph_and_its_settings(two_starts):
    before, after, other = two_starts[0]["a closure"]
    assert before == after != other and "made by a graph" in before


def test_a_layer_is_told_by_the_graph_however_it_is_loaded(two_starts):
    by_itself, before, after = two_starts[0]["a layer's method"]
    assert by_itself is None and before == after and "made by a graph" in before


GRAPHS = """
from comfy_execution.graph import DynamicPrompt
from comfy_execution.utils import CurrentNodeContext
from pack.nodes.comfy.queued_graph import upstream_digest
import asyncio, nodes as host_nodes, folder_paths
asyncio.run(host_nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))

models = folder_paths.get_folder_paths("loras")[0]
os.makedirs(models, exist_ok=True)
lora = os.path.join(models, "sfpp_test.safetensors")

def graph(ids=("1", "2", "3"), strength=0.5, changed=None, lora_name="sfpp_test.safetensors", title="a"):
    loader, patch, sampler = ids
    node = {"class_type": "LoraLoaderModelOnly", "_meta": {"title": title},
            "inputs": {"model": [loader, 0], "lora_name": lora_name, "strength_model": strength}}
    if changed is not None:
        node["is_changed"] = changed
    return {loader: {"class_type": "UNETLoader", "inputs": {"unet_name": "x", "weight_dtype": "default"}}, patch: node,
            sampler: {"class_type": "SFPPSampler", "inputs": {"model": [patch, 0], "seed": 1}}}

def digest(prompt, sampler="3"):
    with CurrentNodeContext("prompt", sampler, 0):
        return upstream_digest(DynamicPrompt(prompt), "model")

open(lora, "wb").write(b"one")
os.utime(lora, ns=(10**18, 10**18))
told = {
    "same": [digest(graph()), digest(graph()), digest(graph(ids=("7", "10", "x"), title="b"), "x")],
    "other": [digest(graph(strength=0.6)), digest(graph(lora_name="y")), digest(graph(changed=["abc"]))],
    "undecided": [digest(graph(changed=float("nan"))), digest(graph(changed=[float("nan")])), digest(graph(), "2"),
                  upstream_digest(None, "model")],
}
open(lora, "wb").write(b"two!")
told["other"].append(digest(graph()))
open(lora, "wb").write(b"one")
os.utime(lora, ns=(10**18 + 5, 10**18 + 5))
told["other"].append(digest(graph()))
os.remove(lora)
told["other"].append(digest(graph()))
random_node = type("Random", (), {"IS_CHANGED": classmethod(lambda cls, **inputs: float("nan"))})
host_nodes.NODE_CLASS_MAPPINGS["LoraLoaderModelOnly"] = random_node
told["undecided"].append(digest(graph()))
print(json.dumps(told))
"""


def test_the_queued_graph_is_the_same_when_comfyuis_cache_would_say_so(tmp_path):
    told = inside_comfyui(GRAPHS, "--base-directory", str(tmp_path))
    (same,) = set(told["same"])
    assert same is not None
    assert None not in told["other"]
    assert len({same, *told["other"]}) == 1 + len(told["other"])
    # Of the third the input is another node's; the last is what a ComfyUI asks that remembers nothing.
    nan, listed_nan, _, alone, unasked = told["undecided"]
    assert (nan, listed_nan, alone, unasked) == (None,) * 4
