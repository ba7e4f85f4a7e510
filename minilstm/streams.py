"""Streams of a command: output that can't end its work, and progress bars that suit a log file.

`run_command` uses `safe_streams` around every command.

Read next: command.py.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TextIO, TypeVar

from .errors import MinilstmError, named, one_line
from .files import text_of

if TYPE_CHECKING:
    from tqdm import tqdm

T = TypeVar("T")

LINE_SECONDS = 60.0  # between two lines of a progress bar in a file


class Output:
    """A text stream that drops text when it can't be written, so that the work goes on.

    A letter that the stream's encoding lacks is written as an escape such as \\xdc. `failed` is the
    error of the first text that was dropped, or None. All other attributes are those of the stream.
    """

    def __init__(self, stream: TextIO, name: str):
        self._stream, self._name = stream, name
        self.failed: OSError | None = None
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the text unless the stream has failed before. Returns the length of the text."""
        try:
            self._stream.write(text_of(text))
        except OSError as error:
            self._drop(error)
        return len(text)

    def flush(self) -> None:
        """Pass the text that was written so far to the system."""
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error):
        """Send this text and all later text nowhere. Warn once, if that is possible."""
        if self.failed is not None:
            return
        self.failed = error
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # also what the stream still holds
            os.close(nowhere)
        if self is not sys.stderr:
            print(
                f"warning: {self._name} can't be written ({one_line(error)}): the work goes on "
                "without it",
                file=sys.stderr,
                flush=True,
            )


@contextlib.contextmanager
def safe_streams() -> Iterator[Output]:
    """`with safe_streams() as stdout:` no error of stdout or stderr ends the work inside.

    A stream that was closed before the process began writes nowhere.
    """
    before = sys.stdout, sys.stderr
    if None in before:
        _open_standard_files()
    sys.stderr = Output(before[1] or open(os.devnull, "w"), "standard error")
    sys.stdout = stdout = Output(before[0] or open(os.devnull, "w"), "standard output")
    try:
        yield stdout
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _open_standard_files():
    """Open those of the file numbers 0, 1 and 2 that are closed.

    Otherwise one of our files would get such a number, and a library that prints would write to it.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)


@contextlib.contextmanager
def warn_instead(what: str) -> Iterator[None]:
    """`with warn_instead("there are no pictures"):` turn an error inside into a warning.

    Use it where a failure does no harm to results that took hours.
    """
    try:
        yield
    except Exception as error:
        said = str(error) if isinstance(error, MinilstmError) else named(error)
        print("warning:", what, "because of:", *said.splitlines(), file=sys.stderr)


class _Lines:
    """A file for a progress bar that is not on a terminal: every state of the bar is a line."""

    def write(self, text):
        if text := text.strip("\r\n "):
            sys.stderr.write(text + "\n")

    def flush(self):
        sys.stderr.flush()


def progress_bar(iterable: Iterable | None = None, *, quiet: bool = False, **keywords) -> tqdm:
    """Return tqdm's progress bar on stderr. `keywords` are tqdm's own.

    A terminal gets a bar that moves. A file gets one line per minute.
    """
    from tqdm import tqdm

    if on_terminal():
        keywords |= {"file": sys.stderr, "dynamic_ncols": True}
    else:
        keywords |= {"file": _Lines(), "mininterval": LINE_SECONDS, "maxinterval": LINE_SECONDS}
    return tqdm(iterable, disable=quiet, **keywords)


def shown_on_terminal(items: Sequence[T], doing: str) -> Iterator[T]:
    """Yield the items, with a bar on stderr if that is a terminal. `doing` stands before the bar.

    The bar is for commands that take seconds, so it vanishes at the end. A single item gets none.
    """
    if not on_terminal() or len(items) < 2:
        yield from items
        return
    with progress_bar(items, desc=doing, leave=False) as bar:
        yield from bar


def print_above(line: str) -> None:
    """Print a line on stdout at once, above the bars on a terminal."""
    if not on_terminal():
        print(line, flush=True)
        return
    from tqdm import tqdm

    tqdm.write(line)
    sys.stdout.flush()


def on_terminal() -> bool:
    """Say whether stderr is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()
