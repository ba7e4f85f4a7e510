"""What every command of minilstm does with errors: one line, exit status 2, no traceback."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

from .errors import MinilstmError


class Parser(argparse.ArgumentParser):
    """An argument parser that says what is wrong in one line, without all the usage before it."""

    def __init__(self, **keywords):
        super().__init__(allow_abbrev=False, **keywords)

    def error(self, message):
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            unknown = (unknown.split() or ["''"])[0]
            known = difflib.get_close_matches(unknown, self._option_string_actions, cutoff=0)
            message = f"expected a setting of this command, got {unknown}: did you mean {known[0]}?"
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


class Interrupted(KeyboardInterrupt):
    """The work ended early, but in good order, because a signal asked for it."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


@contextlib.contextmanager
def stop_signals() -> Iterator[SimpleNamespace]:
    """`with stop_signals() as stop:` SIGINT and SIGTERM set `stop.received`, once.

    The work inside looks at it when it is convenient. A second signal ends the process at once.
    """
    stop = SimpleNamespace(received=None)
    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield stop
        return

    def received(signum, frame):
        stop.received = signum
        for number in before:
            signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, received) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_command(main: Callable[[], int]) -> int:
    """The exit status of `main`: its own, 2 after an error of the user's, 128 + a stop signal."""
    try:
        return main()
    except MinilstmError as error:
        print("error:", *str(error).splitlines(), file=sys.stderr)  # a path may have two lines
        return 2
    except MemoryError as error:
        print(
            f"error: expected enough memory, got {str(error) or 'too little'}: make frames, "
            "layers or batches smaller",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt as error:
        print("interrupted", file=sys.stderr)
        return 128 + getattr(error, "signum", signal.SIGINT)
    except BrokenPipeError:  # `... | head` has read enough
        sys.stderr.close()
        return 0
