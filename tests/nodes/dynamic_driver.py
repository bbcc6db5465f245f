"""Dynamic VRAM without a graphics card: ComfyUI's own classes over memory that a CPU has.

Since 0.33 ComfyUI keeps weights on NVIDIA cards in a reserved range of addresses (a VBAR of its package comfy-aimdo):
each layer faults its weights in when it is called, and the driver takes pages away when memory is needed. That package
is a C library over CUDA, and ComfyUI never makes a dynamic model for a CPU. What is replaced here, and no more:

- comfy-aimdo's `ModelVBAR`, as pages of an ordinary tensor, with the rules that its callers rely on: a fault answers
  with a number for each page, which changes whenever the page was taken away and given again, or with nothing if
  the pages do not fit; a page that is in use is not taken; a page that is taken is overwritten, so that whoever still
  reads it reads nonsense. `aimdo_to_tensor`, which makes a tensor of an address. `HostBuffer`, of which only the size
  is asked, because ComfyUI's switch --disable-pinned-memory is on: there is no CUDA to pin memory for.
- The name of the device. PyTorch knows "cpu:0" as another device than "cpu" with the same memory. ComfyUI is told
  that cpu:0 is the device that computes, and that it is no CPU. Tensors forget that number, so the one function that
  takes the device from a layer's input, `cast_bias_weight`, is told it as well.
- What ComfyUI's main.py sets once the driver has started: `aimdo_enabled` and `CoreModelPatcher`.

ModelPatcherDynamic, the layers of comfy.ops with their casts and LoRAs, and load_models_gpu are ComfyUI's.
"""

from __future__ import annotations

from pathlib import Path

from tools.comfy_server import default_comfyui

NEEDED = "class ModelPatcherDynamic"


def has_dynamic_vram() -> bool:
    """Whether the ComfyUI at hand knows it."""
    return NEEDED in Path(default_comfyui(), "comfy", "model_patcher.py").read_text(encoding="utf-8")


ARGUMENTS = ("--disable-pinned-memory",)

DRIVER = """
import ctypes
import comfy_aimdo.host_buffer, comfy_aimdo.model_vbar, comfy_aimdo.torch
import comfy.memory_management, comfy.model_management as mm, comfy.model_patcher, comfy.ops

CARD = torch.device("cpu", 0)
PAGE = 1 << 16


class Vbar:
    all = []

    def __init__(self, size, device):
        num_pages = int(size) // PAGE + 1
        self.memory = torch.zeros(num_pages * PAGE, dtype=torch.uint8)
        self.base_addr, self.offset, self.max_size = self.memory.data_ptr(), 0, num_pages * PAGE
        self.times, self.resident, self.pinned = [0] * num_pages, [False] * num_pages, [0] * num_pages
        self.most_pages = num_pages
        self.num_faults = 0
        self.num_refused = 0
        Vbar.all.append(self)

    def prioritize(self, *_):
        pass

    def deprioritize(self):
        pass

    def alloc(self, num_bytes):
        start = (self.offset + 511) & ~511
        assert start + num_bytes <= self.max_size
        self.offset = start + num_bytes
        return self, self.base_addr + start, num_bytes

    def pages(self, address, size):
        start = address - self.base_addr
        return range(start // PAGE, (start + max(size, 1) - 1) // PAGE + 1)

    def overwrite(self, page):
        self.memory[page * PAGE : (page + 1) * PAGE] = 0xFF

    def fault(self, address, size):
        pages = self.pages(address, size)
        new = [page for page in pages if not self.resident[page]]
        if sum(self.resident) + len(new) > self.most_pages:
            self.num_refused += 1
            return None
        self.num_faults += bool(new)
        for page in new:
            self.resident[page] = True
            self.times[page] += 1
            self.overwrite(page)
        for page in pages:
            self.pinned[page] += 1
        return (ctypes.c_uint32 * len(pages))(*(self.times[page] for page in pages))

    def unpin(self, address, size):
        for page in self.pages(address, size):
            self.pinned[page] = max(0, self.pinned[page] - 1)

    def free_memory(self, num_bytes):
        freed = 0
        for page in reversed(range(len(self.resident))):
            if freed < num_bytes and self.resident[page] and not self.pinned[page]:
                self.resident[page] = False
                self.overwrite(page)
                freed += PAGE
        return freed

    def loaded_size(self):
        return sum(self.resident) * PAGE


class HostBuffer:
    def __init__(self, size, prewarm=0, max_grow_size=0, mark_cold=True):
        self.size = int(size)

    def truncate(self, size, do_unregister=True):
        self.size = int(size)


def as_tensor(alloc, device):
    vbar, address, size = alloc
    return vbar.memory[address - vbar.base_addr :][:size]


def named(layer, input=None, dtype=None, device=None, *args, **kwargs):
    assert device is None or device.type == "cpu"
    return cast_bias_weight(layer, input, dtype, CARD, *args, **kwargs)


comfy_aimdo.model_vbar.ModelVBAR = Vbar
comfy_aimdo.torch.aimdo_to_tensor = as_tensor
comfy_aimdo.host_buffer.HostBuffer = HostBuffer
cast_bias_weight, comfy.ops.cast_bias_weight = comfy.ops.cast_bias_weight, named
mm.get_torch_device = lambda: CARD
mm.unet_offload_device = lambda: torch.device("cpu")
mm.is_device_cpu = lambda device: device == torch.device("cpu")
mm.vram_state = mm.VRAMState.NORMAL_VRAM
comfy.memory_management.aimdo_enabled = True
comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
"""
