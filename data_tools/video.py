"""Read the frames of video files. The extract_ commands, learn_video and inspect_file use it.

    for frame in read_frames("walk.avi", fps=10):    # uint8 (height, width, 3), as it is shown
        ...

Every file gives frames, or raises a `VideoError` with one of the `REASONS`. Damaged frames are left
out; one line in `remarks` says how many. PyAV decodes in one thread, so that the same file always
gives the same bytes.

Read next: extract_patches.py.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import sys
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np

from minilstm.data.fingerprint import fingerprint
from minilstm.errors import ConfigError, DataError, MinilstmError, number_of, one_line

SUFFIXES = frozenset(
    ".264 .265 .3g2 .3gp .asf .avi .divx .dv .f4v .flv .gif .h264 .h265 .hevc .ivf .m1v .m2t .m2ts "
    ".m2v .m4v .mj2 .mkv .mov .mp4 .mpeg .mpg .mts .mxf .nut .ogm .ogv .qt .rm .rmvb .ts .vob "
    ".webm .wmv .y4m".split()
)
# The containers that are opened, by libav's names. Those of sound are among them, so that the
# refusal can say that there is no picture. Playlists are not: libav would open the files they name.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegts,mpegvideo,asf,flv,ogg,gif,h264,hevc,"
    "m4v,ivf,yuv4mpegpipe,nut,mxf,dv,rm,mp3,wav,flac,aac,aiff,au,amr"
)
REASONS = {  # each with what to do
    "no file": "check the path",  # also a folder, a pipe, a device
    "empty": "copy or download it again",
    "not a video": "copy or download it again, if it was one",
    "no video stream": "choose a file with pictures in it",
    "unknown codec": "convert it to H.264 in an .mp4",
    "unknown colours": "convert it to H.264 in an .mp4, with BT.709 colours",
    "too large": "scale it down",
    "too narrow": "crop it",
    "name too long": "rename it",
    "no frames": "copy or download it again",
    "too short": "ask for fewer frames",  # these three are of extract_patches
    "too small": "ask for smaller patches",
    "no motion": "ask for less",
}
# The lowest versions that work; pyproject.toml has the same.
LEAST = {"av": ((17, 1), "older ones get the colours of HD video wrong, or crash")}
MAX_PIXELS = 2**26  # of a frame: 200 MB as bytes, and eight times a frame of 4K
USUAL_RATE = 25  # frames per second of a file that names none
TIMED_PACKETS = 10_000  # of a stream, whose times give its frame rate
MAX_RATIO = 32  # of a frame's sides, where the shorter one is scaled up to 256 pixels
# The clock jumps where recordings were joined. A longer gap between two frames than the first of
# these, or a longer step back than the second, both in seconds, is such a jump, and is closed.
PAUSES = 3600, 0.5
BROADCAST = 10, 0.1  # in containers whose clock often jumps (.ts, .mpg): ffmpeg's own limits
SLACK = 0.1  # a file may end so long before the end that it claims


class VideoError(DataError):
    """A file that gives no frames. `reason` is one of REASONS, to count by."""

    def __init__(self, path: Path, reason: str, found: str):
        super().__init__(f"{path}: expected a video, got {reason} ({found}): {REASONS[reason]}")
        self.reason = reason


def library(name: str):
    """Import an optional library. Raises MinilstmError, with the command that installs it."""
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise MinilstmError(
            f"expected the library {name}, got {error}: pip install -e '.[video]'"
        ) from error
    least, why = LEAST.get(name, ((), ""))
    if least and tuple(map(int, module.__version__.split(".")[:2])) < least:
        raise MinilstmError(
            f"expected {name} {'.'.join(map(str, least))} or newer, got {module.__version__} "
            f"({why}): pip install --upgrade -e '.[video]'"
        )
    return module


def find_videos(paths: Iterable[str | Path]) -> list[Path]:
    """Return the video files that `paths` name, each once, in the order of their names.

    A folder stands for the files below it that have one of the SUFFIXES. Links to folders are not
    followed. A file that is named itself is taken whatever its suffix. Of links to one file, or
    copies of it, only the first is taken, and stderr names the others. Raises DataError for a path
    that is not there.
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
            raise DataError(
                f"{path}: expected a video or a folder of videos, got nothing there: check the path"
            )
    videos = sorted(found)
    twice = repeated(videos)
    for path, what in twice.items():
        print(f"left out: {path}, {what}", file=sys.stderr)
    return [path for path in videos if path not in twice]


def repeated(paths: Iterable[Path]) -> dict[Path, str]:
    """Find links and copies: {path: "another name of FIRST" or "a copy of FIRST"}.

    FIRST is the first of `paths` that is the same file, or has the same bytes. Only files of equal
    size are read (fingerprint.py).
    """
    names, sizes, found = {}, {}, {}
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:  # a broken link, for instance; reading it gives the reason
            continue
        same = names.setdefault((status.st_dev, status.st_ino), path)
        if same != path:
            found[path] = f"another name of {same}"
        elif status.st_size and os.path.isfile(path):
            sizes.setdefault(status.st_size, []).append(path)
    for alike in sizes.values():
        first = {}
        for path in alike if len(alike) > 1 else ():
            with contextlib.suppress(DataError):  # unreadable; reading it gives the reason
                same = first.setdefault(fingerprint(path), path)
                if same != path:
                    found[path] = f"a copy of {same}"
    return found


def read_frames(
    path: str | Path, fps: float | None = None, remarks: list[str] | None = None
) -> Iterator[np.ndarray]:
    """Yield the frames of a video in the order of time: read-only uint8 (height, width, 3), RGB.

    Without `fps` every frame comes once. With `fps` (frames per second) the frames are those on the
    screen at 0, 1/fps, 2/fps, ... seconds, so that videos of different or varying rates run alike.
    A frame is on the screen until the next one; the last one for its own duration. The file's
    display matrix is applied: quarter turns and mirror images. Pixels count as square.

    Damaged frames are left out, and so are those after them up to the next key frame, since they
    refer to damaged ones. `remarks` gets a line about that, and about a clock that jumps. Raises
    VideoError, MinilstmError without PyAV, ConfigError for `fps`.
    """
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise ConfigError(f"expected fps > 0, got {fps}: choose one, such as 10")
    remarks = [] if remarks is None else remarks
    av, path = library("av"), Path(path)
    with _open(av, path) as container:
        stream = _picture_stream(av, path, container)
        usual = 1 / Fraction(stream.average_rate or stream.guessed_rate or USUAL_RATE)
        frames = _decoded(path, container, stream, remarks)
        if fps is not None:
            jumps = container.format.flags & av.format.Flags.ts_discont.value
            limits = BROADCAST if jumps else PAUSES
            frames = _timed(path, frames, stream.time_base, usual, limits, remarks)
            frames = _on_a_clock(frames, 1 / Fraction(fps).limit_denominator(10**6))
        matrix = last = array = None
        for frame in frames:
            if frame is not last:
                matrix = _display_matrix(frame) if matrix is None else matrix
                last, array = frame, _pixels(path, frame, matrix)
            yield array


def frame_rate(path: str | Path) -> float:
    """Return the mean number of frames per second.

    It is the number that the file states, or a smaller one where the file has fewer frames: a
    recorder that missed nine frames of ten still states its full rate in an .avi. Raises VideoError
    for the same reasons as `read_frames`.
    """
    av, path = library("av"), Path(path)
    with _open(av, path) as container:
        stream = _picture_stream(av, path, container)
        stated = float(stream.average_rate or stream.guessed_rate or USUAL_RATE)
        times = []  # of the frames, in ticks
        with contextlib.suppress(Exception):  # damage: libav's errors are of a dozen families
            for packet in islice(container.demux(stream), TIMED_PACKETS):
                if packet.size and packet.pts is not None:
                    times.append(packet.pts)
        gaps = np.diff(np.unique(times)) * float(stream.time_base)
    if not len(gaps):
        return stated
    gaps = np.minimum(gaps, 10 * np.median(gaps))  # a longer one is a jump of the clock
    found = (len(gaps) + 1) / (gaps.sum() + 1 / stated)
    return found if found < 0.9 * stated else stated


def not_too_narrow(path: Path, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the frames. Raises VideoError if one side is more than MAX_RATIO times the other."""
    for frame in frames:
        height, width = frame.shape[:2]
        if max(height, width) > MAX_RATIO * min(height, width):
            raise VideoError(path, "too narrow", f"{width}x{height} pixels")
        yield frame


def _open(av, path):
    """Open the container."""
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
    """Return the first stream of moving pictures, ready to be decoded."""
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


def _decoded(path, container, stream, remarks):
    """Yield the frames that decode, all of one size. Adds a remark about the others."""
    used = lost = before = 0  # before: the frames before the first damage
    why, shape, reached = "", None, [0]
    for frames, damaged, reason in _by_packet(container, stream, reached):
        for frame in frames:
            size = frame.width, frame.height
            if shape is None and size[0] * size[1] > MAX_PIXELS:
                raise VideoError(path, "too large", f"{size[0]}x{size[1]} pixels")
            shape = shape or size
            if size != shape:
                lost, why = lost + 1, why or f"it has frames of {size[0]}x{size[1]} pixels"
            else:
                used, before = used + 1, before + (not lost)
                yield frame
        lost, why = lost + damaged, why or reason
    if not used:
        raise VideoError(path, "no frames", why or "none that can be decoded")
    said = []
    if lost:
        after = f" after {number_of(before, 'frame')}" if before else ""
        said.append(f"{why}{after}; {number_of(lost, 'frame')} left out, {used} used")
    end = ((container.duration or 0) + (container.start_time or 0)) / 1e6
    missing = end - float(reached[0])
    if missing > SLACK:
        said.append(f"its last {missing:.1f} s are missing after {number_of(used, 'frame')}")
    if said:
        remarks.append(f"{path}: {'; '.join(said)}")


def _by_packet(container, stream, reached):
    """Yield (frames, damaged, reason) of each packet: how many frames it cost, and why.

    Decoding begins at a key frame. After damage the decoder starts anew at the next one, because
    the frames between refer to what was lost. reached[0] becomes the end of the last packet, in
    seconds.
    """
    codec, packets = stream.codec_context, container.demux()
    waiting, reason = True, "it does not begin with a key frame"
    while True:
        try:
            packet = next(packets, None)
        except Exception as error:  # libav's errors are of a dozen families
            yield _held(codec), 1, f"libav met {one_line(error)!r}"
            return
        if packet is None:
            return
        if packet.pts is not None and not packet.is_corrupt:
            end = (packet.pts + (packet.duration or 0)) * packet.stream.time_base
            reached[0] = max(reached[0], end)
        if packet.stream is not stream:
            continue
        if packet.is_corrupt:
            yield _held(codec), 1, "it is damaged or cut short"
            waiting = True
            continue
        # a packet of no bytes asks for the frames that the decoder still holds
        skipped = waiting and not (packet.is_keyframe or packet.size == 0)
        if skipped and codec.name != "h264":  # h264 itself holds back what it can't decode fully
            yield [], 1, reason
            continue
        try:
            frames = packet.decode()
            whole = [frame for frame in frames if not frame.is_corrupt]
            damaged, found = len(frames) - len(whole), "a frame is damaged"
        except Exception as error:
            whole, damaged, found = [], 1, f"libav met {one_line(error)!r}"
        if damaged:
            damaged, reason = damaged + len(_held(codec)), found
        yield whole, damaged or int(skipped), reason if damaged or skipped else ""
        waiting = skipped or damaged > 0


def _held(codec):
    """Take the frames that the decoder still holds, and empty it."""
    try:
        return [frame for frame in codec.decode(None) if not frame.is_corrupt]
    except Exception:
        return []
    finally:
        codec.flush_buffers()


def _timed(path, frames, tick, usual, limits, remarks):
    """Yield (time, duration, frame): seconds from the first frame on, never falling.

    Some files have wrong presentation times, some wrong decoding times, some none. As libav's own
    player does, believe those that went wrong less often so far; without any, count. A jump of the
    clock is closed, and a remark says so.
    """
    wrong_pts = wrong_dts = jumps = shift = 0
    last_pts = last_dts = -math.inf
    first = last = None
    longest, back = limits
    for frame in frames:
        pts, dts = frame.pts, frame.dts
        if pts is not None:
            wrong_pts, last_pts = wrong_pts + (pts <= last_pts), pts
        if dts is not None:
            wrong_dts, last_dts = wrong_dts + (dts <= last_dts), dts
        ticks = dts if pts is None or (wrong_pts > wrong_dts and dts is not None) else pts
        time = last + usual if last is not None else Fraction(0)
        if ticks is not None:
            time = ticks * tick + shift
        if last is None:
            first = last = time
        if not -back <= time - last <= longest:
            shift += last + usual - time
            time, jumps = last + usual, jumps + 1
        last = max(last, time)
        duration = (frame.duration or 0) * tick
        yield last - first, duration if 0 < duration <= longest else usual, frame
    if jumps:
        remarks.append(
            f"{path}: its clock jumps {number_of(jumps, 'time')}; the frames go on without a gap"
        )


def _on_a_clock(frames, interval):
    """Yield the frame on the screen at each multiple of `interval`.

    `frames` yields (time, duration, frame).
    """
    due, shown, end = Fraction(0), None, 0
    for time, duration, frame in frames:
        while shown is not None and due < time:
            yield shown
            due += interval
        shown, end = frame, time + duration
    while shown is not None and due < end:
        yield shown
        due += interval


def _display_matrix(frame):
    """Return ((a, b), (c, d)): pixel (x, y) is to be shown at (a x + c y, b x + d y).

    The format: nine 32-bit integers a, b, u, c, d, v, ... of the machine's own byte order.
    """
    found = frame.side_data.get("DISPLAYMATRIX")
    numbers = np.frombuffer(bytes(found), np.int32) if found is not None else ()
    if len(numbers) < 5:
        return (1, 0), (0, 1)
    a, b, _, c, d = numbers[:5].tolist()
    return (a, b), (c, d)


def _pixels(path, frame, matrix):
    """Return the frame's pixels as they are to be shown, by the nearest of the eight symmetries."""
    try:
        array = frame.to_ndarray(format="rgb24")
    except Exception as error:  # libav's errors are of a dozen families
        kind = f"{frame.format.name}, colour space {frame.colorspace}"
        raise VideoError(path, "unknown colours", f"{kind}: {one_line(error)}") from error
    (a, b), (c, d) = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):
        array, across, down = array.swapaxes(0, 1), c, b
    else:
        across, down = a, d
    array = np.ascontiguousarray(array[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1])
    array.flags.writeable = False  # a frame that is shown for long comes more than once
    return array
