"""List the commands, or run one of them.

    python -m minilstm                    all commands, a line each
    python -m minilstm train --help       the same as python -m minilstm.train --help

The script `minilstm` does the same: `minilstm train --help`. A command is a module at the top of
the package that defines `main`. Its line is the first line of its docstring.

The tab key completes commands, flags, presets and choices after

    pip install -e '.[completion]'
    eval "$(register-python-argcomplete minilstm)"

Read next: train.py.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import os
import runpy
import sys
from pathlib import Path

import minilstm

from .command import Parser, run_command
from .errors import ConfigError


def commands(package: str = "minilstm") -> dict[str, str]:
    """Return every command's name and the first line of its docstring, in alphabetical order."""
    found, folder = {}, importlib.import_module(package).__path__[0]
    for path in sorted(Path(folder).glob("[!_]*.py")):
        tree = ast.parse(path.read_text("utf-8"))  # read, not imported: some modules import much
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            found[path.stem] = ast.get_docstring(tree).partition("\n")[0]
    return found


def overview(package: str = "minilstm") -> str:
    """Return the usage and one line for each command."""
    found = commands(package)
    width = max(map(len, found))
    lines = [f"  {name:<{width}}  {about}" for name, about in found.items()]
    return "\n".join(
        [
            f"usage: python -m {package} [--version] COMMAND ...",
            "",
            *lines,
            "",
            f"python -m {package} COMMAND --help says more",
        ]
    )


def main(arguments: list[str] | None = None, package: str = "minilstm") -> int:
    """Run the command of `package` that the first argument names. Returns the exit status.

    The command itself ends in SystemExit, as after `python -m minilstm.COMMAND`. data_tools lists
    and runs its commands by this function, too.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if "_ARGCOMPLETE" in os.environ:
        arguments = _typed_so_far()
    if arguments and arguments[0] in commands(package):
        sys.argv[1:] = arguments[1:]
        runpy.run_module(f"{package}.{arguments[0]}", run_name="__main__", alter_sys=True)
    return run_command(lambda: _answer(arguments, package))


def _typed_so_far():
    """Return the command that the shell asks completions for; complete its name and exit.

    argcomplete starts the script without arguments: COMP_LINE has what was typed. The command's own
    parser completes what follows its name, and _ARGCOMPLETE says after how many words it begins.
    """
    line = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])]
    words = line.split()
    if words[1:2] and words[1] in commands() and (words[2:] or line[-1].isspace()):
        os.environ["_ARGCOMPLETE"] = "2"
        return words[1:2]
    parser = Parser(prog="minilstm")
    parser.add_argument("command", choices=list(commands()))
    return parser.parse_args([])  # prints the names and exits


def _answer(arguments, package):
    if arguments == ["--version"]:
        print(f"minilstm {minilstm.__version__}")
        return 0
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview(package))
        return 0
    known = list(commands(package))
    meant = [*known, "--help", "--version"]
    nearest = difflib.get_close_matches(arguments[0], meant, n=1, cutoff=0)[0]
    raise ConfigError(
        f"expected one of the commands {', '.join(known)}, got {arguments[0]!r}: did you mean "
        f"{nearest!r}?"
    )


if __name__ == "__main__":
    sys.exit(main())
