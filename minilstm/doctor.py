"""Check that this machine can train on its GPU, and measure the GPU's speed.

    python -m minilstm.doctor

The command prints one line per check: the finding, or the fault and one thing to do about it. It
stops at the first fault with exit status 2, because the later checks need the earlier ones. Then it
prints times and bandwidths, to compare with the GPU's data sheet.

Read next: benchmark/device.py.
"""

from __future__ import annotations

import sys

from .backend import use_backend
from .benchmark import device
from .command import Parser, run_command
from .errors import BackendError


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m minilstm.doctor",
        description="Check everything that --backend cupy needs, in order, and say what to install "
        "or repair. Exits with 2 if anything is missing.",
    )
    parser.parse_args(arguments)
    try:
        for name, found in device.examine():
            print(f"{'ok':<8}{name:<12}{found}", flush=True)
    except BackendError as error:
        name, _, message = str(error).partition(": ")
        print(f"{'FAILED':<8}{name:<12}{message}", flush=True)
        return 2
    print()
    with use_backend("cupy"):
        for name, value in device.measure():
            print(f"{name:<50}{value:>20}", flush=True)
    print("\nThis machine can train with --backend cupy.")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
