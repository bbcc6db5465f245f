"""The workflows that come with the pack, described by hand. Names and node ids stay: people link to them.

What stands in the note of each workflow: what to change first, what it costs in time, how videos get longer.
"""

from __future__ import annotations

import re
from typing import Any

from tools.workflows.format import Graph, Group, Node, Stack, Wire

_WORLD = """\
The built-in model knows a toy world. Name all of it in a prompt: a **ball, boat, kite or lantern** that is **red,
yellow, green, blue, purple or white** and moves **left or right** or **bounces**, **slowly or quickly**, in the
**desert, sea, meadow or mountains**."""

_KEPT = """\
What is finished is kept on disk, in pieces of 0.75 s of video: after Cancel or a crash, queue the same workflow again
and it goes on from there."""

_WRAPPED = {
    "tiny_text_to_long_video": f"""\
## One prompt, one minute

Press **Run**. Nothing to download; it runs on any CPU.

**Change first:** the prompt, then **seed**.

{_WORLD}

**Time:** about half a second a second of video on one CPU core. The node says how much is left.
The video plays in **SFPP Sampler** and grows on disk while it is made, because **vae** is wired into it.

**Longer videos:** set **seconds**. The last second costs what the first does, and memory does not grow. {_KEPT}

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

**Time:** every 0.75 s of video takes five passes of the model: four steps, and one to remember. After two chunks the
node says how long it will take. Try 5 **seconds** first.

**Memory:** the model's memory of the video takes 6 GB in bf16 at 832x480, whatever the length. Smaller pictures take
less.

**Longer videos:** set **seconds**. {_KEPT} Students that were trained on five seconds drift over minutes;
Self-Forcing++ students hold.

Wan LoRAs go between **SFPP Load Model** and **SFPP Sampler** (LoraLoaderModelOnly).""",
    "tiny_extend_with_second_prompt": f"""\
## Go on under another prompt

**SFPP Extend** goes on where the video ended. Without `positive` the first prompt would go on, exactly as if the video
had been made in one go.

**Change first:** the second prompt. Only what follows it is made again.

**Time:** about half a second a second of video on one CPU core.

**Longer videos:** wire `state` into one more **SFPP Extend**, as often as you like. **SFPP Save State** keeps the end
in `output/states`: tomorrow, **SFPP Load State** takes the place of the sampler.

{_WORLD}""",
    "tiny_branch_three_endings": """\
## One beginning, three endings

The beginning is made once. Its `state` goes into three **SFPP Extend** nodes, each with a prompt of its own: three
videos whose first ten seconds are the same, bit for bit. A state is never changed by what is done with it.

**Change first:** an ending's prompt. Only that ending is made again. Another **seed** makes another beginning, and
all three again.

**Time:** forty seconds of video are made and sixty written: about a minute on two CPU cores.

**Longer videos:** extend an ending again from its own `state`, or try more endings: copy one of the rows and wire the
state into it.""",
    "tiny_prompt_schedule": f"""\
## What the video shows when

One line a prompt, each with its time in front: `0:20`, `1:02:03` or `90s`. A line without a time goes on with the
prompt above it.

**Change first:** the lines, then **seconds**: the video's length. Prompts change at the border of the nearest chunk
(0.75 s).

**recache** decides how a change looks. *Renew the memory*: at once, in the same picture. *Keep the memory*: slowly,
as old frames leave the model's sight (5 s). **crossfade** blends two prompts over some seconds.

**Time:** about half a second a second of video on one CPU core.

**Longer videos:** more lines and more **seconds**. A schedule that changes late finds what came before the change on
disk, and goes on from there.

{_WORLD}""",
    "tiny_image_to_video": """\
## A video that begins with a picture

The picture goes through **VAE Encode** into `start` of the sampler and becomes the video's first frame. Here it is the
last of nine frames that the model made itself, so that the workflow runs without a file.

**Your own picture:** select *Your picture*, press Ctrl+M, choose a file, and drag its IMAGE to *To the video's size*.
The built-in model only understands pictures of its own toy world; a causal Wan 2.1 student takes any picture, at the
video's width and height.

**Change first:** the picture, then the prompt, which should describe what is in it.

**Time:** about half a second a second of video on one CPU core. `seconds` come on top of the picture.

**Longer videos:** set **seconds**, or wire `state` into **SFPP Extend**.""",
    "tiny_continue_video": """\
## A video that continues another

**SFPP Continue Video** gives the end of a video to the sampler, which goes on from there. **SFPP Decode To
Video** writes
both as one file: the source video in its own pictures, then what was made. Here the source video was
made by the model itself, so that the workflow runs without a file.

**Your own video:** double-click beside the nodes, add **Load Video**, choose a file, and drag its VIDEO to **SFPP
Continue Video**. The built-in model only understands its own toy world at 64x64 pixels: set **width** and **height** of
SFPP Continue Video to 64. A causal Wan 2.1 student takes any video.

**Change first:** the prompt of what follows; it should fit the source video's end.

**Time:** about half a second a second of video on one CPU core, and some seconds to read its end.

**Longer videos:** set **seconds** of *What follows*, or wire its `state` into **SFPP Extend**.""",
    "tiny_film_with_stability_report": f"""\
## Does the video hold up?

One minute of video, and a judgement of it: no network, no GPU.

**Change first:** the prompt. It is written once and goes to the sampler and to the judge. Then **judge**: *offline*
measures pixels and sends nothing anywhere; *gemini* is the paper's judge and needs the package `google-genai` and
GEMINI_API_KEY in the environment of ComfyUI.

**SFPP Visual Stability** rates ten seconds at a time from 0 to 5, makes a score from 0 to 100, and says what it saw
and when. **SFPP Stability Report** draws exposure, contrast, sharpness, colour and motion over time, with the damages
marked.

**Time:** about half a second a second of video on one CPU core, and some seconds for the judge.

**Longer videos:** set **seconds** of the sampler. The video is read from its file piece by piece, however long.

{_WORLD}""",
}


def _unwrapped(markdown: str) -> str:
    """One line a paragraph and a list item: the page keeps line breaks."""
    return re.sub(r"(?<!\n)\n *(?!\n|\* |#)", " ", markdown)


NOTES = {name: _unwrapped(markdown) for name, markdown in _WRAPPED.items()}
"""By workflow; Markdown."""


BLUE, GREEN, BROWN, PURPLE, GOLD = "#3f789e", "#8A8", "#b06634", "#a1309b", "#b58b2a"
NARROW, MIDDLE, WIDE = 320, 360, 420
PROMPT_HEIGHT = 150

TINY = Node(id=1, type="SFPPLoadTiny")
MODEL, CLIP, VAE = Wire(1, "model"), Wire(1, "clip"), Wire(1, "vae")

SEED = 42
TINY_SIZE = {"width": 64, "height": 64}


def _prompt(node_id: int, text: str | Wire, *, clip: Wire = CLIP, title: str | None = None) -> Node:
    inputs = {"text": text, "clip": clip}
    return Node(id=node_id, type="CLIPTextEncode", inputs=inputs, title=title, height=PROMPT_HEIGHT)


def _video(node_id: int, positive: Wire, seconds: float, *, title: str | None = None, **inputs: Any) -> Node:
    settings = {"model": MODEL, "positive": positive, "seed": SEED, **TINY_SIZE, "seconds": seconds, **inputs}
    return Node(id=node_id, type="SFPPSampler", inputs=settings, title=title)


def _more(node_id: int, state: Wire, positive: Wire, seconds: float) -> Node:
    inputs = {"model": MODEL, "state": state, "positive": positive, "seconds": seconds}
    return Node(id=node_id, type="SFPPExtend", inputs=inputs)


def _mp4(node_id: int, latent: Wire, name: str, *, vae: Wire = VAE, **inputs: Any) -> Node:
    settings = {"latent": latent, "vae": vae, "filename_prefix": name, **inputs}
    return Node(id=node_id, type="SFPPDecodeToVideo", inputs=settings)


def _group(title: str, colour: str, width: int, *nodes: Node) -> tuple[Group, ...]:
    """A column with one group of one stack."""
    return (Group(title=title, colour=colour, stacks=(Stack(width=width, nodes=nodes),)),)


def _text_to_long_video() -> Graph:
    return Graph(
        name="tiny_text_to_long_video",
        note=NOTES["tiny_text_to_long_video"],
        columns=(
            _group(
                "1  Model and prompt",
                BLUE,
                MIDDLE,
                TINY,
                _prompt(2, "A red ball glides slowly to the left in the desert."),
            ),
            _group("2  Video", GREEN, MIDDLE, _video(3, Wire(2, "CONDITIONING"), 60.0, vae=VAE)),
            _group("3  MP4", PURPLE, WIDE, _mp4(4, Wire(3, "latent"), "video/tiny_long_video")),
        ),
    )


def _wan_text_to_long_video() -> Graph:
    model, clip, vae = Wire(1, "model"), Wire(2, "CLIP"), Wire(3, "VAE")
    text = (
        "A weathered sailboat crosses a calm bay at golden hour, the camera drifting alongside at water level. Long "
        "soft swells carry warm reflections of the low sun, the canvas sail breathes in a light wind, and gulls circle "
        "far behind the mast. Realistic, steady motion, balanced exposure."
    )
    loaders = (
        Node(id=1, type="SFPPLoadModel", inputs={"model_name": "self_forcing_dmd.pt"}),
        Node(
            id=2,
            type="CLIPLoader",
            inputs={"clip_name": "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "type": "wan", "device": "default"},
        ),
        Node(id=3, type="VAELoader", inputs={"vae_name": "wan_2.1_vae.safetensors"}),
        _prompt(4, text, clip=clip),
    )
    video = {"model": model, "positive": Wire(4, "CONDITIONING"), "seed": SEED, "seconds": 60.0}
    return Graph(
        name="wan_1.3b_text_to_long_video",
        note=NOTES["wan_1.3b_text_to_long_video"],
        columns=(
            _group("1  Model and prompt", BLUE, WIDE, *loaders),
            _group("2  Video", GREEN, MIDDLE, Node(id=5, type="SFPPSampler", inputs=video)),
            _group("3  MP4", PURPLE, 480, _mp4(6, Wire(5, "latent"), "video/wan_long_video", vae=vae)),
        ),
    )


def _extend_with_second_prompt() -> Graph:
    state = Wire(5, "state")
    return Graph(
        name="tiny_extend_with_second_prompt",
        note=NOTES["tiny_extend_with_second_prompt"],
        columns=(
            _group(
                "1  Model and prompts",
                BLUE,
                MIDDLE,
                TINY,
                _prompt(2, "A red ball glides slowly to the left in the desert.", title="First prompt"),
                _prompt(4, "A red ball bounces quickly up and down in the mountains.", title="Second prompt"),
            ),
            _group("2  Ten seconds", GREEN, MIDDLE, _video(3, Wire(2, "CONDITIONING"), 10.0)),
            _group(
                "3  Ten more",
                BROWN,
                MIDDLE,
                _more(5, Wire(3, "state"), Wire(4, "CONDITIONING"), 10.0),
                Node(
                    id=7,
                    type="SFPPSaveState",
                    inputs={"state": state, "filename_prefix": "states/tiny_two_prompts"},
                ),
            ),
            _group("4  MP4", PURPLE, WIDE, _mp4(6, Wire(5, "whole latent"), "video/tiny_two_prompts")),
        ),
    )


ENDINGS = (
    "A red boat glides slowly to the right in the open sea.",
    "A blue boat glides slowly to the right in the mountains.",
    "A yellow lantern bounces slowly up and down in a green meadow with flowers.",
)


def _ending(number: int, text: str) -> Group:
    """Prompt, extension and video of one branch, in a row."""
    prompt, extension, video = 10 * number, 10 * number + 1, 10 * number + 2
    name = f"video/tiny_ending_{number}"
    return Group(
        title=f"3.{number}  Ending {number}",
        colour=(BROWN, PURPLE, GOLD)[number - 1],
        stacks=(
            Stack(width=NARROW, nodes=(_prompt(prompt, text, title=f"Ending {number}"),)),
            Stack(width=NARROW, nodes=(_more(extension, Wire(3, "state"), Wire(prompt, "CONDITIONING"), 10.0),)),
            Stack(width=NARROW, nodes=(_mp4(video, Wire(extension, "whole latent"), name),)),
        ),
    )


def _branch_three_endings() -> Graph:
    return Graph(
        name="tiny_branch_three_endings",
        note=NOTES["tiny_branch_three_endings"],
        columns=(
            _group(
                "1  Model and prompt",
                BLUE,
                MIDDLE,
                TINY,
                _prompt(2, "A blue boat glides slowly to the right in the open sea.", title="Beginning"),
            ),
            _group("2  The beginning", GREEN, MIDDLE, _video(3, Wire(2, "CONDITIONING"), 10.0)),
            tuple(_ending(number, text) for number, text in enumerate(ENDINGS, start=1)),
        ),
    )


SCHEDULE = """\
0:00 A red ball glides slowly to the left in the desert.
0:10 A red ball bounces quickly up and down in a green meadow with flowers.
0:20 A yellow lantern bounces slowly up and down in the mountains."""


def _prompt_schedule() -> Graph:
    schedule = {"clip": CLIP, "lines": SCHEDULE, "recache": True}
    return Graph(
        name="tiny_prompt_schedule",
        note=NOTES["tiny_prompt_schedule"],
        columns=(
            _group(
                "1  Model and schedule",
                BLUE,
                WIDE,
                TINY,
                Node(id=2, type="SFPPPromptSchedule", inputs=schedule, height=330),
            ),
            _group("2  Video", GREEN, MIDDLE, _video(3, Wire(2, "schedule"), 30.0, vae=VAE)),
            _group("3  MP4", PURPLE, WIDE, _mp4(4, Wire(3, "latent"), "video/tiny_schedule")),
        ),
    )


def _image_to_video() -> Graph:
    picture = (
        _video(3, Wire(2, "CONDITIONING"), 0.5, title="Nine frames"),
        Node(id=4, type="VAEDecode", inputs={"samples": Wire(3, "latent"), "vae": VAE}),
        Node(id=5, type="ImageFromBatch", inputs={"image": Wire(4, "IMAGE"), "batch_index": 8}, title="The last one"),
    )
    scaled = {"image": Wire(5, "IMAGE"), "upscale_method": "area", **TINY_SIZE, "crop": "center"}
    start = (
        Node(id=6, type="ImageScale", inputs=scaled, title="To the video's size"),
        Node(id=7, type="PreviewImage", inputs={"images": Wire(6, "IMAGE")}),
        Node(id=8, type="VAEEncode", inputs={"pixels": Wire(6, "IMAGE"), "vae": VAE}),
    )
    video = _video(9, Wire(2, "CONDITIONING"), 10.0, start=Wire(8, "LATENT"), vae=VAE, title="Video")
    own = Node(id=11, type="LoadImage", inputs={"image": "example.png"}, title="Your picture", is_muted=True)
    return Graph(
        name="tiny_image_to_video",
        note=NOTES["tiny_image_to_video"],
        columns=(
            _group(
                "1  Model and prompt",
                BLUE,
                MIDDLE,
                TINY,
                _prompt(2, "A yellow lantern glides slowly to the right in the mountains."),
            )
            + _group("Or your own picture", GOLD, MIDDLE, own),
            _group("2  A picture", BROWN, NARROW, *picture),
            _group("3  Beginning", GOLD, NARROW, *start),
            _group("4  Video", GREEN, MIDDLE, video),
            _group("5  MP4", PURPLE, WIDE, _mp4(10, Wire(9, "latent"), "video/tiny_from_picture")),
        ),
    )


def _continue_video() -> Graph:
    first = _video(3, Wire(2, "CONDITIONING"), 5.0, title="The source video")
    clip = first, _mp4(4, Wire(3, "latent"), "video/tiny_clip")
    end = Node(id=5, type="SFPPContinueVideo", inputs={"video": Wire(4, "video"), "vae": VAE})
    size = {"width": Wire(5, "width"), "height": Wire(5, "height")}
    video = _video(6, Wire(8, "CONDITIONING"), 10.0, **size, start=Wire(5, "start"), vae=VAE, title="What follows")
    return Graph(
        name="tiny_continue_video",
        note=NOTES["tiny_continue_video"],
        columns=(
            _group(
                "1  Model and prompts",
                BLUE,
                MIDDLE,
                TINY,
                _prompt(2, "A red ball glides slowly to the left in the desert.", title="The source video's prompt"),
                _prompt(8, "A red ball glides slowly to the left in the desert.", title="What follows"),
            ),
            _group("2  A source video", BROWN, MIDDLE, *clip),
            _group("3  Its end", GOLD, NARROW, end),
            _group("4  What follows", GREEN, MIDDLE, video),
            _group(
                "5  Both as one video",
                PURPLE,
                WIDE,
                _mp4(7, Wire(6, "latent"), "video/tiny_continued", before=Wire(5, "source video")),
            ),
        ),
    )


def _video_with_stability_report() -> Graph:
    text = Wire(2, "STRING")
    prompt = "A blue boat glides slowly to the right in the open sea."
    judge = {"video": Wire(5, "video"), "prompt": text, "segment_seconds": 10.0}
    return Graph(
        name="tiny_film_with_stability_report",
        note=NOTES["tiny_film_with_stability_report"],
        columns=(
            _group(
                "1  Model and prompt",
                BLUE,
                MIDDLE,
                TINY,
                Node(id=2, type="PrimitiveStringMultiline", inputs={"value": prompt}, height=PROMPT_HEIGHT),
                _prompt(3, text),
            ),
            _group("2  Video", GREEN, MIDDLE, _video(4, Wire(3, "CONDITIONING"), 60.0)),
            _group("3  MP4", BROWN, WIDE, _mp4(5, Wire(4, "latent"), "video/tiny_scored_film")),
            _group(
                "4  Judgement",
                PURPLE,
                MIDDLE,
                Node(id=6, type="SFPPVisualStability", inputs=judge, height=420),
                Node(id=8, type="PreviewAny", inputs={"source": Wire(6, "explanation")}, height=260),
            ),
            _group(
                "5  Report",
                GOLD,
                720,
                Node(id=7, type="SFPPStabilityReport", inputs={"report": Wire(6, "report")}, height=780),
            ),
        ),
    )


GRAPHS: tuple[Graph, ...] = (
    _text_to_long_video(),
    _wan_text_to_long_video(),
    _extend_with_second_prompt(),
    _branch_three_endings(),
    _prompt_schedule(),
    _image_to_video(),
    _continue_video(),
    _video_with_stability_report(),
)
