"""Synthetic actions as a file: labelled clips of digits that move, grow, spin, blink or stay still.

    python -m data_tools.make_actions --out actions.npz --film actions.gif

For other programs, and for the eye: `python -m minilstm.classify` draws its clips itself, the same
ones for the same --seed. The file has `frames` (N, T, height, width) bytes, `labels` (N,) and
`classes`, their names; read it with numpy.load.

Read next: minilstm/data/actions.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from minilstm.command import Parser, run_command
from minilstm.data import Actions, Clips
from minilstm.experiment import SEEDS, split_digits
from minilstm.files import replacing

try:
    from .options import at_least, new_file
except ImportError:  # run as a file, not by -m
    from options import at_least, new_file

COLUMNS, SCALE, WORDS, GAP = 6, 5, 16, 6  # of a film: clips, pixels of a pixel, of names, between


def write_clips(clips: Clips, path: Path) -> None:
    """Write clips of one length, whole or not at all; the same clips give the same bytes."""
    shape = (len(clips), clips.lengths[0], *clips.frames.shape[1:])
    arrays = {"frames": clips.frames.reshape(shape), "labels": clips.labels.astype(np.uint8)}
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays, classes=np.array(clips.classes))


def write_film(clips: Clips, path: Path) -> None:
    """Film the first clip of every class, side by side under its name."""
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
    parser.add_argument("--out", required=True, metavar="FILE", help="the .npz file to write")
    parser.add_argument("--film", metavar="FILE", help="a .gif with one clip of every class")
    parser.add_argument("--force", action="store_true", help="overwrite files that are there")
    parser.add_argument(
        "--digits",
        default="bundled",
        metavar="DIR",
        help="bundled, or a folder of MNIST's IDX files (default: bundled)",
    )
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        default="train",
        help="which digits; no two splits share one (default: train)",
    )
    for flag, default, least, help in (
        ("--per-class", 50, 1, "clips of each class"),
        ("--length", 20, 1, "frames of a clip"),
        ("--frame-size", 24, 1, "height and width of a frame, in pixels"),
        ("--seed", 0, 0, "seed of the training clips; validation and test have their own"),
    ):
        parser.add_argument(
            flag,
            type=at_least(int, least),
            default=default,
            metavar="N",
            help=f"{help} (default: {default})",
        )
    options = parser.parse_args(arguments)
    out = new_file(options.out, ".npz", options.force)
    film = options.film and new_file(options.film, ".gif", options.force)
    seed = SEEDS.get(options.split, options.seed)
    digits = split_digits(options.digits, options.split)
    clips = Actions(digits, options.frame_size, options.length, seed).clips(options.per_class)
    write_clips(clips, out)
    print(f"{out}: {len(clips)} clips of {len(clips.classes)} classes, {options.split} digits")
    if film:
        write_film(clips, film)
        print(f"{film}: one clip of every class")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
