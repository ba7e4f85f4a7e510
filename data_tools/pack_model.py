"""Make a small folder of a trained run: a model that can come with the package.

    python -m data_tools.pack_model RUN OUT --command TEXT --commit ID

OUT is a run folder again, so every command that takes a RUN takes it. Its weights are float16, half
the bytes. The optimizer's state is left out, so training can't go on from it. The settings name the
bundled digits and the CPU, so that the model can be judged anywhere. OUT/about.toml has the command
that trained the run, the commit of the code, the SHA-256 of the weights, and the table that
`minilstm.evaluate` prints for the packed weights.

Read next: minilstm/runs/trained.py, which finds such folders in the package.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import tomli_w

from minilstm.backend import use_backend
from minilstm.command import Parser, run_command
from minilstm.errors import RunError
from minilstm.evaluation import judging
from minilstm.experiments.report_page import evaluated
from minilstm.experiments.run_figures import open_run
from minilstm.files import make_folder, text_of, write_file
from minilstm.runs import build, checkpoint
from minilstm.runs.run_folder import RunFolder
from minilstm.runs.trained import ABOUT, find_run, hash_of

KEPT = ("step", "D", "seconds", "environment")  # of what the run's checkpoint says of itself
LOGGED = ("step", "seconds", "learning_rate", "reconstruction", "future")  # of each row of the log


def pack_model(run: str | Path, out: str | Path, command: str, commit: str) -> Path:
    """Write the folder `out` from the run folder `run`. Returns the path of its about.toml.

    Raises RunError if `out` holds a run, or if a weight has no place in float16.
    """
    source, packed = RunFolder(find_run(run, or_trained=False)), RunFolder(make_folder(out))
    packed.refuse(force=False)
    config, arrays, about = _weights(source)
    checkpoint.write(
        packed.checkpoint,
        arrays,
        {"minilstm": json.dumps({key: about[key] for key in KEPT if key in about})},
    )
    write_file(packed.log, "".join(json.dumps(row) + "\n" for row in _short_log(source)))
    write_file(packed.config, config.to_toml())
    size = packed.checkpoint.stat().st_size
    text = {
        "command": text_of(command),
        "commit": text_of(commit),
        "sha256": hash_of(packed.checkpoint),
        "bytes": size,
        "evaluate": _table(packed.path) + "\n",
    }
    write_file(packed.path / ABOUT, tomli_w.dumps(text, multiline_strings=True))
    return packed.path / ABOUT


def _weights(source):
    """Return the packed settings, the parameters in float16, and what the checkpoint says."""
    config = build.read_config(source.path)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, digits="bundled"),
        run=dataclasses.replace(config.run, backend="numpy", precision="float32"),
    )
    arrays, about = checkpoint.read(source.checkpoint)
    params = {name: x for name, x in arrays.items() if not name.startswith("optimizer.")}
    for name, array in params.items():
        if not (abs(array) <= np.finfo(np.float16).max).all():
            raise RunError(
                f"{source.checkpoint}: expected weights that float16 can hold, got others in "
                f"{name}: train anew with a lower --learning-rate"
            )
    return config, {name: x.astype(np.float16) for name, x in params.items()}, about


def _short_log(source):
    """Return the rows of the log, without the norms of the gradients, which take most bytes."""
    rows = source.rows() if source.log.exists() else []
    return [
        {key: row[key] for key in row if key in LOGGED or key.startswith("validation")}
        for row in rows
    ]


def _table(path):
    """Return what `minilstm.evaluate` prints for a run folder."""
    run = open_run(path)
    with use_backend("numpy", run.config.run.dtype):
        return judging.table(evaluated(run, 1000))


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m data_tools.pack_model",
        description="Make a small run folder of a trained run, with float16 weights and a "
        "description.",
    )
    parser.add_argument("run", metavar="RUN", help="a run folder of minilstm.train")
    parser.add_argument("out", metavar="OUT", help="the folder to write")
    parser.add_argument(
        "--command", metavar="TEXT", required=True, help="the command that trained the run"
    )
    parser.add_argument(
        "--commit", metavar="ID", required=True, help="the commit of the code that trained it"
    )
    options = parser.parse_args(arguments)
    print(pack_model(options.run, options.out, options.command, options.commit))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
