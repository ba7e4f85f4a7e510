"""Compute dense optical flow of a folder of videos: as pictures, or as percepts of those pictures.

    python -m data_tools.extract_flow VIDEOS OUT --fps 10
    python -m data_tools.extract_flow VIDEOS OUT --fps 10 --weights mobilenet_v2.safetensors

Flow is the distance by which each pixel moves from one frame to the next, in pixels. It shows the
action, and hides how things look. Frames are first scaled to 256 pixels on the shorter side. A
picture of flow has three channels of bytes. Two are x and y: 128 is rest, and 1 and 255 are --clip
pixels to the left or right, up or down. The third is the length of (x, y): 255 is --clip pixels.
Faster motion is clipped to that.

Without --weights, OUT gets OUT/NAME.npy for every video, uint8 (frames, height, width, 3), and
settings.json. A second start makes the files that are missing (resumable.py). A picture takes 0.2
to 0.6 MB on the disk.

With --weights, OUT becomes a folder of percepts, as extract_percepts.py writes it: the paper's
"1-frame flow" features, by a network that was trained on photographs, not on flow.

The last frame has no next one and gets the flow of the one before. So there are as many pictures as
frames, and RGB and flow can be joined frame by frame.

Paper: Table 1 (1-frame flow) and Table 4. Read next: extract_percepts.py.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from minilstm.backend import use_backend
from minilstm.command import Parser, at_least, run_command
from minilstm.errors import DataError, number_of
from minilstm.files import MAX_NAME_BYTES, path_of

from .extract_percepts import Video, add_arguments, extract, list_videos, of_network, seeing
from .resumable import as_they_are, of_videos, parts_of
from .video import VideoError, library, not_too_narrow, read_frames

SHORT_SIDE = 256


def estimator(method: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return a function from two grey pictures uint8 (height, width) to their flow.

    `method` is "dis" or "farneback". Flow is float32 (height, width, 2), in pixels. Raises
    MinilstmError without OpenCV.
    """
    cv2 = library("cv2")
    cv2.setNumThreads(1)  # the same bytes every time
    if method == "dis":
        dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        return lambda before, after: dis.calc(before, after, None)
    return lambda before, after: cv2.calcOpticalFlowFarneback(
        before, after, None, 0.5, 4, 15, 3, 5, 1.2, 0
    )


def as_picture(flow: np.ndarray, clip: float) -> np.ndarray:
    """Convert flow (height, width, 2), in pixels, to a picture uint8 (height, width, 3).

    Its channels are x, y and the length of (x, y), clipped at `clip` pixels.
    """
    xy = 128 + np.clip(flow * (127 / clip), -127, 127)
    length = np.hypot(flow[..., 0], flow[..., 1]) * (255 / clip)
    return np.rint(np.dstack([xy, np.minimum(length, 255)])).astype(np.uint8)


def flow_pictures(
    frames: Iterable[np.ndarray], flow_of: Callable, clip: float
) -> Iterator[np.ndarray]:
    """Yield a picture of flow (see `as_picture`) for each frame uint8 (height, width, 3)."""
    cv2 = library("cv2")
    before = picture = None
    for frame in frames:
        height, width = frame.shape[:2]
        scale = SHORT_SIDE / min(height, width)
        size = round(width * scale), round(height * scale)
        grey = cv2.cvtColor(cv2.resize(frame, size), cv2.COLOR_RGB2GRAY)
        if before is not None:
            picture = as_picture(flow_of(before, grey), clip)
            yield picture
        before = grey
    if before is not None:  # a single frame rests
        yield as_picture(np.zeros((*before.shape, 2)), clip) if picture is None else picture


def write_pictures(
    videos: list[Video], out: Path, settings: dict, pictures_of: Callable, fps: float | None
) -> None:
    """Write OUT/NAME.npy for every video. Existing files are left alone.

    `pictures_of` makes the pictures of the frames of one video. Raises RunError for other
    `settings` than those of the existing files, DataError if no video gives frames.
    """
    settings = settings | {"fps": fps, "videos": as_they_are(video.path for video in videos)}
    names = [f"{path_of(video.name)}.npy" for video in videos]

    def pictures(n, remarks):
        path, name = videos[n].path, os.path.basename(names[n])
        if len(os.fsencode(name)) > MAX_NAME_BYTES:
            raise VideoError(path, "name too long", f"{len(os.fsencode(name))} bytes with .npy")
        return pictures_of(not_too_narrow(path, read_frames(path, fps, remarks)))

    with parts_of(out, settings) as parts:
        made, left_out = of_videos(parts, names, pictures)
        if not made:
            raise DataError(f"{out}: expected videos that give frames, got none of {len(videos)}")
    print(f"{out}: {len(made)} of {number_of(len(videos), 'video')}{left_out}")


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m data_tools.extract_flow",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.add_argument(
        "--method", choices=("dis", "farneback"), default="dis", help="dis is faster (default: dis)"
    )
    parser.add_argument(
        "--clip",
        type=at_least(float, 0.001),
        default=20.0,
        metavar="PIXELS",
        help="the fastest motion that is not clipped, in pixels per frame (default: 20)",
    )
    options = parser.parse_args(arguments)
    parser.expect_effect(
        [("--network --view --backend", options.weights is not None, "--weights FILE")]
    )
    videos, out = list_videos(Path(options.videos), options.list, options.groups), Path(options.out)
    flow_of = estimator(options.method)

    def pictures_of(frames):
        return flow_pictures(frames, flow_of, options.clip)

    flow = {"flow": options.method, "clip": options.clip}
    if not options.weights:
        write_pictures(videos, out, flow, pictures_of, options.fps)
        return 0
    settings = of_network(options) | flow
    with use_backend(options.backend):
        see = seeing(options)
        extract(videos, out, settings, lambda frames: see(pictures_of(frames)), options.fps)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
