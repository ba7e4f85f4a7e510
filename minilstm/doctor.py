"""Check what this machine can train on, and measure its speed: first the CPU, then the GPU.

    python -m minilstm.doctor
    python -m minilstm.doctor --backend cupy       a GPU is needed: exit with 2 without one

The command prints one line per check: the finding, or what is missing and one thing to do about it.
The checks of a GPU stop at the first that fails, because the later ones need the earlier ones. If
none fails, the command prints times and bandwidths, to compare with the GPU's data sheet. A missing
GPU is an error only with `--backend cupy`.

Read next: benchmark/host.py, benchmark/device.py.
"""

from __future__ import annotations

import sys

from .backend import use_backend
from .benchmark import device, host
from .command import Parser, run_command
from .errors import BackendError


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m minilstm.doctor",
        description="Check what training on the CPU depends on, then everything that --backend "
        "cupy needs, in order, and say what to install or repair.",
    )
    parser.add_argument(
        "--backend",
        choices=("numpy", "cupy"),
        help="numpy: leave the GPU out; cupy: exit with 2 if the GPU lacks anything (default: look "
        "at both, and exit with 0)",
    )
    options = parser.parse_args(arguments)
    for name, found in host.describe():
        print_row("ok", name, found)
    if options.backend == "numpy":
        return 0
    print()
    try:
        for name, found in device.examine():
            print_row("ok", name, found)
    except BackendError as error:
        name, _, message = str(error).partition(": ")
        needed = options.backend == "cupy"
        absent = name == "import" and not needed
        print_row("absent" if absent else "FAILED", name, message)
        if needed:
            return 2
        print("\nThis machine can train on its CPU. A GPU is not needed.")
        return 0
    print()
    with use_backend("cupy"):
        for name, value in device.measure():
            print(f"{name:<50}{value:>20}", flush=True)
    print("\nThis machine can train with --backend cupy.")
    return 0


def print_row(state: str, name: str, found: str) -> None:
    """Print one line of the examination."""
    print(f"{state:<8}{name:<12}{found}", flush=True)


if __name__ == "__main__":
    sys.exit(run_command(main))
