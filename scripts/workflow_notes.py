"""What stands in the note of each workflow: what to change first, what it costs in time, how films get longer."""

from __future__ import annotations

import re

_WORLD = """\
The built-in model knows a toy world. Name all of it in a prompt: a **ball, boat, kite or lantern** that is **red,
yellow, green, blue, purple or white** and moves **left or right** or **bounces**, **slowly or quickly**, in the
**desert, sea, meadow or mountains**."""

_KEPT = """\
What is finished is kept on disk, in pieces of 0.75 s of film: after Cancel or a crash, queue the same workflow again
and it goes on from there."""

_WRAPPED = {
    "tiny_text_to_long_video": f"""\
## One prompt, one minute

Press **Run**. Nothing to download; it runs on any CPU.

**Change first:** the prompt, then **seed**.

{_WORLD}

**Time:** about half a second a second of film on one CPU core. The node says how much is left.
The film plays in **SFPP Sampler** and grows on disk while it is made, because **vae** is wired into it.

**Longer films:** set **seconds**. The last second costs what the first does, and memory does not grow. {_KEPT}

**-1** and **preset** leave a setting to the model. The MP4 is in `output/video`; drop it on the page to get this
workflow back.""",
    "wan_1.3b_text_to_long_video": f"""\
## Wan 2.1 1.3B, made causal

Files it needs (choose yours in the lists if they are called otherwise):

* `models/diffusion_models/self_forcing_dmd.pt`: the checkpoint of Self-Forcing; LongLive, Causal-Forcing and others
  fit as well, as published
* `models/text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors`
* `models/vae/wan_2.1_vae.safetensors`

**Change first:** the prompt. Long, descriptive ones work best. Then **seed**.

**Time:** every 0.75 s of film takes five passes of the model: four steps, and one to remember. After two chunks the
node says how long it will take. Try 5 **seconds** first.

**Memory:** the model's memory of the film takes 6 GB in bf16 at 832x480, whatever the length. Smaller pictures take
less.

**Longer films:** set **seconds**. {_KEPT} Students that were trained on five seconds drift over minutes;
Self-Forcing++ students hold.

Wan LoRAs go between **SFPP Load Model** and **SFPP Sampler** (LoraLoaderModelOnly).""",
    "tiny_extend_with_second_prompt": f"""\
## Go on under another prompt

**SFPP Extend** goes on where the film ended. Without `positive` the first prompt would go on, exactly as if the film
had been made in one go.

**Change first:** the second prompt. Only what follows it is made again.

**Time:** about half a second a second of film on one CPU core.

**Longer films:** wire `state` into one more **SFPP Extend**, as often as you like. **SFPP Save State** keeps the end
in `output/states`: tomorrow, **SFPP Load State** takes the place of the sampler.

{_WORLD}""",
    "tiny_branch_three_endings": """\
## One beginning, three endings

The beginning is made once. Its `state` goes into three **SFPP Extend** nodes, each with a prompt of its own: three
films whose first ten seconds are the same, bit for bit. A state is never changed by what is done with it.

**Change first:** an ending's prompt. Only that ending is made again. Another **seed** makes another beginning, and
all three anew.

**Time:** forty seconds of film are made and sixty written: about a minute on two CPU cores.

**Longer films:** extend an ending again from its own `state`, or try more endings: copy one of the rows and wire the
state into it.""",
    "tiny_prompt_schedule": f"""\
## What the film shows when

One line a prompt, each with its time in front: `0:20`, `1:02:03` or `90s`. A line without a time goes on with the
prompt above it.

**Change first:** the lines, then **seconds**: the film's length. Prompts change at the border of the nearest chunk
(0.75 s).

**recache** decides how a change looks. *Renew the memory*: at once, in the same picture. *Keep the memory*: slowly,
as old frames leave the model's sight (5 s). **crossfade** blends two prompts over some seconds.

**Time:** about half a second a second of film on one CPU core.

**Longer films:** more lines and more **seconds**. A schedule that changes late finds what came before the change on
disk, and goes on from there.

{_WORLD}""",
    "tiny_image_to_video": """\
## A film that begins with a picture

The picture goes through **VAE Encode** into `start` of the sampler and becomes the film's first frame. Here it is the
last of nine frames that the model made itself, so that the workflow runs without a file.

**Your own picture:** select *Your picture*, press Ctrl+M, choose a file, and drag its IMAGE to *To the film's size*.
The built-in model only understands pictures of its own toy world; a causal Wan 2.1 student takes any picture, at the
film's width and height.

**Change first:** the picture, then the prompt, which should describe what is in it.

**Time:** about half a second a second of film on one CPU core. `seconds` come on top of the picture.

**Longer films:** set **seconds**, or wire `state` into **SFPP Extend**.""",
    "tiny_continue_video": """\
## A film that continues a clip

**SFPP Continue Video** gives the end of a clip to the sampler, which goes on from there. **SFPP Decode To
Video** writes
both as one file: the clip in its own pictures, then what was made. Here the clip was made by the model itself, so that
the workflow runs without a file.

**Your own clip:** double-click beside the nodes, add **Load Video**, choose a file, and drag its VIDEO to **SFPP
Continue Video**. The built-in model only understands its own toy world at 64x64 pixels: set **width** and **height** of
SFPP Continue Video to 64. A causal Wan 2.1 student takes any clip.

**Change first:** the prompt of what follows; it should fit the clip's end.

**Time:** about half a second a second of film on one CPU core, and some seconds to read the clip's end.

**Longer films:** set **seconds** of *What follows*, or wire its `state` into **SFPP Extend**.""",
    "tiny_film_with_stability_report": f"""\
## Does the film hold up?

One minute of film, and a judgement of it: no network, no GPU.

**Change first:** the prompt. It is written once and goes to the sampler and to the judge. Then **judge**: *offline*
measures pixels and sends nothing anywhere; *gemini* is the paper's judge and needs the package `google-genai` and
GEMINI_API_KEY in the environment of ComfyUI.

**SFPP Visual Stability** rates ten seconds at a time from 0 to 5, makes a score from 0 to 100, and says what it saw
and when. **SFPP Stability Report** draws exposure, contrast, sharpness, colour and motion over time, with the damages
marked.

**Time:** about half a second a second of film on one CPU core, and some seconds for the judge.

**Longer films:** set **seconds** of the sampler. The film is read from its file piece by piece, however long.

{_WORLD}""",
}


def _unwrapped(markdown: str) -> str:
    """One line a paragraph and a list item: the page keeps line breaks."""
    return re.sub(r"(?<!\n)\n *(?!\n|\* |#)", " ", markdown)


NOTES = {name: _unwrapped(markdown) for name, markdown in _WRAPPED.items()}
"""By workflow; Markdown."""
