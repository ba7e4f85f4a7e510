"""Fingerprints of data files: size and hash, so that a moved file is recognised.

Read next: ../training/progress.py, which compares the data of a run that is resumed.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ..errors import DataError, one_line
from ..files import refuse_pipe

BLOCK, BLOCKS = 2**20, 16  # bytes; of a larger file this many blocks are read, evenly spaced


def fingerprint(path: str | Path) -> str:
    """Return "SIZE bytes, sha256 DIGEST" of a file.

    For a file of up to 16 MiB the digest is that of the whole file. For a larger file it is that of
    16 blocks of 1 MiB, evenly spaced from its beginning to its end, so that no more than 16 MiB are
    read. Raises DataError.
    """
    refuse_pipe(path)
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            room = max(0, size - BLOCK)
            starts = [room * k // (BLOCKS - 1) for k in range(BLOCKS)]
            if size <= BLOCK * BLOCKS:
                starts = range(0, size, BLOCK)
            for start in starts:
                file.seek(start)
                digest.update(file.read(BLOCK))
    except OSError as error:
        raise DataError(
            f"{path}: expected a data file, got {one_line(error)}: check the path"
        ) from error
    return f"{size} bytes, sha256 {digest.hexdigest()}"
