"""Describe every frame of a folder of videos by a network trained on ImageNet.

    python -m data_tools.extract_percepts VIDEOS OUT --weights mobilenet_v2.safetensors --fps 10

VIDEOS has a folder per class (UCF-101, HMDB-51), or --list names every video and its class:

    set1/4_1_0.avi<TAB>handshake<TAB>1          the third column, a recording, may be left out

--groups finds the recording in a video's name instead: what a regular expression catches, such as
'v_(.*)_c' for UCF-101. Clips of one recording must never be in training and test at once.

OUT is in the layout of the authors' second release, and can be read by minilstm.data.read_percepts:

    features.h5      the array "features" (frames of all videos, numbers per frame), float16
    num_frames.txt   a line per video: its frames
    labels.txt       a line per video: its class, counted from 0 in classes.txt
    names.txt, classes.txt, groups.txt, sizes.txt (width and height in pixels)

Videos are done one after the other; one that is interrupted goes on where it was. A file that gives
no frames is left out, and said.

Slides: "Input at each timestep". Read next: minilstm/mobilenet.py, extract_flow.py.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from minilstm.backend import BACKENDS, use_backend
from minilstm.command import Parser, run_command
from minilstm.data import Clips, write_percepts
from minilstm.errors import ConfigError, DataError
from minilstm.files import write_file
from minilstm.mobilenet import MEAN, STD, prepare, read_mobilenet

try:
    from .video import VideoError, find_videos, library, read_frames
except ImportError:  # run as a file, not by -m
    from video import VideoError, find_videos, library, read_frames

CHUNK = {"numpy": 4, "cupy": 16}  # frames looked at together; see BAND in mobilenet.py
PARTS = "parts"  # the folder of the videos that are done, until all are


@dataclass(frozen=True)
class Video:
    """One video to be described."""

    path: Path
    name: str
    label: str
    group: str


def list_videos(root: Path, list_file: str | None, groups: str | None) -> list[Video]:
    """The videos below `root`, or those that the list names. Raises DataError, ConfigError."""
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of videos, got none: check the path")
    if list_file:
        rows = [_listed(line) for line in _lines(list_file)]
    else:
        paths = find_videos([root])
        rows = [(path.relative_to(root).as_posix(), path.parent.name, None) for path in paths]
    if not rows:
        raise DataError(f"{list_file or root}: expected videos, got none: check the path")
    twice = [name for name, count in Counter(row[0] for row in rows).items() if count > 1]
    if twice:
        raise DataError(f"{list_file}: expected every video once, got {twice[0]} again: remove it")
    try:
        pattern = re.compile(groups) if groups else None
    except re.error as error:
        raise ConfigError(f"expected a regular expression in --groups, got {error}") from error
    return [
        Video(root / name, name, label, _group(name, group, pattern)) for name, label, group in rows
    ]


def _lines(path):
    try:
        return [line for line in Path(path).read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a list of videos, got {error}") from error


def _listed(line):
    name, label, group, *rest = [*line.split("\t"), None, None][:4] if "\t" in line else [""] * 4
    if not name or not label or rest not in ([], [None]):
        raise DataError(
            f"expected NAME, CLASS and perhaps GROUP with tabs between them, got {line!r:.80}"
        )
    return name, label, group


def _group(name, group, pattern):
    if group is not None or pattern is None:
        return group or name
    match = pattern.search(name)
    if not match:
        raise ConfigError(
            f"expected --groups to find a recording in every name, got none in {name}: change it"
        )
    return "/".join(match.groups() or [match[0]])


# ------------------------------------------------------------------------ what describes a frame


def in_chunks(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Frames (height, width, 3) as arrays of at most CHUNK of them."""
    frames = iter(frames)
    while chunk := list(islice(frames, CHUNK[use_backend.name])):
        yield np.stack(chunk)


def mobilenet(weights: str) -> Callable[[np.ndarray], np.ndarray]:
    """Pictures uint8 (N, 224, 224, 3) -> percepts (N, 1280)."""
    return read_mobilenet(weights).percepts


def vgg16(weights: str) -> Callable[[np.ndarray], np.ndarray]:
    """Pictures -> (N, 4096), the paper's features: VGG-16's first full layer (fc6), rectified."""
    if use_backend.name != "numpy":
        raise ConfigError(
            f"expected --backend numpy for vgg16, which torch computes, got {use_backend.name}: "
            "leave it out, or take --network mobilenet"
        )
    torch, torchvision = library("torch"), library("torchvision")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    network = torchvision.models.vgg16(weights=None, init_weights=False).eval()
    try:
        network.load_state_dict(load_file(weights))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise DataError(
            f"{weights}: expected torchvision's weights of vgg16 as safetensors, got "
            f"{' '.join(str(error).split())[:100]}: make them by data_tools/convert_pth.py"
        ) from error

    @torch.inference_mode()
    def describe(pictures):
        x = (pictures.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
        x = network.features(torch.from_numpy(x).permute(0, 3, 1, 2))
        x = network.classifier[:2](torch.flatten(network.avgpool(x), 1))
        return x.numpy()

    return describe


NETWORKS = {"mobilenet": mobilenet, "vgg16": vgg16}


def settings_of(options) -> dict:
    """What decides the percepts of a frame, so that nobody mixes two kinds."""
    try:
        with open(options.weights or "", "rb") as file:
            weights = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"expected --weights FILE.safetensors, got {options.weights or 'none'}: make them by "
            "data_tools/convert_pth.py"
        ) from error
    return {"network": options.network, "view": options.view, "weights": weights}


def seeing(options) -> Callable[[Iterable[np.ndarray]], np.ndarray]:
    """What makes (T, D) of the frames of a video, by the network and the view of the options."""
    library("h5py")  # which is needed only in the end
    use_backend(options.backend)
    describe = NETWORKS[options.network](options.weights)

    def see(frames):
        chunks = in_chunks(frames)
        return np.concatenate([describe(prepare(x, options.view == "whole")) for x in chunks])

    return see


# ------------------------------------------------------------------------ all videos


def extract(
    videos: list[Video],
    out: Path,
    settings: dict,
    see: Callable[[Iterable[np.ndarray]], np.ndarray],
    fps: float | None,
) -> None:
    """Write the percept folder `out` of `videos`; `see` makes (T, D) of the frames of one.

    Goes on where an extraction with the same settings stopped. Raises ConfigError for other
    settings, or where the folder is finished; DataError where no video gives frames.
    """
    from tqdm import tqdm

    parts, about = out / PARTS, out / PARTS / "settings.json"
    settings = settings | {"fps": fps, "videos": [video.name for video in videos]}
    if (out / "features.h5").exists():
        shutil.rmtree(parts, ignore_errors=True)
        raise ConfigError(f"{out}: expected a new folder, got one that is finished: choose another")
    parts.mkdir(parents=True, exist_ok=True)
    if any(parts.glob("*.npz")) and json.loads(about.read_text("utf-8")) != settings:
        raise ConfigError(
            f"{out}: expected the settings with which it was begun, got others: repeat those (see "
            f"{about}), or choose another folder"
        )
    write_file(about, json.dumps(settings, indent=1))
    reasons, done = Counter(), []
    for n, video in enumerate(tqdm(videos, unit="video", dynamic_ncols=True)):
        part = parts / f"{n:06}.npz"
        if not part.exists():
            remarks = []
            try:
                percepts, size = _described(read_frames(video.path, fps, remarks), see)
            except VideoError as error:
                reasons[error.reason] += 1
                tqdm.write(f"left out: {error}", file=sys.stderr)
                continue
            for remark in remarks:
                tqdm.write(f"note: {remark}", file=sys.stderr)
            file = io.BytesIO()
            np.savez(file, percepts=percepts, size=size)
            write_file(part, file.getvalue())
        done.append((video, part))
    if not done:
        raise DataError(f"{out}: expected videos that give frames, got none of {len(videos)}")
    write_percepts(out, _assembled(done))
    shutil.rmtree(parts)
    counted = "".join(f"; left out, {reason}: {count}" for reason, count in reasons.items())
    print(f"{out}: {len(done)} of {len(videos)} videos{counted}")


def _described(frames, see):
    size = None

    def watched():
        nonlocal size
        for frame in frames:
            size = frame.shape[1::-1]
            yield frame

    percepts = see(watched())
    return percepts.astype(np.float16), size


def _assembled(done):
    """The clips of all videos that are done."""
    parts = []
    for _, part in done:
        with open(part, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            parts.append((arrays["percepts"], arrays["size"]))
    videos = [video for video, _ in done]
    classes = sorted({video.label for video in videos})
    groups = list(dict.fromkeys(video.group for video in videos))
    return Clips(
        np.concatenate([percepts for percepts, _ in parts]),
        np.array([len(percepts) for percepts, _ in parts]),
        np.array([classes.index(video.label) for video in videos]),
        tuple(classes),
        np.array([groups.index(video.group) for video in videos]),
        np.array([size for _, size in parts]),
        tuple(video.name for video in videos),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What both extractions take."""
    parser.add_argument("videos", metavar="VIDEOS", help="a folder of videos")
    parser.add_argument("out", metavar="OUT", help="the folder to write")
    parser.add_argument("--list", metavar="FILE", help="videos, classes and recordings, with tabs")
    parser.add_argument("--groups", metavar="REGEX", help="what catches the recording in a name")
    parser.add_argument("--fps", type=float, help="frames per second (default: all of the video)")
    parser.add_argument("--weights", metavar="FILE", help="of the network, as safetensors")
    parser.add_argument(
        "--network",
        choices=tuple(NETWORKS),
        default="mobilenet",
        help="mobilenet: 1280 numbers per frame; vgg16: the paper's 4096, needs torchvision",
    )
    parser.add_argument(
        "--view",
        choices=("middle", "whole"),
        default="middle",
        help="of a frame that is no square: its middle, undistorted, or all of it, squeezed",
    )
    parser.add_argument(
        "--backend", default="numpy", choices=BACKENDS, help="array library of mobilenet"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m data_tools.extract_percepts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    options = parser.parse_args(arguments)
    videos = list_videos(Path(options.videos), options.list, options.groups)
    extract(videos, Path(options.out), settings_of(options), seeing(options), options.fps)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
