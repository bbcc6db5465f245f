"""SFPP Save State and SFPP Load State: a video that goes on tomorrow, or on another machine."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..sfpp_core.rollout.state import RolloutState, load_state, save_state
from .comfy.files import STATE_SUFFIX, check_prefix, new_output_file, saved_states
from .comfy.report import Report
from .widgets import CATEGORY, CheckedNode, VideoState, search_aliases


class SFPPSaveState(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SFPPSaveState",
            display_name="SFPP Save State",
            category=CATEGORY,
            **search_aliases("checkpoint a video", "resume", "self forcing"),
            description="Writes where a video stands to a file: its clean latents, prompts and settings, from which "
            "SFPP Extend continues it exactly.",
            inputs=[
                VideoState.Input("state", tooltip="From SFPP Sampler or SFPP Extend."),
                io.String.Input(
                    "filename_prefix",
                    default="states/film",
                    tooltip="Name of the file in the output folder, with sub-folders if you like; a number is added. "
                    "%year%, %month%, %day%, ... are filled in.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def check(cls, *, filename_prefix: str | None = None, **inputs: Any) -> None:
        """Refuse a name that no file can have before the video is made; one that is wired in is only known later."""
        del inputs
        if filename_prefix is not None:
            check_prefix(filename_prefix)

    @classmethod
    def execute(cls, state: RolloutState, filename_prefix: str) -> io.NodeOutput:
        with new_output_file(filename_prefix, STATE_SUFFIX) as file:
            save_state(state, file.path)
        name = f"{file.subfolder}/{file.filename}".lstrip("/")
        report = Report()
        report.add(f"Saved in the output folder: {name}")
        # The name as text, and the file for clients that fetch what a run has made.
        saved = ui.SavedResult(file.filename, file.subfolder, io.FolderType.output)
        return io.NodeOutput(ui={"text": (name,), "states": [saved]} | report.ui("said"))


class SFPPLoadState(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SFPPLoadState",
            display_name="SFPP Load State",
            category=CATEGORY,
            **search_aliases("resume", "continue video", "self forcing"),
            description="Reads a video that SFPP Save State wrote. Continue it with SFPP Extend and the model that "
            "made it.",
            inputs=[
                io.Combo.Input(
                    "state_file",
                    options=list(saved_states()),
                    tooltip=f"A {STATE_SUFFIX} file in ComfyUI's output or input folder. Press R to refresh the list.",
                )
            ],
            outputs=[VideoState.Output("state", display_name="state", tooltip="For SFPP Extend.")],
        )

    @classmethod
    def validate_inputs(cls, state_file: str | None = None) -> bool | str:
        """Check against the files: the list in the schema may be older."""
        if state_file is None or state_file in saved_states():
            return True
        return f"{state_file!r} is not among the saved states in the input and output folders."

    @classmethod
    def fingerprint_inputs(cls, state_file: str) -> str:
        """Read a file again if it was replaced."""
        status = saved_states()[state_file].stat()
        return f"{status.st_mtime_ns} {status.st_size}"

    @classmethod
    def execute(cls, state_file: str) -> io.NodeOutput:
        path = saved_states().get(state_file)
        if path is None:
            raise ValueError(f"state_file is {state_file!r}, which is not in the input or output folder any more.")
        return io.NodeOutput(load_state(path))
