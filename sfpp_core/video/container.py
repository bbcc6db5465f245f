"""The two forms of an MP4: one that can be watched while it grows, and the finished one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from fractions import Fraction
from typing import Final

import av
from av.container import OutputContainer
from av.stream import Stream

# The page that restores a workflow from a file reads its tags, which MP4 loses without use_metadata_tags, and only the
# first 64 MiB of it, which faststart makes sure they are in.
WHOLE: Final = {"movflags": "use_metadata_tags+faststart"}

# Pieces of a second, each with an index of its own and on the disk at once. The first index waits for the first piece:
# only then is it known how much players shall skip of what encoders put in front.
GROWING: Final = {"movflags": "use_metadata_tags+delay_moov", "frag_duration": "1000000", "flush_packets": "1"}


def open_growing(path: str | os.PathLike[str], *, fps: Fraction, metadata: Mapping[str, str]) -> OutputContainer:
    """A container for streams and packets, of which players show at any time all but the newest seconds.

    Raises:
        OSError: the file cannot be written.
    """
    return _open(path, GROWING, fps, metadata)


def make_whole(
    source: str | os.PathLike[str], target: str | os.PathLike[str], *, fps: Fraction, metadata: Mapping[str, str]
) -> None:
    """Copy the streams of `source` into an MP4 that begins with the index of all of it. Nothing is encoded again.

    Raises:
        OSError: the file cannot be written.
    """
    with ExitStack() as files:
        given = files.enter_context(av.open(os.fspath(source)))
        # Left to itself, PyAV before 15 counts time in units that few frame rates are whole numbers of.
        form = {**WHOLE, "video_track_timescale": str(given.streams.video[0].time_base.denominator)}
        whole = files.enter_context(_open(target, form, fps, metadata))
        streams = {stream.index: _twin(stream, whole) for stream in given.streams}
        for packet in given.demux():
            if packet.dts is not None:  # the empty packet at the end of each stream
                packet.stream = streams[packet.stream.index]
                whole.mux(packet)


def _twin(stream: Stream, container: OutputContainer) -> Stream:
    """A stream of `container` that takes the packets of `stream`."""
    # Opaque: PyAV before 15 otherwise sets up an encoder, and what it then writes is empty.
    twin = container.add_stream_from_template(stream, opaque=True)
    twin.codec_context.codec_tag = stream.codec_context.codec_tag
    return twin


def _open(
    path: str | os.PathLike[str], form: Mapping[str, str], fps: Fraction, metadata: Mapping[str, str]
) -> OutputContainer:
    # In ticks of 1/1000 second, the default, most lengths would not be whole numbers.
    options = {**form, "movie_timescale": str(fps.numerator)}
    container = av.open(os.fspath(path), "w", format="mp4", options=options)
    container.metadata.update(metadata)
    return container
