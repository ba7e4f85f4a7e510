"""Frames out of video files: what extract_patches, extract_percepts and extract_flow read with.

    for frame in read_frames("walk.avi", fps=10):    # uint8 (height, width, 3), as it is shown
        ...

Whatever is in a file, the outcome is frames or a `VideoError` with one of the `REASONS`. A video
that is damaged further on gives its frames until the damage, and `remarks` says so. Decoding is
done by PyAV, in one thread, so that the same file always gives the same bytes.

Read next: extract_patches.py.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from minilstm.errors import ConfigError, DataError, MinilstmError, one_line

SUFFIXES = frozenset(
    ".3gp .asf .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv".split()
)
# Containers that are opened, by libav's names, those of sound to say that there is no picture in
# them. Playlists are not: they make libav open other files, and wait for them.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegts,mpegvideo,asf,flv,ogg,gif,h264,hevc,"
    "m4v,ivf,yuv4mpegpipe,nut,mxf,dv,rm,mp3,wav,flac,aac,aiff,au,amr"
)
REASONS = {  # and what to do
    "no file": "check the path",  # also a folder, a pipe, a device
    "empty": "copy or download it again",
    "not a video": "copy or download it again, if it was one",
    "no video stream": "choose a file with pictures in it",
    "unknown codec": "convert it to H.264 in an .mp4",
    "too large": "scale it down",
    "no frames": "copy or download it again",
    "too short": "ask for fewer frames",  # these three are of extract_patches
    "too small": "ask for smaller patches",
    "no motion": "ask for less",
}
MAX_PIXELS = 2**26  # of a frame: 200 MB as bytes, and eight times a frame of 4K
MAX_HOLD = 10  # seconds for which one frame may be shown; a longer gap is a cut, or a wrong clock
SLACK = 0.1  # seconds by which a file may end before the end that it claims


class VideoError(DataError):
    """A file that gives nothing; `reason` is one of REASONS, to count by."""

    def __init__(self, path: Path, reason: str, found: str):
        super().__init__(f"{path}: expected a video, got {reason} ({found}): {REASONS[reason]}")
        self.reason = reason


def library(name: str):
    """The module of an optional library, or MinilstmError with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MinilstmError(
            f"expected the library {name}, got {error}: pip install '.[video]'"
        ) from error


def find_videos(paths: Iterable[str | Path]) -> list[Path]:
    """The video files that `paths` name, each once, in the order of their names.

    Of a folder those below it that have a video's SUFFIX; links to folders are not followed. A
    file that is named itself is taken whatever it is called. Raises DataError for what isn't there.
    """
    found = set()
    for path in map(Path, paths):
        if os.path.isdir(path):
            for folder, _, names in os.walk(path):
                files = (Path(folder, name) for name in names)
                found |= {file for file in files if file.suffix.lower() in SUFFIXES}
        elif os.path.lexists(path):
            found.add(path)
        else:
            raise DataError(f"{path}: expected a video or a folder of videos, got nothing there")
    return sorted(found)


def read_frames(
    path: str | Path, fps: float | None = None, remarks: list[str] | None = None
) -> Iterator[np.ndarray]:
    """The frames of a video in the order of time: read-only uint8 (height, width, 3), RGB.

    With `fps`, those that are on the screen at 0, 1/fps, 2/fps, ... seconds, so that videos of
    different or of varying rates run alike; without, each once. Rotation that the file asks for is
    made, by quarter turns; pixels count as square. To `remarks` one line is added if the video is
    cut short or damaged; it ends there. Raises VideoError, or ConfigError for `fps`.
    """
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise ConfigError(f"expected fps > 0, got {fps}: choose one, such as 10")
    av, path = library("av"), Path(path)
    with _open(av, path) as container:
        stream = _picture_stream(av, path, container)
        usual = 1 / Fraction(stream.average_rate or stream.guessed_rate or 25)
        frames = _decoded(av, path, container, stream, remarks)
        frames = _timed(frames, stream.time_base, usual)
        if fps is not None:
            frames = _on_a_clock(frames, 1 / Fraction(fps).limit_denominator(10**6), usual)
        last = array = None
        for _, frame in frames:
            if frame is not last:
                last, array = frame, _pixels(frame)
            yield array


def _open(av, path):
    """The container, if the file can be one."""
    try:
        if not os.path.isfile(path):
            raise VideoError(path, "no file", "nothing, a folder, or a device")
        with open(path, "rb") as file:
            if not file.read(1):
                raise VideoError(path, "empty", "0 bytes")
        # "file:", because libav would take a name with a colon for an address
        return av.open(
            f"file:{os.path.abspath(path)}",
            options={"format_whitelist": FORMATS},
            metadata_errors="ignore",
        )
    except VideoError:
        raise
    except Exception as error:  # of libav, of the system, or of a name that can't be encoded
        reason = "no file" if type(error) in (OSError, PermissionError) else "not a video"
        raise VideoError(path, reason, one_line(error)) from error


def _picture_stream(av, path, container):
    """The first stream of pictures that move, ready to be decoded."""
    cover = av.stream.Disposition.attached_pic  # of a song
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not streams:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "no streams"
        raise VideoError(path, "no video stream", f"only {kinds}")
    codec = streams[0].codec_context
    if codec is None:
        raise VideoError(path, "unknown codec", "libav has no decoder for it")
    if codec.width * codec.height > MAX_PIXELS:
        raise VideoError(path, "too large", f"{codec.width}x{codec.height} pixels")
    codec.thread_count, codec.thread_type = 1, "NONE"
    return streams[0]


def _decoded(av, path, container, stream, remarks):
    """The decoder's frames until the end or the first damage, and a remark about that."""
    remarks = [] if remarks is None else remarks
    packets, count, shape, reached, damage = container.demux(), 0, None, 0, ""
    while not damage:
        try:
            packet = next(packets, None)
            if packet is None:
                break
            if packet.is_corrupt:
                damage = "it is cut short"
                frames = stream.codec_context.decode(None)  # what the decoder still holds
            else:
                if packet.pts is not None:
                    reached = max(
                        reached, (packet.pts + (packet.duration or 0)) * packet.stream.time_base
                    )
                frames = packet.decode() if packet.stream is stream else []
        except Exception as error:  # libav's errors are of a dozen families
            damage, frames = f"libav met {one_line(error)!r}", []
        for frame in frames:
            shape = shape or (frame.width, frame.height)
            if frame.is_corrupt:
                damage = damage or "a frame is damaged"
            elif (frame.width, frame.height) != shape:
                damage = damage or f"frames of {shape[0]}x{shape[1]} pixels become others"
            if damage and not damage.startswith("it is cut"):
                break
            count += 1
            yield frame
    if not count:
        raise VideoError(path, "no frames", damage or "none that can be decoded")
    if container.duration and not damage:
        missing = (container.duration + (container.start_time or 0)) / 1e6 - float(reached)
        damage = f"its last {missing:.1f} s are missing" if missing > SLACK else ""
    if damage:
        remarks.append(f"{path}: {damage} after {count} frames, which are used")


def _timed(frames, tick, usual):
    """(time, frame): seconds from the first frame on, never falling.

    Some files have wrong presentation times, some wrong decoding times, some none. As libav's own
    player does, believe those that went wrong less often so far; without any, count.
    """
    wrong_pts = wrong_dts = 0
    last_pts = last_dts = -math.inf
    first = last = None
    for frame in frames:
        pts, dts = frame.pts, frame.dts
        if pts is not None:
            wrong_pts, last_pts = wrong_pts + (pts <= last_pts), pts
        if dts is not None:
            wrong_dts, last_dts = wrong_dts + (dts <= last_dts), dts
        ticks = dts if pts is None or (wrong_pts > wrong_dts and dts is not None) else pts
        time = last + usual if first is not None else Fraction(0)
        if ticks is not None:
            time = ticks * tick
        first = time if first is None else first
        last = time if last is None else max(last, time)
        yield last - first, frame


def _on_a_clock(frames, interval, usual):
    """Of (time, frame) the one that is shown at each multiple of `interval`."""
    due, shown, skipped = Fraction(0), None, Fraction(0)
    for time, frame in frames:
        time -= skipped
        if shown is not None and time - shown[0] > MAX_HOLD:
            gap = time - shown[0] - usual
            skipped, time = skipped + gap, time - gap
        while shown is not None and due < time:
            yield due, shown[1]
            due += interval
        shown = time, frame
    while shown is not None and due < shown[0] + usual:
        yield due, shown[1]
        due += interval


def _pixels(frame):
    """The frame as it is to be shown."""
    array = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
    array = np.ascontiguousarray(array)
    array.flags.writeable = False  # a frame that is shown for long comes more than once
    return array
