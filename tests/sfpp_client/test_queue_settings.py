"""What `--set NAME=VALUE` means, on workflows as ComfyUI exports them and nodes as its servers describe them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sfpp_client.errors import NodeFailed, OutOfMemory, OutputNotWritten, node_failure
from sfpp_client.queue.__main__ import parse_arguments
from sfpp_client.queue.outcome import MEANINGS, ExitCode
from sfpp_client.queue.settings import Settable, Setting, SettingError, with_values
from sfpp_client.workflow import load_workflow
from tools.comfy_server import ROOT

TEXT = ["STRING", {"multiline": True}]
OBJECT_INFO = {
    "CLIPTextEncode": {"input": {"required": {"text": TEXT, "clip": ["CLIP", {}]}}, "output": ["CONDITIONING"]},
    "TextBox": {"input": {"required": {"value": ["STRING", {}]}}, "output": ["STRING"]},
    "Zero": {
        "input": {"required": {"conditioning": ["CONDITIONING"]}},
        "output": ["CONDITIONING"],
        "output_name": ["CONDITIONING"],
    },
    "Control": {
        "input": {"required": {"positive": ["CONDITIONING"], "negative": ["CONDITIONING"]}},
        "output": ["CONDITIONING", "CONDITIONING"],
        "output_name": ["positive", "negative"],
    },
    "Sampler": {
        "input": {
            "required": {
                "positive": ["CONDITIONING"],
                "negative": ["CONDITIONING"],
                "seed": ["INT", {"min": 0, "max": 2**64 - 1}],
                "seconds": ["FLOAT", {"min": 0.1, "max": 3600.0}],
                "scheduler": [["simple", "beta"], {}],
                "layers": ["COMBO", {"options": [1, 2]}],
                "add_noise": ["BOOLEAN", {"default": True}],
            },
            "optional": {
                "strength": ["FLOAT", {"default": 1.0}],
                "mask": ["MASK"],
                "note": ["STRING", {"forceInput": True}],
            },
        },
        "output": ["LATENT"],
    },
    "LoadImage": {"input": {"required": {"image": [["a.png"], {"image_upload": True}]}}, "output": ["IMAGE"]},
}
WORKFLOW = {
    "1": {"class_type": "CLIPTextEncode", "inputs": {"text": "a calm sea", "clip": ["9", 0]}},
    "2": {
        "class_type": "CLIPTextEncode",
        "inputs": {"text": "blurry", "clip": ["9", 0]},
        "_meta": {"title": "Not this"},
    },
    "3": {"class_type": "Control", "inputs": {"positive": ["1", 0], "negative": ["2", 0]}},
    "4": {
        "class_type": "Sampler",
        "inputs": {
            "positive": ["3", 0],
            "negative": ["3", 1],
            "seed": 1,
            "seconds": 5.0,
            "scheduler": "simple",
            "layers": 1,
            "add_noise": True,
            "mode.width": 512,
        },
        "_meta": {"title": "First pass"},
    },
    "5": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
}


def node(class_type: str, **inputs: object) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def resolved(*words: str, workflow: dict = WORKFLOW) -> dict[str, object]:
    values = Settable(workflow, OBJECT_INFO).resolve([Setting.parse(word) for word in words])
    return {value.target.full_name: value.value for value in values}


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("seconds=60", "4.seconds", 60.0),
        ("seconds=6e1", "4.seconds", 60.0),
        ("4.seed=18446744073709551615", "4.seed", 2**64 - 1),
        ("First pass.add_noise=false", "4.add_noise", False),
        ("Sampler.scheduler=beta", "4.scheduler", "beta"),
        ("layers=2", "4.layers", 2),
        ("Not this.text=a=b", "2.text", "a=b"),
        ("1.text=", "1.text", ""),
        ("1.text=@home", "1.text", "@home"),
        ("1.text=60", "1.text", "60"),
        ("image=sub/b.png", "5.image", "sub/b.png"),
        ("strength=0.5", "4.strength", 0.5),
        ("mode.width=640", "4.mode.width", 640),
        ("4.mode.width=640", "4.mode.width", 640),
        (" seconds =60", "4.seconds", 60.0),
    ],
)
def test_a_name_finds_its_input_and_a_text_becomes_its_kind_of_value(words: str, name: str, value: object):
    ((found, got),) = resolved(words).items()
    assert found == name and got == value and type(got) is type(value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("seconds=long", r"4\.seconds \(First pass\) is to be 'long', but it takes a number from 0\.1 to 3600"),
        ("seconds=0", "a number from 0.1 to 3600"),
        ("seconds=NaN", "a number from"),
        ("seconds=Infinity", "a number from"),
        ("strength=1e999", "takes a number$"),
        (f"strength={10**400}", "takes a number$"),
        ("seconds=true", "a number from"),
        ("seconds=", "a number from"),
        ("seed=1.5", "a whole number from 0 to 18446744073709551615"),
        ("seed=-1", "a whole number from 0"),
        (f"seed={'9' * 5000}", "a whole number from 0"),
        (f"seed={'[' * 100_000}", "a whole number from 0"),
        ("add_noise=1", "true or false"),
        ("scheduler=best", "one of simple [|] beta$"),
        ("mode.width=wide", "a whole number"),
    ],
)
def test_a_value_that_the_input_does_not_take_is_refused_with_what_it_takes(words: str, message: str):
    with pytest.raises(SettingError, match=message):
        resolved(words)


@pytest.mark.parametrize("name", ["sedonds", "4.positive", "9.clip", "mask", "note", "*.nothing", "5"])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str):
    with pytest.raises(SettingError, match=r"nothing called .* to set; it has add_noise, .*prompt, .*seconds"):
        resolved(f"{name}=1")


def test_a_name_with_two_meanings_is_refused_with_names_that_have_one():
    with pytest.raises(SettingError, match="text could mean") as refused:
        resolved("text=b")
    offered = [line.split()[0] for line in str(refused.value).splitlines()[1:]]
    assert offered == ["1.text", "2.text"]
    assert resolved(f"{offered[0]}=b") == {"1.text": "b"}


def test_a_star_means_all_of_them():
    assert resolved("*.text=b") == {"1.text": "b", "2.text": "b"}


def test_the_later_of_two_settings_counts():
    assert resolved("*.text=b", "2.text=c", "2.text=d") == {"1.text": "b", "2.text": "d"}


def test_what_the_workflow_says_goes_before_what_it_leaves_open():
    workflow = {**WORKFLOW, "6": node("Sampler", positive=["1", 0], strength=0.2)}
    assert resolved("strength=0.5", workflow=workflow) == {"6.strength": 0.5}


def test_prompt_and_negative_follow_the_links_of_the_sampler():
    assert resolved("prompt=b", "negative=c") == {"1.text": "b", "2.text": "c"}


def test_prompt_is_the_box_that_the_text_comes_from():
    workflow = {
        "1": node("TextBox", value="a calm sea"),
        "2": node("CLIPTextEncode", text=["1", 0], clip=["9", 0]),
        "3": node("Zero", conditioning=["2", 0]),
        "4": node("Sampler", positive=["2", 0], negative=["3", 0]),
    }
    assert resolved("prompt=b", workflow=workflow) == {"1.value": "b"}


def test_prompt_where_nothing_is_called_positive():
    workflow = {"1": WORKFLOW["1"], "2": WORKFLOW["2"], "3": node("Sampler", negative=["2", 0])}
    assert resolved("prompt=b", workflow=workflow) == {"1.text": "b"}


def test_two_prompts_are_told_apart():
    workflow = {
        "1": WORKFLOW["1"],
        "2": WORKFLOW["2"],
        "3": node("Sampler", positive=["1", 0]),
        "4": node("Sampler", positive=["2", 0]),
    }
    with pytest.raises(SettingError, match=r"(?s)prompt could mean.*1\.text.*2\.text"):
        resolved("prompt=b", workflow=workflow)


def test_links_in_a_circle_end():
    workflow = {
        "1": node("CLIPTextEncode", text=["2", 0], clip=["9", 0]),
        "2": node("TextBox", value=["2", 0]),
        "3": node("Zero", conditioning=["3", 0]),
        "4": node("Sampler", positive=["3", 0], negative=["1", 0]),
    }
    with pytest.raises(SettingError, match="nothing called prompt"):
        resolved("prompt=b", workflow=workflow)


def test_every_input_has_a_short_name_that_means_it_alone():
    settable = Settable(WORKFLOW, OBJECT_INFO)
    names = [settable.short_name(one) for one in settable.inputs]
    assert {"prompt", "negative", "seconds", "seed", "image"} <= set(names)
    assert [settable.find(name) for name in names] == [[one] for one in settable.inputs]


def test_setting_leaves_the_original_as_it_is():
    before = json.dumps(WORKFLOW)
    settable = Settable(WORKFLOW, OBJECT_INFO)
    changed = with_values(WORKFLOW, [(settable.find("seconds")[0], 60.0)])
    assert changed["4"]["inputs"]["seconds"] == 60.0 and changed["1"] == WORKFLOW["1"]
    assert json.dumps(WORKFLOW) == before


def test_a_file_that_is_to_be_uploaded_is_marked_and_has_to_be_there(tmp_path: Path):
    path = tmp_path / "start.png"
    settable = Settable(WORKFLOW, OBJECT_INFO)
    with pytest.raises(FileNotFoundError):
        settable.resolve([Setting.parse(f"image=@{path}")])
    path.touch()
    (value,) = settable.resolve([Setting.parse(f"image=@{path}")])
    assert value.upload == path


@pytest.mark.parametrize(
    "words",
    [
        ["--set", "seconds"],
        ["--set", "=60"],
        ["--timeout", "soon"],
        ["--timeout", "-1"],
        ["--timeout", "nan"],
        ["--retries", "-1"],
        ["--retries", "1.5"],
        ["--server", "127.0.0.1:8188"],
        ["--server", "http://h:abc"],
        ["--server", "http://h:99999"],
        ["--server", "http://h/?token=x"],
        ["--nothing"],
    ],
)
def test_a_command_line_that_cannot_be_read_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        parse_arguments(["workflow.json", *words])
    assert ended.value.code == 2 and words[0] in capsys.readouterr().err


def test_a_page_workflow_is_refused_with_its_sibling_that_can_be_queued(tmp_path: Path):
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "video.json").write_text("{}")
    (tmp_path / "video.json").write_text('{"nodes": [], "links": []}')
    with pytest.raises(ValueError, match=r"queue .*api.video\.json"):
        load_workflow(tmp_path / "video.json")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b'{"1": {"class_type": 5, "inputs": {}}}']
)
def test_a_file_that_holds_no_workflow_is_named(tmp_path: Path, content: bytes):
    (tmp_path / "video.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"video\.json is no workflow"):
        load_workflow(tmp_path / "video.json")


@pytest.mark.parametrize(
    ("exception_type", "message", "kind"),
    [
        ("torch.OutOfMemoryError", "Allocation on device", OutOfMemory),
        ("MemoryError", "", OutOfMemory),
        ("RuntimeError", "MPS backend out of memory (MPS allocated: 1 GB)", OutOfMemory),
        ("RuntimeError", "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory", OutOfMemory),
        ("OSError", "[Errno 28] No space left on device: 'video.mp4'", OutputNotWritten),
        ("SafetensorError", "Error while serializing: I/O error: File too large (os error 27)", OutputNotWritten),
        ("SafetensorError", 'Os { code: 28, kind: StorageFull, message: "..." }', OutputNotWritten),
        ("OSError", "[WinError 112] There is not enough space on the disk", OutputNotWritten),
        (
            "ChunkStoreError",
            "chunk 3 could not be written to /out: Disk quota exceeded. All 2 before",
            OutputNotWritten,
        ),
        ("ChunkStoreError", "chunk 3 could not be written to /out: Input/output error. All 2 before", OutputNotWritten),
        (
            "ChunkStoreError",
            "/out cannot be made: Read-only file system. Finished chunks are kept there: see to it",
            OutputNotWritten,
        ),
        (
            "ChunkStoreError",
            "/out cannot be made: Permission denied. Finished chunks are kept there: see to it",
            OutputNotWritten,
        ),
        ("OSError", "[Errno 2] No such file or directory: '/models/a [Errno 280]'", NodeFailed),
        ("DownloadError", "HTTP error code: 30", NodeFailed),
        ("RuntimeError", "os error 28 frames from the end", NodeFailed),
        ("ValueError", "memory is out of reach", NodeFailed),
    ],
)
def test_a_failure_is_known_by_its_cause(exception_type: str, message: str, kind: type[NodeFailed]):
    failure = node_failure({"node_id": "1", "exception_type": exception_type, "exception_message": message})
    assert type(failure) is kind and message.strip() in str(failure)


def test_every_exit_code_is_documented():
    text = (ROOT / "docs" / "headless.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d, ]+) \|", text, re.MULTILINE)
    assert sorted(int(code) for row in rows for code in row.split(",")) == sorted(MEANINGS) == sorted(ExitCode)


def test_a_machine_without_torch_can_queue():
    program = "import sys; sys.modules.update(torch=None, av=None, numpy=None); import sfpp_client.queue.__main__"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
