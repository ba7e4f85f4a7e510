"""Cut patches of natural video: short, small, and in motion.

    python -m data_tools.extract_patches VIDEO_OR_FOLDER ... --out patches.npz
    python -m minilstm.train patches --path patches.npz

Each video is cut into shots. Each shot is cut into segments of 29 frames (16 to see, 13 to
predict), and each segment into a grid of 32x32 pixels at a random place. No two patches of one
scale share a pixel. Of the patches with enough motion `--per-video` are drawn at random.

    motion    the median over the 28 steps of the mean change of a pixel's colours, in grey levels
              of 0 to 255. A single jump does not move the median. Camera noise is about 1 or 2.
    a shot    ends where the picture, averaged down to 16x16 pixels, changes by more than 12 grey
              levels on average and by more than 2.5 times as much as just before. Fades are not
              detected.

The file holds, for N patches: `patches` uint8 (N, T, 32, 32, 3); their origin, `source` (the
video), `start` (its first frame), `corner` (row, column) and `side` (the shorter side of the video
at that scale, in pixels); and `groups`, by which minilstm/data/patches.py splits them.

About a tenth of the segments is held out for validation and a tenth for the test. Only segments
with a patch in motion count.

    a video of 10 segments or more   its last segments in time are held out
    shorter videos                   whole videos are held out, spread evenly over their order
    too few of them for that         the shorter videos are joined in their order, and the last
                                     segments are held out

At most a third of the segments of shorter videos is held out. So nothing is held out of fewer than
six. The command prints the share that was held out. A file without held-out segments can be used
for a test, but not for training.

No frame that is held out is trained on, but scenes may be the same. To test on other scenes, make a
file of other videos and give it to `python -m minilstm.evaluate RUN --data FILE`.

An interrupted extraction resumes (resumable.py).

Source: paper, "Experiments on Natural Image Patches". Read next: minilstm/data/patches.py.
"""

from __future__ import annotations

import argparse
import heapq
import sys
from pathlib import Path

import numpy as np

from minilstm.command import Parser, at_least, run_command
from minilstm.data.rng import Purpose, keyed_rng
from minilstm.errors import ConfigError, DataError, number_of
from minilstm.files import replacing, text_of

from .options import add_file, add_fps, add_numbers, new_file, settings_of
from .resumable import as_they_are, of_videos, parts_of, read_part, unfinished
from .video import VideoError, find_videos, read_frames

SIZE, T = 32, 29
ARRAYS = ("patches", "start", "side", "corner")
LONG = 10  # segments of a video that can be split by time: a tenth of them is one
TENTHS = {0: 8, 8: 1, 9: 1}  # of the segments: 0 is training, 8 is test, 9 is validation
FORMAT = 2  # of the parts; parts of another format are not continued
THUMBNAIL, CUT, CUT_FACTOR = 16, 12, 2.5


def shots(frames):
    """Yield (number, frame), and None after the last frame of every shot."""
    before = usual = None
    for number, frame in enumerate(frames):
        small = resized(frame, THUMBNAIL, THUMBNAIL).astype(np.int16)
        if before is not None:
            change = np.abs(small - before).mean()
            if usual is None:  # the first step of a shot shows how fast it is
                usual = change
            elif change > max(CUT, CUT_FACTOR * usual):
                yield None
                usual = None
            else:
                usual = (usual + change) / 2
        before = small
        yield number, frame
    yield None


def segments(frames, length):
    """Yield (number of the first frame, list of `length` frames): segments that lie in one shot."""
    piece = []
    for item in shots(frames):
        piece = [] if item is None else [*piece, item]
        if len(piece) == length:
            yield piece[0][0], [frame for _, frame in piece]
            piece = []


def motion(patches: np.ndarray) -> np.ndarray:
    """Return the median change per step, (N,) in grey levels, of patches uint8 (N, T, h, w, 3)."""
    change = np.abs(np.diff(patches.astype(np.int16), axis=1))
    return np.median(change.mean(axis=(2, 3, 4)), axis=1)


def resized(frame, height, width):
    """Scale a frame, uint8 (h, w, 3), to (height, width, 3). A new pixel is its area's mean."""
    from PIL import Image

    if frame.shape[:2] == (height, width):
        return frame
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BOX))


def _grid(frames, side, size, rng):
    """Return the patches (N, T, size, size, 3) of a grid at a random place, and corners (N, 2)."""
    height, width, _ = frames[0].shape
    scale = side / min(height, width)
    height, width = round(height * scale), round(width * scale)
    rows, columns = height // size, width // size
    top, left = rng.integers(height - rows * size + 1), rng.integers(width - columns * size + 1)
    video = np.stack([resized(frame, height, width) for frame in frames])
    video = video[:, top : top + rows * size, left : left + columns * size]
    cells = video.reshape(len(frames), rows, size, columns, size, 3).transpose(1, 3, 0, 2, 4, 5)
    corners = np.indices((rows, columns)).reshape(2, -1).T * size + (top, left)
    return cells.reshape(rows * columns, len(frames), size, size, 3), corners


def patches_of(
    video: Path, number: int, options: argparse.Namespace, remarks: list[str]
) -> dict[str, np.ndarray]:
    """Choose up to --per-video patches of one video, in the order of start, side and corner.

    Returns the arrays of the file for these patches, `segment` (the number of their segment among
    those with patches in motion) and `segments` (how many of these there are). Raises VideoError,
    also for a video without a patch that is large, long and lively enough.
    """
    chosen, lively, reason = [], [], "too short"
    frames = read_frames(video, options.fps, remarks)
    for start, piece in segments(frames, options.frames):
        least = min(piece[0].shape[:2])
        if least < options.size:
            reason = "too small"
            break
        reason = "no motion"
        found = 0
        for side in sorted({min(side or least, least) for side in options.sides}):
            rng = keyed_rng(Purpose.PATCH_GRID, options.seed, number, start, side)
            patches, corners = _grid(piece, side, options.size, rng)
            lots = rng.random(len(patches))
            for n in np.flatnonzero(motion(patches) >= options.motion):
                found += 1
                # the highest lots win; corners, so that nothing is left to compare patches by
                entry = (lots[n], start, side, *corners[n].tolist(), patches[n].copy())
                push = heapq.heappush if len(chosen) < options.per_video else heapq.heappushpop
                push(chosen, entry)
        if found:
            lively.append(start)
    if not chosen:
        raise VideoError(video, reason, "no patch")
    chosen.sort(key=lambda entry: entry[1:5])
    _, starts, sides, rows, columns, patches = zip(*chosen, strict=True)
    return {
        "patches": np.stack(patches),
        "start": np.array(starts),
        "side": np.array(sides),
        "corner": np.stack([rows, columns], axis=1),
        "segment": np.searchsorted(lively, starts),
        "segments": np.array(len(lively)),
    }


def blocks(segments: list[int]) -> list[np.ndarray]:
    """Assign each segment of each video, (`segments`,), to a block: 8 test, 9 validation, else 0-7.

    `segments` counts the segments of each video. See the module's docstring for the rule.
    """
    short = [n for n, count in enumerate(segments) if count < LONG]
    found = dict(zip(short, _of_short_videos([segments[n] for n in short]), strict=True))
    return [
        _training_by_time(found[n] if n in found else _end_held_out(count))
        for n, count in enumerate(segments)
    ]


def _of_short_videos(counts):
    """Return the purpose of every segment of each short video: 0 training, 8 test, 9 validation."""
    dealt, given, total = [], dict.fromkeys(TENTHS, 0), 0
    for count in counts:  # each video goes to the purpose that lacks most segments
        total += count
        lacks = {
            purpose: tenths * total - 10 * given[purpose] for purpose, tenths in TENTHS.items()
        }
        purpose = max(lacks, key=lacks.get)
        given[purpose] += count
        dealt.append(np.full(count, purpose))
    if given[8] and given[9]:  # then they have less than 30 % of all segments
        return dealt
    joined = _end_held_out(total)
    if (joined > 0).sum() > total / 3:
        joined[:] = 0
    return np.split(joined, np.cumsum(counts)[:-1]) if counts else []


def _end_held_out(count):
    """Return the purposes of one video's segments, in the order of time."""
    tenth = min(max(1, round(count / 10)), count // 2)
    return np.repeat([0, 8, 9], [count - 2 * tenth, tenth, tenth])


def _training_by_time(purposes):
    """Replace purpose 0 by blocks 0 to 7, in the order of time."""
    training = np.flatnonzero(purposes == 0)
    purposes[training] = np.arange(len(training)) * 8 // max(1, len(training))
    return purposes


def extract(options: argparse.Namespace) -> str:
    """Write the file. Returns a sentence about its content. Raises DataError, RunError."""
    videos = find_videos(options.videos)
    settings = settings_of(options) | {"videos": as_they_are(videos), "format": FORMAT}
    with parts_of(unfinished(options.out), settings) as parts:
        made, left_out = of_videos(
            parts,
            [f"{number:06}.npz" for number in range(len(videos))],
            lambda number, remarks: patches_of(videos[number], number, options, remarks),
        )
        if not made:
            raise DataError(
                f"expected videos with {options.frames} frames in motion, got none of "
                f"{len(videos)}{left_out}: name others, or lower --motion"
            )
        found = {number: read_part(part) for number, part in made.items()}
        by_segment = blocks([int(part["segments"]) for part in found.values()])
        pairs = zip(by_segment, found.values(), strict=True)
        block = np.concatenate([here[part["segment"]] for here, part in pairs])
        count = [len(part["patches"]) for part in found.values()]
        joined = {name: np.concatenate([part[name] for part in found.values()]) for name in ARRAYS}
        arrays = {
            "patches": joined.pop("patches"),
            "source": np.repeat([text_of(str(videos[number])) for number in found], count),
            "groups": 10 * np.repeat(list(found), count) + block,
            **joined,
        }
        with replacing(options.out) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)
        parts.remove()
    purposes = ("training", block < 8), ("validation", block == 9), ("test", block == 8)
    shares = ", ".join(f"{here.sum():,} {name}" for name, here in purposes)
    used = f"{len(made)} of {number_of(len(videos), 'video')}{left_out}"
    written = f"{options.out}: {number_of(sum(count), 'patch', ',')} ({shares}) of {used}"
    held_out, all_segments = (np.concatenate(by_segment) >= 8).sum(), sum(map(len, by_segment))
    if not held_out:
        return (
            f"{written}; nothing is held out of {number_of(all_segments, 'segment')}: to train on "
            "this file, name more or longer videos"
        )
    return (
        f"{written}; {100 * held_out / all_segments:.0f} % of "
        f"{number_of(all_segments, 'segment')} are held out"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m data_tools.extract_patches",
        description="Cut moving 32x32 patches out of videos, for `python -m minilstm.train "
        "patches --path FILE`. A video that can't be read, or is too short, too small or too "
        "still, is left out, with the reason, and counted. The same videos and settings give the "
        "same bytes. Needs the extra [video].",
    )
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="videos, or folders of videos")
    add_file(parser, ".npz")
    add_numbers(
        parser,
        ("--frames", T, 2, "frames of a patch"),
        ("--size", SIZE, 1, "height and width of a patch, in pixels"),
        ("--per-video", 1000, 1, "patches of each video, at most; each takes 89 KB of memory"),
        ("--seed", 0, 0, "seed of the places of the grids and of the choice of patches"),
    )
    parser.add_argument(
        "--sides",
        type=at_least(int, 0),
        nargs="+",
        action="extend",
        metavar="PIXELS",
        help="the scales to cut at: the length in pixels to which the video's shorter side is "
        "scaled; 0 leaves it as it is; smaller videos are not enlarged (default: 160 480)",
    )
    parser.add_argument(
        "--motion",
        type=at_least(float, 0),
        default=3.0,
        metavar="LEVELS",
        help="the least motion: the median over all steps of a pixel's mean change, in grey levels "
        "of 0 to 255 (default: 3)",
    )
    add_fps(parser)
    options = parser.parse_args(arguments)
    options.sides = options.sides or [160, 480]
    if any(0 < side < options.size for side in options.sides):
        raise ConfigError(
            f"expected --sides of at least --size {options.size}, or 0, got {min(options.sides)}: "
            "no patch fits in"
        )
    options.out = new_file(options.out, ".npz", options.force)
    print(extract(options))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
