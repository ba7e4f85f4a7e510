"""Errors and signals of every command: one line, exit status 2, no traceback.

Read next: streams.py.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace

from .errors import ConfigError, MinilstmError
from .streams import safe_streams

OWN_CELL = "minilstm_cell_"  # begins the module name of a user's own cell (runs/own_cell.py)
USUAL = {  # how other programs spell a flag: how it is spelled here
    "-o": "--out",
    "--amp": "--precision tf32",
    "--batch": "--batch-size",
    "--bs": "--batch-size",
    "--cuda": "--backend cupy",
    "--data-dir": "--data",
    "--dataset": "--data",
    "--device": "--backend",
    "--dtype": "--precision",
    "--epochs": "--steps",
    "--fp16": "--precision tf32",
    "--gpu": "--backend cupy",
    "--grad-clip": "--clip-norm",
    "--hidden-dim": "--hidden",
    "--hidden-size": "--hidden",
    "--hidden-units": "--hidden",
    "--iterations": "--steps",
    "--iters": "--steps",
    "--log-dir": "--out",
    "--logdir": "--out",
    "--lr": "--learning-rate",
    "--lr-decay": "--schedule",
    "--lr-scheduler": "--schedule",
    "--max-grad-norm": "--clip-norm",
    "--max-steps": "--steps",
    "--num-epochs": "--steps",
    "--num-hidden": "--hidden",
    "--num-layers": "--layers",
    "--num-steps": "--steps",
    "--optim": "--optimizer",
    "--output": "--out",
    "--output-dir": "--out",
    "--save-dir": "--out",
    "--seq-len": "--past",
    "--size": "--frame-size",
    "--units": "--hidden",
    "--warmup": "--warmup-steps",
    "--weight-decay": "--l2",
}

MOST = 10**9  # for the number of a flag

SAID = {  # argparse's message about a wrong value, as a pattern: our message
    r"invalid int value: (.*)": r"expected a whole number, got \1: change it",
    r"invalid float value: (.*)": r"expected a number, got \1: change it",
    r"invalid (.*) value: (.*)": r"expected a \1, got \2: change it",
    r"invalid choice: (.*) \(choose from (.*)\)": r"expected one of \2, got \1: choose one",
    r"ignored explicit argument (.*)": r"expected no value after it, got \1: leave it out",
    r"expected (one|at least one) argument$": r"expected a value after it, got none: add one",
    r"the following arguments are required: (.*)": r"expected \1, got nothing there: add it",
}


class Parser(argparse.ArgumentParser):
    """An argument parser that reports an error in one line, without the usage.

    It refuses an empty value, because that comes from a shell variable that is not set: `--resume
    "$RUN"` must not train a new run. The tab key completes its flags where the extra [completion]
    is installed.
    """

    def __init__(self, **keywords):
        super().__init__(allow_abbrev=False, **keywords)
        import minilstm  # here, because the package imports this file

        self.add_argument(
            "--version",
            action="version",
            version=f"minilstm {minilstm.__version__}",
            help="print the version and exit",
        )

    def parse_args(self, args=None, namespace=None):
        """Parse as argparse does. If the shell asks for completions, print them and exit."""
        self._begin(args)
        return super().parse_args(args, namespace)

    def parse_intermixed_args(self, args=None, namespace=None):
        """Parse as argparse does. If the shell asks for completions, print them and exit."""
        self._begin(args)
        return super().parse_intermixed_args(args, namespace)

    def expect_effect(self, rows: Iterable[tuple[str, bool, str]]) -> None:
        """Raise ConfigError for a flag that was typed and has no effect beside the others.

        A row is (flags, met, condition): these flags have an effect only if the condition is met.
        Presets and files of settings may hold what has no effect, because it was not typed.
        """
        for flags, met, condition in rows:
            for flag in flags.split():
                if flag in self._typed and not met:
                    raise ConfigError(
                        f"expected {condition} for {flag}, got other settings, with which it has "
                        f"no effect: leave {flag} out"
                    )

    def _begin(self, args):
        words = sys.argv[1:] if args is None else args
        self._typed = {word.partition("=")[0] for word in words if word.startswith("--")}
        if "_ARGCOMPLETE" in os.environ:  # set by the shell function of argcomplete alone
            import argcomplete

            argcomplete.autocomplete(self, always_complete_options="long")

    def parse_known_args(self, args=None, namespace=None):
        """Parse as argparse does, and refuse empty values."""
        namespace, rest = super().parse_known_args(args, namespace)
        for action in self._actions:
            value = getattr(namespace, action.dest, None)
            given = value if isinstance(value, list) else [value]
            if "" in given and value != action.default:
                name = "/".join(action.option_strings) or action.metavar or action.dest
                self.error(
                    f"argument {name}: expected a value, got an empty one: is a variable of the "
                    "shell not set?"
                )
        return namespace, rest

    def error(self, message):
        """Print the error in one line, with the nearest flag for an unknown one. Exit with 2."""
        for found, said in SAID.items():
            message = re.sub(found, said, message)
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            unknown = (unknown.split() or ["''"])[0]
            expected = "a setting of this command" if unknown[0] == "-" else "no further word"
            meant = self._meant(unknown) if unknown[0] == "-" else ""
            remedy = f"did you mean {meant}?" if meant else "leave it out"
            message = f"expected {expected}, got {unknown}: {remedy}"
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")

    def _meant(self, unknown):
        """Return the flag of this command that an unknown one stands for, or "" if none is near."""
        here = USUAL.get(unknown.partition("=")[0].lower().replace("_", "-"), "")
        if here.partition(" ")[0] in self._option_string_actions:
            return here
        flags = set(self._option_string_actions)
        if not unknown.startswith("--vers"):
            flags.discard("--version")  # --verbose does not mean it
        near = difflib.get_close_matches(unknown, sorted(flags), n=1)
        return near[0] if near else ""


def at_least(kind: type, least: float, most: float = MOST) -> Callable[[str], float]:
    """Return a `type` for argparse: an int or float from `least` to `most`."""

    def parsed(text):
        with contextlib.suppress(ValueError):
            if least <= (value := kind(text)) <= most:
                return value
        number = "whole number" if kind is int else "number"
        raise argparse.ArgumentTypeError(
            f"expected a {number} from {least} to {most:,}, got {text!r}: change it"
        )

    return parsed


class Interrupted(KeyboardInterrupt):
    """Work that a signal ended early. Its state is saved. `signum` is the signal's number."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


@contextlib.contextmanager
def stop_signals() -> Iterator[SimpleNamespace]:
    """`with stop_signals() as stop:` SIGINT, SIGTERM and SIGHUP set `stop.received`, once.

    The work inside looks at `stop.received` when it can stop. A second signal ends the process at
    once, except SIGHUP, which a closed terminal sends twice. SIGHUP stays ignored under `nohup`.
    """
    stop = SimpleNamespace(received=None)
    if threading.current_thread() is not threading.main_thread():  # other threads can't set any
        yield stop
        return

    def received(signum, frame):
        stop.received = signum
        for number in before:
            signal.signal(number, signal.SIG_IGN if number == hangup else signal.SIG_DFL)

    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hangup and signal.getsignal(hangup) != signal.SIG_IGN:
        numbers.append(hangup)
    before = {number: signal.signal(number, received) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_command(main: Callable[[], int]) -> int:
    """Call `main` and return the exit status of the command.

    It is main's own status, 2 after an error of the user, 128 + the number of a stop signal, or 1
    if the work is done but standard output could not be written.
    """
    with safe_streams() as stdout:
        status = _status_of(main)
        stdout.flush()
        # a reader that has read enough, such as `head`, closes its pipe: no error
        if stdout.failed is not None and not isinstance(stdout.failed, BrokenPipeError):
            return status or 1
        return status


def _status_of(main):
    try:
        return main()
    except MinilstmError as error:
        print(
            "error:", *str(error).splitlines(), file=sys.stderr
        )  # a path in it may have two lines
        return 2
    except MemoryError as error:
        print(
            f"error: expected enough memory, got {str(error) or 'too little'}: make frames, "
            "layers or batches smaller",
            file=sys.stderr,
        )
        return 2
    except (Exception, SystemExit) as error:
        where = _place_in_own_cell(error)
        if where is None:
            raise
        said = " ".join(str(error).split()) or "no message"
        print(
            f"error: {where}: expected a cell that works, got {type(error).__name__}: {said}; "
            "mend this line",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt as error:
        print("interrupted", file=sys.stderr)
        return 128 + getattr(error, "signum", signal.SIGINT)


def _place_in_own_cell(error):
    """Return "FILE, line N, in METHOD" where the user's own cell raised an error, or None."""
    places = [
        f"{frame.f_code.co_filename}, line {line}, in {frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").startswith(OWN_CELL)
    ]
    return places[-1] if places else None
