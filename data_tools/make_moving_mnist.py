"""Write Moving MNIST to a file, in the layout of either public file.

    python -m data_tools.make_moving_mnist --out mnist_test_seq.npy
    python -m data_tools.make_moving_mnist --out bouncing_mnist_test.npy --layout sequences-first
    python -m minilstm.train --data mnist_test_seq.npy

`mnist_test_seq.npy` holds (20, N, 64, 64) bytes and `bouncing_mnist_test.npy` (N, 20, 64, 64). The
digits move by the same rules, but the draws are others. Numbers measured on the public files are
comparable, not the same. An interrupted command resumes (resumable.py). Until it is done it takes
twice the disk space of the file.

Read next: minilstm/data/moving_mnist.py.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np

from minilstm.command import Parser, run_command
from minilstm.data import MovingMNIST, load_digits
from minilstm.data.sequences import PUBLIC_T
from minilstm.errors import ConfigError
from minilstm.files import replacing

from .options import add_digits, add_file, add_numbers, expect_room, new_file, settings_of
from .resumable import parts_of, read_part, unfinished

LAYOUTS = ("time-first", "sequences-first")
BATCH = 100  # sequences that are made at a time; another number would give other draws


def write_sequences(source: MovingMNIST, N: int, layout: str, path: Path, settings: dict) -> None:
    """Write N sequences of `source` as an .npy file, whole or not at all, in little memory.

    `layout` is one of LAYOUTS. Raises RunError if the file can't be written.
    """
    from tqdm import trange

    height, width = source.frame_shape
    lengths = (PUBLIC_T, N) if layout == "time-first" else (N, PUBLIC_T)
    header = {"descr": "|u1", "fortran_order": False, "shape": (*lengths, height, width)}
    with parts_of(unfinished(path), settings) as parts:
        batches = [
            parts.make(f"{k:06}.npy", partial(source.batch, k, BATCH))
            for k in trange(-(-N // BATCH), unit_scale=BATCH, unit="sequence", disable=None)
        ]
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            begin = file.tell()
            for k, batch in enumerate(batches):
                n = k * BATCH
                frames = read_part(batch)[:, : N - n]
                if layout == "sequences-first":
                    file.write(frames.swapaxes(0, 1).tobytes())
                    continue
                for t in range(PUBLIC_T):
                    file.seek(begin + (t * N + n) * height * width)
                    file.write(frames[t].tobytes())
        parts.remove()


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m data_tools.make_moving_mnist",
        description="Write sequences of 20 frames of moving digits as an .npy file of bytes, for "
        "--data. The same settings give the same bytes.",
    )
    add_file(parser, ".npy")
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        default=LAYOUTS[0],
        help="(20, N, 64, 64) or (N, 20, 64, 64) (default: time-first)",
    )
    add_digits(parser)
    parser.add_argument(
        "--split", choices=("train", "test"), default="test", help="digits to use (default: test)"
    )
    parser.add_argument(
        "--speed",
        choices=("constant", "random"),
        default="constant",
        help="the same speed for all digits, or a random one for each (default: constant)",
    )
    add_numbers(
        parser,
        ("--sequences", 10_000, 1, "number of sequences; 20 would look like the number of frames"),
        ("--num-digits", 2, 1, "digits in each sequence"),
        ("--frame-size", 64, 1, "height and width of a frame, in pixels"),
        ("--digit-size", 28, 1, "height and width of a digit, in pixels"),
        ("--seed", 0, 0, "seed of all random numbers"),
    )
    options = parser.parse_args(arguments)
    N, out = options.sequences, new_file(options.out, ".npy", options.force)
    if N == PUBLIC_T:
        raise ConfigError(
            f"expected --sequences other than {PUBLIC_T}, which no reader can tell from the "
            f"{PUBLIC_T} frames, got {N}: make {N + 1}"
        )
    expect_room(out, 2 * N * PUBLIC_T * options.frame_size**2)  # its parts, and the file
    images, _ = load_digits(options.digits, options.split)
    source = MovingMNIST(
        images,
        options.num_digits,
        options.frame_size,
        options.digit_size,
        PUBLIC_T,
        options.speed,
        options.seed,
    )
    write_sequences(source, N, options.layout, out, settings_of(options))
    size = options.frame_size
    lengths = (PUBLIC_T, N) if options.layout == "time-first" else (N, PUBLIC_T)
    print(f"{out}: {(*lengths, size, size)} bytes, digits of {options.digits}, {options.split}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
