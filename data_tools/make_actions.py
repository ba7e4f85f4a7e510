"""Write synthetic actions to a file: labelled clips of digits that move, grow, spin, blink or rest.

    python -m data_tools.make_actions --out actions.npz --film actions.gif

The file is for other programs, and for the eye. `python -m minilstm.classify` draws its clips
itself, the same ones for the same --seed. The file has `frames` (N, T, height, width) bytes,
`labels` (N,) and `classes`, their names. Read it with numpy.load. An interrupted command resumes
(resumable.py).

Read next: minilstm/data/actions.py.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np

from minilstm.command import Parser, run_command
from minilstm.data import Actions, Clips
from minilstm.data.actions import CLASSES
from minilstm.errors import number_of
from minilstm.files import replacing
from minilstm.runs.build import seed_of, split_digits

from .options import add_digits, add_file, add_numbers, expect_room, new_file, settings_of
from .resumable import parts_of, read_part, unfinished

BLOCK = 10  # clips of every class that are made at a time
COLUMNS = 6  # of clips in a film
SCALE, WORDS, GAP = 5, 16, 6  # screen pixels: per pixel of a clip, for its name, between clips


def write_clips(
    source: Actions, per_class: int, path: Path, settings: dict, film: Path | None = None
) -> None:
    """Write clips of every class, whole or not at all. The same settings give the same bytes.

    With `film`, write a film with one clip of each class there, too. The film gets its name first.
    Raises RunError if a file can't be written.
    """
    from tqdm import trange

    def block(first):
        clips = source.clips(min(BLOCK, per_class - first), first)
        return clips.frames.reshape(len(clips), source.num_frames, *source.frame_shape)

    with parts_of(unfinished(path), settings) as parts:
        blocks = [
            parts.make(f"{first:06}.npy", partial(block, first))
            for first in trange(0, per_class, BLOCK, unit="block", disable=None)
        ]
        arrays = {
            "frames": np.concatenate([read_part(block) for block in blocks]),
            "labels": np.tile(np.arange(len(CLASSES), dtype=np.uint8), per_class),
            "classes": np.array(CLASSES),
        }
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)
            if film:
                write_film(source.clips(1), film)
        parts.remove()


def write_film(clips: Clips, path: Path) -> None:
    """Write a film of the first clip of every class, side by side, each under its name.

    Raises RunError if the file can't be written.
    """
    from PIL import Image, ImageDraw

    K = len(clips.classes)
    _, height, width = clips.frames.shape
    cell_h, cell_w = height * SCALE + WORDS + GAP, width * SCALE + GAP
    films = []
    for t in range(clips.lengths[0]):
        film = Image.new("L", (cell_w * COLUMNS, cell_h * -(-K // COLUMNS)), 255)
        draw = ImageDraw.Draw(film)
        for k in range(K):
            frame = Image.fromarray(clips.clip(int((clips.labels == k).argmax()))[t])
            x, y = k % COLUMNS * cell_w, k // COLUMNS * cell_h
            draw.text((x, y), clips.classes[k], fill=0)
            enlarged = frame.resize((width * SCALE, height * SCALE), Image.Resampling.NEAREST)
            film.paste(enlarged, (x, y + WORDS))
        films.append(film)
    with replacing(path) as temporary:
        films[0].save(
            temporary, "GIF", save_all=True, append_images=films[1:], duration=150, loop=0
        )


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m data_tools.make_actions",
        description="Write labelled clips of digits that do one of eighteen things as an .npz file "
        "of bytes. The same settings give the same bytes.",
    )
    add_file(parser, ".npz")
    parser.add_argument("--film", metavar="FILE", help="a .gif with one clip of every class")
    add_digits(parser)
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        default="train",
        help="the digits to use; no two splits share one (default: train)",
    )
    add_numbers(
        parser,
        ("--per-class", 50, 1, "clips of each class"),
        ("--length", 20, 1, "frames of a clip"),
        ("--frame-size", 24, 1, "height and width of a frame, in pixels"),
        ("--seed", 0, 0, "seed of the training clips; validation and test have fixed seeds"),
    )
    options = parser.parse_args(arguments)
    parser.expect_effect([("--seed", options.split == "train", "--split train")])
    out = new_file(options.out, ".npz", options.force)
    film = options.film and new_file(options.film, ".gif", options.force)
    of_a_clip = options.length * options.frame_size**2
    expect_room(out, options.per_class * len(CLASSES) * of_a_clip)
    seed = seed_of(options.split, options.seed)
    digits = split_digits(options.digits, options.split)
    source = Actions(digits, options.frame_size, options.length, seed)
    write_clips(source, options.per_class, out, settings_of(options), film)
    count = options.per_class * len(CLASSES)
    print(f"{out}: {number_of(count, 'clip')} of {len(CLASSES)} classes, {options.split} digits")
    if film:
        print(f"{film}: one clip of every class")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
