"""Make a small folder of a trained run: a model that can come with the package.

    python -m data_tools.pack_model RUN OUT --command TEXT --commit ID

OUT is a run folder again, so every command that takes a RUN takes it. Its weights are float16, half
the bytes. The optimizer's state is left out, so training can't go on from it. The settings name the
bundled digits and the CPU, so that the model can be judged anywhere. For the same reason a run on
other files, or with a cell in a file, is refused. OUT/about.toml has the command that trained the
run, the commit of the code, the SHA-256 of the weights, and the table that `minilstm.evaluate`
prints for the packed weights.

Read next: minilstm/runs/trained.py, which finds such folders in the package.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import tomli_w

from minilstm.backend import use_backend
from minilstm.command import Parser, run_command
from minilstm.errors import RunError, one_line
from minilstm.evaluation import judging
from minilstm.experiments.report_page import evaluated
from minilstm.experiments.run_figures import open_run
from minilstm.files import SUFFIX, make_folder, temporary_prefix, text_of, write_file
from minilstm.runs import build, checkpoint
from minilstm.runs.run_folder import RunFolder
from minilstm.runs.trained import ABOUT, find_run, hash_of

KEPT = ("step", "D", "seconds", "environment")  # of what the run's checkpoint says of itself
LOGGED = ("step", "seconds", "learning_rate", "reconstruction", "future")  # of each row of the log


def pack_model(run: str | Path, out: str | Path, command: str, commit: str) -> Path:
    """Write the folder `out` from the run folder `run`. Returns the path of its about.toml.

    The folder gets its name last, so that none is left if judging fails. Raises RunError if `out`
    has files in it, if a weight has no place in float16, or if the run needs other files.
    """
    source, out = RunFolder(find_run(run, or_trained=False)), Path(out)
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise RunError(f"expected a new or empty folder for OUT, got {out}: choose another")
    config, arrays, about = _weights(source)
    make_folder(out.parent)
    beside = {"prefix": temporary_prefix(out), "suffix": SUFFIX, "dir": out.parent}
    try:
        with tempfile.TemporaryDirectory(**beside) as temporary:
            packed = RunFolder(make_folder(Path(temporary, out.name)))
            checkpoint.write(
                packed.checkpoint,
                arrays,
                {"minilstm": json.dumps({key: about[key] for key in KEPT if key in about})},
            )
            log = "".join(json.dumps(row) + "\n" for row in _short_log(source))
            write_file(packed.log, log)
            write_file(packed.config, config.to_toml())
            text = {
                "command": text_of(command),
                "commit": text_of(commit),
                "sha256": hash_of(packed.checkpoint),
                "bytes": packed.checkpoint.stat().st_size,
                "evaluate": _table(packed.path) + "\n",
            }
            write_file(packed.path / ABOUT, tomli_w.dumps(text, multiline_strings=True))
            os.replace(packed.path, out)
    except OSError as error:
        raise RunError(
            f"{out}: expected a folder that can be written, got {one_line(error)}: choose another"
        ) from error
    return out / ABOUT


def _refuse_own_files(path, config):
    """Raise RunError for a run that can be judged only where the user's own files are."""
    own = config.data.path
    if config.data.source.endswith(".npy"):
        own = config.data.source
    elif config.model.cell_file:
        own = config.model.cell
    if own:
        raise RunError(
            f"{path}: expected a run that can be judged anywhere, on digits and with a cell of the "
            f"package, got one that needs {own}: copy its folder and that file instead"
        )


def _weights(source):
    """Return the packed settings, the parameters in float16, and what the checkpoint says."""
    config = build.read_config(source.path)
    _refuse_own_files(source.path, config)
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
