"""Print what is in a file: shapes, ranges and NaNs, and its frames on a contact sheet.

    python -m data_tools.inspect_file patches.npz --sheet sheet.png
    python -m data_tools.inspect_file runs/composite-0

Reads .npy, .npz, .h5 and .safetensors files, MNIST's IDX files, videos, run folders and folders of
percepts, and lists .zip archives. The first bytes of a file tell its kind, not its
name; only .safetensors files are known by their names.

Read next: minilstm/data/__init__.py.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from minilstm.command import Parser, run_command
from minilstm.data import read_idx
from minilstm.data.sequences import MAX_HEADER, map_npy
from minilstm.errors import DataError, MinilstmError, named, number_of
from minilstm.files import replacing

from .options import new_file
from .video import VideoError, library, read_frames

CHUNK = 1 << 22  # numbers that are read at a time
ROWS, COLUMNS = 12, 10  # of a contact sheet, at most
LARGEST = 160  # pixels of the longer side of a picture on it
COLOURS = (1, 3)


@contextlib.contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Turn every error that the file at `path` causes inside into a DataError of one line."""
    try:
        yield
    except VideoError as error:
        if error.reason != "not a video":
            raise
        raise DataError(
            f"{path}: expected an .npy, .npz, .h5, .safetensors, IDX or .zip file, or a video, got "
            "none of them: is it damaged, or packed?"
        ) from error
    except (MinilstmError, BrokenPipeError):
        raise
    except Exception as error:  # damaged files fail in many ways
        raise DataError(
            f"{path}: expected a whole file, got {named(error)}: save, copy or download it again"
        ) from error


def arrays_in(path: Path) -> Iterator[tuple[str, object]]:
    """Yield (name, array) of everything in a file. Arrays have NumPy's shape, dtype and slices.

    For a member of a .zip that is no array, a text about it takes the array's place. Arrays of .npy
    and .h5 files are read only when their numbers are asked for, so use them inside `refusing`.
    """
    with open(path, "rb") as file:
        first = file.read(8)
    if first.startswith(b"\x93NUMPY"):
        yield "array", map_npy(path)
    elif first.startswith(b"PK"):
        yield from _in_zip(path)
    elif first.startswith(b"\x89HDF"):
        yield from _in_h5(path)
    elif path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (it is no dictionary)
                yield name, tensors.get_tensor(name)
    elif first[:3] == b"\0\0\x08" or first[:2] == b"\x1f\x8b":
        yield "array", read_idx(path)
    else:
        yield from _in_video(path)


def _in_zip(path):
    """Yield the arrays of an .npz file. Of other members of a .zip yield a text."""
    with (
        zipfile.ZipFile(path) as members,
        open(path, "rb") as file,
        np.load(file, allow_pickle=False, max_header_size=MAX_HEADER) as archive,
    ):
        for member in members.infolist():
            name = member.filename
            if name.endswith(".npy"):
                yield name.removesuffix(".npy"), archive[name]
            elif name.endswith("data.pkl"):
                yield name, "PyTorch's weights: convert them by python -m data_tools.convert_pth"
            elif not member.is_dir():
                yield name, f"{member.file_size:,} bytes, not an array: unpack it to look into it"


def _in_h5(path):
    h5py = library("h5py")
    with h5py.File(path, "r") as file:
        found = []
        file.visititems(lambda name, item: found.append(name))
        for name in found:
            if isinstance(file[name], h5py.Dataset):
                yield name, file[name]


def _in_video(path):
    """Yield a video's frames, small. Of many frames it keeps every second, every fourth, ..."""
    kept, every, remarks = [], 1, []
    for count, frame in enumerate(read_frames(path, remarks=remarks), 1):
        if (count - 1) % every == 0:
            kept.append(_small(frame))
        if len(kept) == 2 * ROWS * COLUMNS:
            kept, every = kept[::2], 2 * every
    for remark in remarks:
        print(remark, file=sys.stderr)
    yield (
        f"{number_of(count, 'frame')} {frame.shape[1]}x{frame.shape[0]}; some of them, small:",
        np.stack(kept),
    )


def _small(picture):
    """Return every n-th pixel of a picture (height, width[, 3]), so that a sheet fits a screen."""
    every = -(-max(picture.shape[:2]) // LARGEST)
    return picture[::every, ::every].copy()


def describe(array) -> str:
    """Return an array's type, shape and range in words. Reads CHUNK numbers at a time."""
    if isinstance(array, str):
        return array
    about = f"{array.dtype!s:<8} {str(tuple(array.shape)):<24}"
    if array.dtype.kind not in "iufb" or 0 in array.shape:
        if array.dtype.kind not in "US" or 0 in array.shape:
            return about.rstrip()
        counts = Counter(np.asarray(array).ravel().tolist())
        return about + f"{len(counts)} different, such as {next(iter(counts))!r}"
    low, high, mean, wrong = math.inf, -math.inf, 0.0, Counter()
    size = math.prod(array.shape)
    for piece in _pieces(array):
        if piece.dtype.kind == "f":
            finite = np.isfinite(piece)
            nans = int(np.isnan(piece).sum())
            wrong.update({"NaN": nans, "infinite": piece.size - int(finite.sum()) - nans})
            piece = piece[finite]
        if piece.size:
            low, high = min(low, piece.min().item()), max(high, piece.max().item())
            # each number is divided first, because their sum could overflow
            with np.errstate(over="ignore"):
                mean += float((piece.astype(np.float64) / size).sum())
    if low > high:
        return about + "nothing finite"
    mean = min(max(mean * (size / (size - wrong.total())), low), high)
    notes = "".join(f", {count:,} {name}" for name, count in wrong.items() if count)
    return about + f"{low:g} to {high:g}, mean {mean:.4g}{notes}"


def _pieces(array):
    if not array.shape:
        yield np.asarray(array[()])
        return
    rows = max(1, CHUNK // max(1, math.prod(array.shape[1:])))
    for n in range(0, array.shape[0], rows):
        yield np.asarray(array[n : n + rows])


def frames_of(array) -> np.ndarray | None:
    """Return an array's frames for a sheet: uint8 (rows, columns, height, width[, 3]), or None.

    Frames are bytes of shape (N, T, height, width[, colours]); with colours also (N, T, colours,
    height, width); (T, N, height, width) where T < N; and single pictures (N, height, width[, 3]),
    which fill the rows. An array of another kind gives None.
    """
    shape = getattr(array, "shape", ())
    if (
        isinstance(array, str)
        or array.dtype != np.uint8
        or len(shape) not in (3, 4, 5)
        or 0 in shape
    ):
        return None
    if len(shape) == 3 or (len(shape) == 4 and shape[3] == 3):  # one picture after another
        chosen = np.linspace(0, shape[0] - 1, min(shape[0], ROWS * COLUMNS)).astype(int)
        pictures = np.stack([np.asarray(array[n]) for n in chosen])
        rows = -(-len(chosen) // COLUMNS)
        page = np.zeros((rows * COLUMNS, *shape[1:]), np.uint8)
        page[: len(chosen)] = pictures
        return page.reshape(rows, COLUMNS, *shape[1:])
    time_first = len(shape) == 4 and shape[0] < shape[1]
    N, T = (shape[1], shape[0]) if time_first else shape[:2]
    n = np.linspace(0, N - 1, min(N, ROWS)).astype(int)
    t = np.linspace(0, T - 1, min(T, COLUMNS)).astype(int)
    if time_first:
        page = np.stack([np.asarray(array[i])[n] for i in t], axis=1)
    else:
        page = np.stack([np.asarray(array[i])[t] for i in n])
    if len(shape) == 5 and shape[4] not in COLOURS:
        if shape[2] not in COLOURS:
            return None
        page = np.moveaxis(page, 2, 4)
    return page[..., 0] if page.ndim == 5 and page.shape[-1] == 1 else page


def write_sheet(page: np.ndarray, path: Path) -> None:
    """Write frames uint8 (rows, columns, height, width[, 3]) as one PNG, a line between them."""
    from PIL import Image

    rows, columns = page.shape[:2]
    page = np.stack([np.stack([_small(picture) for picture in row]) for row in page])
    height, width = page.shape[2:4]
    sheet = np.full((rows, height + 1, columns, width + 1, *page.shape[4:]), 255, np.uint8)
    sheet[:, :height, :, :width] = page.swapaxes(1, 2)
    sheet = sheet.reshape(rows * (height + 1), columns * (width + 1), *page.shape[4:])
    with replacing(path) as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG")


def files_of(path: Path) -> list[Path]:
    """Return the files to inspect: a run's checkpoints, the features of a folder of percepts.

    Raises DataError if there are none.
    """
    if not path.is_dir():
        if not path.is_file():
            raise DataError(
                f"{path}: expected a file or a folder, got nothing that can be read: check the path"
            )
        return [path]
    endings = (".safetensors", ".h5", ".npy", ".npz", "-ubyte", "-ubyte.gz")
    files = sorted(f for f in path.iterdir() if f.name.endswith(endings) and f.is_file())
    if not files and not (path / "config.toml").is_file():
        raise DataError(
            f"{path}: expected a run folder, a folder of percepts, or one with "
            f"{', '.join(endings)} files, got none of these: name a file in it"
        )
    return files


def beside(path: Path) -> Iterator[str]:
    """Yield a line about each small text file of a run folder or a folder of percepts."""
    if (path / "config.toml").is_file():
        from minilstm.runs.build import read_config

        config = read_config(path)
        data, model, run = config.data, config.model, config.run
        yield (
            f"a run: {model.kind}, {number_of(model.layers, 'layer')} of "
            f"{number_of(model.hidden, 'unit')} ({model.cell_name}), {data.source}, "
            f"{number_of(data.past, 'frame')} in and {data.future} to predict, seed {run.seed}"
        )
    for text in sorted(filter(Path.is_file, path.glob("*.txt"))):
        lines = text.read_text("utf-8-sig", "replace").split("\n")
        lines = [line.strip() for line in lines if line.strip()]
        try:
            numbers = [float(line) for line in lines]
        except ValueError:
            yield f"{text.name}: {number_of(len(lines), 'line')}, such as {lines[0][:60]!r}"
        else:
            of = ""
            if numbers:
                of = f", {min(numbers):g} to {max(numbers):g}, sum {sum(numbers):g}"
            yield f"{text.name}: {number_of(len(lines), 'number')}{of}"


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m data_tools.inspect_file",
        description="Print what is in a file: its arrays with their shapes, ranges and NaNs, or a "
        "video's frames. Also takes run folders and folders of percepts. Needs the extra [video] "
        "for videos and .h5 files.",
    )
    parser.add_argument("path", metavar="PATH", help="a file or a folder")
    parser.add_argument(
        "--sheet", metavar="FILE", help="write the first frames found to this .png file"
    )
    parser.add_argument("--force", action="store_true", help="overwrite an existing sheet")
    options = parser.parse_args(arguments)
    parser.expect_effect([("--force", options.sheet is not None, "--sheet FILE")])
    path, page = Path(options.path), None
    sheet = new_file(options.sheet, ".png", options.force) if options.sheet else None
    with refusing(path):
        files = files_of(path)
        if path.is_dir():
            for line in beside(path):
                print(line)
    for file in files:
        print(f"{file}: {os.path.getsize(file):,} bytes")
        with refusing(file):
            for name, array in arrays_in(file):
                print(f"  {name:<20} {describe(array)}")
                if sheet and page is None:
                    page = frames_of(array)
    if sheet and page is None:
        raise DataError(f"{path}: expected frames of bytes for --sheet, got none: leave it out")
    if sheet:
        write_sheet(page, sheet)
        print(f"{sheet}: {number_of(page.shape[0], 'row')} of {number_of(page.shape[1], 'frame')}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
