"""What every command of minilstm does with errors: one line, exit status 2, no traceback."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable

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


def run_command(main: Callable[[], int]) -> int:
    """The exit status of `main`: its own, 2 after an error of the user's, 130 after Ctrl-C."""
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
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `... | head` has read enough
        sys.stderr.close()
        return 0
