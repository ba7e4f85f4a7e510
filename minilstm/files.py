"""Files that are written whole or not at all.

Every file is written under a temporary name in its folder and then renamed. So neither a reader nor
a crash ever finds half a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from .errors import DataError, RunError, named, one_line

SUFFIX = ".tmp"  # a temporary name is .NAME.PROCESS.tmp
MAX_NAME_BYTES = 255  # of a file's name, on nearly every file system
MAX_PROCESS = 4_194_304  # largest process number on Linux


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """`with replacing(path) as temporary:` write `temporary`; at the end it becomes `path`.

    The content is on the disk before the name changes. Raises RunError if it can't be written.
    """
    path = Path(path)
    temporary = path.with_name(f"{temporary_prefix(path)}{os.getpid()}{SUFFIX}")
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    except OSError as error:
        raise RunError(
            f"{path}: expected a file that can be written, got {one_line(error)}: "
            "does its folder exist, is it yours, and is there room?"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def temporary_prefix(path: Path) -> str:
    """Return the beginning of a file's temporary names: ".NAME.", cut where NAME is too long."""
    room = MAX_NAME_BYTES - len(f"..{MAX_PROCESS}{SUFFIX}")
    return f".{os.fsdecode(os.fsencode(path.name)[:room])}."


def make_folder(path: str | os.PathLike, new: bool = False) -> Path:
    """Make a folder and its parents, unless it is there. Returns its path.

    Raises RunError if it can't be made, and with `new` if it is there.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=not new)
    except OSError as error:
        raise RunError(
            f"{path}: expected a folder to write to, got {one_line(error)}: choose another"
        ) from error
    return path


def expect_writable(
    path: str | os.PathLike,
    folders: bool = False,
    remedy: str = "choose another",
    suffix: str = "",
) -> None:
    """Raise RunError unless a file can be written at `path`. Call it before long work.

    With `folders` the folders above it may be missing, because `make_folder` will make them.
    `remedy` ends the message of the error: it says what to do. The name must end in `suffix`.
    """
    path = Path(path)
    above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    problem = None
    if not path.name.endswith(suffix):
        problem = f"a name that does not end in {suffix}"
    elif not (folders or path.absolute().parent.is_dir()):
        problem = f"no folder {path.parent}"
    elif os.path.isdir(path):
        problem = "a folder of that name"
    elif not above.is_dir():
        problem = f"the file {above} in place of a folder"
    elif not os.access(above, os.W_OK | os.X_OK):
        problem = f"no permission in {above}"
    if problem:
        raise RunError(f"{path}: expected a place for a file, got {problem}: {remedy}")


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files of killed processes from a folder."""
    for path in folder.glob(f".*{SUFFIX}"):
        path.unlink(missing_ok=True)


def write_file(path: str | os.PathLike, data: bytes | str) -> None:
    """Write bytes, or text as UTF-8, whole or not at all. Raises RunError."""
    if isinstance(data, str):
        data = text_of(data).encode("utf-8", "backslashreplace")
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def read_json(path: str | os.PathLike, remedy: str) -> dict:
    """Return the dict in a JSON file that this package wrote. Raises RunError with the `remedy`."""
    try:
        found = json.loads(Path(path).read_text("utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no dict")
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"{path}: expected a whole file of JSON, got {named(error)}: {remedy}"
        ) from error
    return found


def text_of(name: str) -> str:
    """Return the name of a file as text that UTF-8 can hold.

    To the system a name is bytes. Python represents each byte that it can't decode by a special
    character, a surrogate. Here surrogates become letters if their bytes are UTF-8, and escapes
    such as \\xdc otherwise.
    """

    def decoded(surrogates):
        raw = surrogates[0].encode("utf-8", "surrogateescape")
        return raw.decode("utf-8", "backslashreplace")

    return re.sub("[\udc80-\udcff]+", decoded, name)


def shell_word(path: str | os.PathLike) -> str:
    """Return a path as one word of a shell command, to be pasted: quoted where it needs quotes.

    A path that begins with a dash would be read as a flag, so it gets "./" before it.
    """
    text = os.fspath(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def path_of(text: str) -> str:
    """Return Python's name of the file whose name is `text`: the inverse of `text_of`.

    The two differ only where Python does not decode names as UTF-8: with LC_ALL=C and PYTHONUTF8=0.
    """
    try:
        os.fsencode(text)
        return text
    except UnicodeEncodeError:
        return os.fsdecode(text.encode("utf-8", "surrogatepass"))


def refuse_pipe(path: str | os.PathLike) -> None:
    """Raise DataError for a pipe or a device: opening it would wait, perhaps for ever."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise DataError(
            f"{path}: expected a file, got a pipe or a device: write its content to a file first"
        )


def flush(path: str | os.PathLike) -> None:
    """Wait until the file or folder is on the disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
