"""Describe every frame of a folder of videos by a network trained on ImageNet.

    python -m data_tools.extract_percepts VIDEOS OUT --weights mobilenet_v2.safetensors --fps 10

A video's class is the name of the folder it lies in (as in UCF-101 and HMDB-51), or --list names
every video and its class, with tabs between:

    set1/4_1_0.avi<TAB>handshake<TAB>1          the third column, a recording, is optional

--groups finds the recording in a video's name: the part that a regular expression catches, such as
'v_(.*)_c' for UCF-101. A recording in the list takes precedence, unless it is empty. Clips of one
recording must never be in training and test at once.

OUT gets the layout of the authors' second release. minilstm.data.read_percepts reads it:

    features.h5      the array "features" (frames of all videos, numbers per frame), float16
    num_frames.txt   a line per video: its number of frames
    labels.txt       a line per video: its class, counted from 0 in classes.txt
    names.txt, classes.txt, groups.txt, sizes.txt (width and height in pixels)

A file that gives no frames is left out, with the reason. An interrupted extraction resumes
(resumable.py).

Slides: "Input at each timestep". Read next: minilstm/data/mobilenet.py, extract_flow.py.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path, PurePosixPath

import numpy as np

from minilstm.backend import BACKENDS, current_backend, use_backend
from minilstm.command import Parser, run_command
from minilstm.data import Clips, write_percepts
from minilstm.data.clips import check_classes
from minilstm.data.mobilenet import MEAN, STD, prepare, read_mobilenet
from minilstm.errors import ConfigError, DataError, number_of, one_line
from minilstm.files import path_of, remove_temporaries, text_of

from .options import add_fps
from .resumable import ABOUT, as_they_are, of_videos, parts_of, read_part
from .video import find_videos, library, not_too_narrow, read_frames, repeated

FILES = (
    "features.h5", "num_frames.txt", "labels.txt", "names.txt", "classes.txt", "groups.txt",
    "sizes.txt",
)  # fmt: skip
CHUNK = {"numpy": 4, "cupy": 16}  # frames described together; see BAND in mobilenet.py


@dataclass(frozen=True)
class Video:
    """One video to be described."""

    path: Path
    name: str
    label: str
    group: str


def list_videos(root: Path, list_file: str | None, groups: str | None) -> list[Video]:
    """Return the videos below `root`, or those that `list_file` names.

    `groups` is the regular expression of --groups. Raises DataError for a folder, list or name that
    can't be used, ConfigError for an expression that can't.
    """
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of videos, got none: check the path")
    if list_file:
        rows = [_listed(line, list_file) for line in _lines(list_file)]
        paths = [root / path_of(name) for name, *_ in rows]
    else:
        paths = find_videos([root])
        rows = [
            (text_of(path.relative_to(root).as_posix()), text_of(path.absolute().parent.name), None)
            for path in paths
        ]
    if not rows:
        raise DataError(f"{list_file or root}: expected videos, got none: check the path")
    twice = [name for name, count in Counter(row[0] for row in rows).items() if count > 1]
    if twice:
        raise DataError(f"{list_file}: expected every video once, got {twice[0]} again: remove it")
    for name, *_ in rows:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or name.splitlines() != [name]:
            raise DataError(
                f"expected names below {root}, each a line of text, got {name!r:.200}: rename it"
            )
    for path, what in repeated(paths).items():
        raise DataError(
            f"{list_file}: expected every video once, got {path}, {what}: remove one of the two"
        )
    check_classes({row[1] for row in rows})
    try:
        pattern = re.compile(groups) if groups is not None else None
    except re.error as error:
        raise ConfigError(
            f"expected a regular expression in --groups, got {groups!r} ({error}): change it"
        ) from error
    return [
        Video(path, name, label, _group(name, group, pattern))
        for path, (name, label, group) in zip(paths, rows, strict=True)
    ]


def _lines(path):
    try:
        return [line for line in Path(path).read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: expected a list of videos in UTF-8, got {one_line(error)}: check the path, "
            "or save it as UTF-8"
        ) from error


def _listed(line, path):
    """Return (name, class, recording) of a line. Without a recording it is None or empty."""
    name, *words = line.split("\t")
    words = [word.strip() for word in words]  # an editor leaves spaces that nobody sees
    if len(words) not in (1, 2) or not name or not words[0]:
        raise DataError(
            f"{path}: expected NAME, CLASS and perhaps GROUP with tabs between them, got "
            f"{line!r:.80}: mend that line"
        )
    return tuple([name, *words, None][:3])


def _group(name, group, pattern):
    if group or pattern is None:
        return group or name
    match = pattern.search(name)
    if not match:
        raise ConfigError(
            f"expected --groups to find a recording in every name, got none in {name}: change it"
        )
    return "/".join(filter(None, match.groups())) or match[0]


# ------------------------------------------------------------------------ describing frames


def in_chunks(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield arrays (N, height, width, 3) of successive frames, N at most CHUNK."""
    frames = iter(frames)
    while chunk := list(islice(frames, CHUNK[current_backend().name])):
        yield np.stack(chunk)


def mobilenet(weights: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from pictures uint8 (N, 224, 224, 3) to percepts float32 (N, 1280)."""
    return read_mobilenet(weights).percepts


def vgg16(weights: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from pictures uint8 (N, 224, 224, 3) to the paper's features (N, 4096).

    They are the outputs of VGG-16's first fully connected layer (fc6), rectified. Raises
    ConfigError on CuPy, MinilstmError without torchvision, DataError for other weights.
    """
    if current_backend().name != "numpy":
        raise ConfigError(
            "expected --backend numpy for vgg16, which torch computes, got cupy: leave it out, or "
            "take --network mobilenet"
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
            f"{one_line(error)}: make them by python -m data_tools.convert_pth"
        ) from error

    @torch.inference_mode()
    def describe(pictures):
        x = (pictures.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
        x = network.features(torch.from_numpy(x).permute(0, 3, 1, 2))
        x = network.classifier[:2](torch.flatten(network.avgpool(x), 1))
        return x.numpy()

    return describe


NETWORKS = {"mobilenet": mobilenet, "vgg16": vgg16}


def of_network(options) -> dict:
    """Return the settings that decide a frame's percepts. Raises DataError without weights."""
    try:
        with open(options.weights or "", "rb") as file:
            weights = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"expected --weights FILE.safetensors, got {options.weights or 'none'}: make them by "
            "python -m data_tools.convert_pth"
        ) from error
    return {
        "network": options.network,
        "view": options.view,
        "weights": weights,
        "backend": options.backend,  # backends differ in the last bits
    }


def seeing(options) -> Callable[[Iterable[np.ndarray]], np.ndarray]:
    """Return a function from the frames of a video to its percepts (T, D).

    Network, weights and view are those of the options. Raises what the network raises.
    """
    library("h5py")  # needed only at the end: fail now rather than then
    describe = NETWORKS[options.network](options.weights)

    def see(frames):
        chunks = in_chunks(frames)
        return np.concatenate([describe(prepare(x, options.view == "whole")) for x in chunks])

    return see


# ------------------------------------------------------------------------ all videos in turn


def extract(
    videos: list[Video],
    out: Path,
    settings: dict,
    see: Callable[[Iterable[np.ndarray]], np.ndarray],
    fps: float | None,
) -> None:
    """Write the percept folder `out` of `videos`; `see` makes (T, D) of the frames of one video.

    Resumes an extraction with the same settings. Raises RunError if one with other settings was
    begun there, ConfigError if the folder is finished or has other files of these names, DataError
    if no video gives frames.
    """
    expect_new(out)
    settings = settings | {"fps": fps, "videos": as_they_are(video.path for video in videos)}

    def described(n, remarks):
        path = videos[n].path
        frames = not_too_narrow(path, read_frames(path, fps, remarks))
        first = next(frames)
        percepts = see(chain([first], frames)).astype(np.float16)
        return {"percepts": percepts, "size": np.array(first.shape[1::-1])}

    with parts_of(out / "parts", settings) as parts:
        remove_temporaries(out)  # an extraction that was killed at its end has left some
        names = [f"{n:06}.npz" for n in range(len(videos))]
        made, left_out = of_videos(parts, names, described)
        if not made:
            raise DataError(f"{out}: expected videos that give frames, got none of {len(videos)}")
        write_percepts(out, _assembled([videos[n] for n in made], made.values()))
        parts.remove()
    print(f"{out}: {len(made)} of {number_of(len(videos), 'video')}{left_out}")


def expect_new(out: Path) -> None:
    """Raise ConfigError if `extract` would overwrite a file that no interrupted extraction left."""
    there = [name for name in FILES if os.path.lexists(out / name)]
    if not there:
        return
    begun = (out / "parts" / ABOUT).exists()  # a killed extraction may have written all files
    if "features.h5" in there and begun:
        shutil.rmtree(out / "parts", ignore_errors=True)
    if "features.h5" in there or not begun:
        raise ConfigError(
            f"{out}: expected a new folder, got one with {there[0]} in it: choose another"
        )


def _assembled(videos, parts):
    """Return the clips of all videos that gave a part."""
    found = [read_part(part) for part in parts]
    classes = sorted({video.label for video in videos})
    groups = list(dict.fromkeys(video.group for video in videos))
    return Clips(
        np.concatenate([part["percepts"] for part in found]),
        np.array([len(part["percepts"]) for part in found]),
        np.array([classes.index(video.label) for video in videos]),
        tuple(classes),
        np.array([groups.index(video.group) for video in videos]),
        np.array([part["size"] for part in found]),
        tuple(video.name for video in videos),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that both extractions have."""
    parser.add_argument("videos", metavar="VIDEOS", help="a folder of videos")
    parser.add_argument("out", metavar="OUT", help="the folder to write")
    parser.add_argument(
        "--list", metavar="FILE", help="a list: video, class, recording, tabs between"
    )
    parser.add_argument("--groups", metavar="REGEX", help="catches the recording in a name")
    add_fps(parser)
    parser.add_argument("--weights", metavar="FILE", help="the network's weights, safetensors")
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
        help="of a frame that is not square, see its middle undistorted, or all of it squeezed",
    )
    parser.add_argument(
        "--backend", default="numpy", choices=BACKENDS, help="array library for mobilenet"
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
    with use_backend(options.backend):
        extract(videos, Path(options.out), of_network(options), seeing(options), options.fps)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
