"""Fetch all of MNIST into a folder for `--digits`: from public mirrors, a folder, or an archive.

    python -m data_tools.fetch_mnist mnist
    python -m data_tools.fetch_mnist mnist --from ~/Downloads/mnist.tar.gz
    python -m minilstm.train --digits mnist

A file gets its name only after its MD5 sum has proved its bytes to be the original's; the sums are
in minilstm/data/digits.py. Correct files that exist are kept, so a second start fetches the others.

Read next: minilstm/data/digits.py.
"""

from __future__ import annotations

import gzip
import http.client
import os
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from minilstm.command import Parser, at_least, run_command
from minilstm.data.digits import MAX_BYTES, MD5, find_idx, read_idx, spellings
from minilstm.errors import DataError, one_line
from minilstm.files import make_folder, refuse_pipe, remove_temporaries, replacing

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://raw.githubusercontent.com/fgnt/mnist/master/",
)
PATIENCE = 20  # times the timeout: the longest that one file may take to arrive
GZIP = b"\x1f\x8b"


class _SourceError(Exception):
    """Reason why a source does not give a file. The next source may."""


def fetch(folder: Path, sources: list[str], timeout: float) -> list[str]:
    """Fill `folder` with MNIST's four files. Returns a line about each.

    `sources` are addresses, folders or archives, tried in this order; `timeout` is in seconds.
    Raises DataError, with each source's reason, if no source gives a file.
    """
    lines = []
    for name, md5 in MD5.values():
        there, target = find_idx(folder, name), folder / f"{name}.gz"
        if there is not None:
            try:
                read_idx(there, md5)
                lines.append(f"{there}: exists, and is right")
                continue
            except DataError:
                target = there  # to be replaced: a reader would find it first
        reasons = []
        for source in sources:
            try:
                _place(_bytes_from(source, name, timeout), md5, target)
                lines.append(f"{target}: from {source}")
                break
            except _SourceError as reason:
                reasons.append(f"{source} ({reason})")
        else:
            raise DataError(
                f"expected {name}, got none of {', '.join(reasons)}: check the network, or name a "
                "folder or an archive that has MNIST's files by --from"
            )
    return lines


def _place(raw, md5, target):
    """Write a file whose content has that MD5 sum, gzipped if its name says so."""
    if target.suffix == ".gz" and raw[:2] != GZIP:
        raw = gzip.compress(raw, mtime=0)
    with replacing(target) as temporary:
        temporary.write_bytes(raw)
        try:
            read_idx(temporary, md5)
        except DataError as error:
            reason = str(error).partition(": expected ")[2].rpartition(": ")[0]
            raise _SourceError(f"expected {reason}") from error
        if target.suffix != ".gz" and raw[:2] == GZIP:
            temporary.write_bytes(gzip.decompress(raw))


def _bytes_from(source, name, timeout):
    """Return the bytes that a source has under one of the spellings of `name`."""
    if source.startswith(("http://", "https://")):
        return _download(f"{source.rstrip('/')}/{name}.gz", timeout)
    refuse_pipe(source)
    try:
        if os.path.isdir(source):
            found = [Path(top) / file for top, _, files in os.walk(source) for file in files]
            members = {path.name: path for path in reversed(found)}  # the uppermost one counts
            return _at_most(_spelled(members, name).open("rb"))
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                files = (member for member in archive.infolist() if not member.is_dir())
                members = {Path(member.filename).name: member for member in files}
                return _at_most(archive.open(_spelled(members, name)))
        with tarfile.open(source) as archive:
            members = {Path(m.name).name: m for m in archive if m.isfile()}
            return _at_most(archive.extractfile(_spelled(members, name)))
    except _SourceError:
        raise
    except Exception as error:  # a damaged archive fails in many ways
        raise _SourceError(f"no folder and no whole archive: {one_line(error)}") from error


def _spelled(files, name):
    """Return the one of `files`, {name: file}, that has a spelling of `name`."""
    for spelling in spellings(name):
        if spelling in files:
            return files[spelling]
    return _missing(name)


def _missing(name):
    raise _SourceError(f"it has no {name}")


def _at_most(stream):
    with stream:
        raw = stream.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise _SourceError(f"more than {MAX_BYTES} bytes")
    return raw


def _download(address, timeout):
    """Return the bytes at an address.

    Gives up after `timeout` seconds without a byte, and after PATIENCE times as long in all.
    """
    from tqdm import tqdm

    raw, start = bytearray(), time.monotonic()
    try:
        with urllib.request.urlopen(address, timeout=timeout) as response:
            length = response.headers.get("Content-Length", "")
            length = int(length) if length.isdigit() else None
            with tqdm(total=length, unit="B", unit_scale=True, disable=None) as bar:
                bar.set_description(address.rpartition("/")[2])
                while piece := response.read1(1 << 16):
                    raw += piece
                    bar.update(len(piece))
                    if len(raw) > MAX_BYTES:
                        raise _SourceError(f"more than {MAX_BYTES} bytes")
                    if time.monotonic() - start > PATIENCE * timeout:
                        raise _SourceError(f"only {len(raw)} bytes in {PATIENCE * timeout:g} s")
    except urllib.error.HTTPError as error:
        error.close()
        raise _SourceError(f"HTTP status {error.code}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _SourceError(one_line(getattr(error, "reason", error))) from error
    if length is not None and len(raw) < length:
        raise _SourceError(f"broke off after {len(raw)} of {length} bytes")
    return bytes(raw)


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m data_tools.fetch_mnist",
        description="Put MNIST's four original files into a folder, for --digits. Each is verified "
        "before it gets its name. Correct files that exist are kept.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="the folder; made if it does not exist")
    parser.add_argument(
        "--from",
        dest="sources",
        nargs="+",
        action="extend",
        metavar="SOURCE",
        help="tried in this order: addresses of mirrors, folders, archives (.tar, .tar.gz, .tgz, "
        f".zip) (default: {' '.join(MIRRORS)})",
    )
    parser.add_argument(
        "--timeout",
        type=at_least(float, 0.01),
        default=30.0,
        metavar="SECONDS",
        help="how long to wait for a mirror that sends nothing (default: 30)",
    )
    options = parser.parse_args(arguments)
    folder = make_folder(options.folder)
    remove_temporaries(folder)  # a killed command leaves some
    print("\n".join(fetch(folder, options.sources or list(MIRRORS), options.timeout)))
    print(f"All of MNIST: use --digits {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
