"""Export a run's weights for PyTorch, or import weights from it. PyTorch is not needed.

    python -m minilstm.interop export RUN FILE.safetensors
    python -m minilstm.interop import FILE.safetensors NEW_RUN --like RUN

This file reads the command line. runs/torch_names.py has the names and layouts, and PyTorch modules
that load an exported file without changes.

Read next: runs/torch_names.py.
"""

from __future__ import annotations

import sys

from .command import Parser, run_command
from .errors import ConfigError
from .files import expect_writable
from .runs.torch_names import export_run, import_run


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m minilstm.interop",
        usage="%(prog)s export RUN FILE [--keep-peepholes]\n"
        "       %(prog)s import FILE NEW_RUN --like RUN",
        description="Weights of a trained model to and from PyTorch, as a safetensors file.",
    )
    parser.add_argument("action", metavar="ACTION", choices=("export", "import"), help="which way")
    parser.add_argument("source", metavar="FROM", help="the run to export, or the file to import")
    parser.add_argument("target", metavar="TO", help="the new file, or the new run folder")
    parser.add_argument(
        "--keep-peepholes",
        action="store_true",
        help="export peepholes, too, as weight_peephole_l{k}, which nn.LSTM does not know",
    )
    parser.add_argument(
        "--like", metavar="RUN", help="import: a run folder or TOML file with the model's settings"
    )
    options = parser.parse_args(arguments)
    exports = options.action == "export"
    parser.expect_effect(
        (("--like", not exports, "import"), ("--keep-peepholes", exports, "export"))
    )
    if not exports and options.like is None:
        raise ConfigError(
            "expected --like RUN with import, got none: name a run with the same settings, or a "
            "TOML file of them"
        )
    if exports:
        expect_writable(options.target, suffix=".safetensors")
        export_run(options.source, options.target, options.keep_peepholes)
    else:
        import_run(options.source, options.target, options.like)
    print(f"wrote {options.target}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
