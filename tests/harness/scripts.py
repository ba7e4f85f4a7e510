"""Run scripts in processes that have imported the package's libraries already.

A server process imports them once and forks itself for every script. So a script starts in a
hundredth of a second, and it can change nothing for the script after it.
"""

import multiprocessing
import os
import runpy
import sys
import warnings
from pathlib import Path

LIBRARIES = (
    "numpy scipy.special matplotlib.figure matplotlib.backends.backend_agg PIL.Image "
    "minilstm.train minilstm.evaluate minilstm.experiments.run_figures minilstm.figures.diagrams"
).split()


def run(script: Path, output: Path, **environment: str) -> int:
    """Run a script as `python -W error script` does; return its exit status.

    What it prints is written to the file `output`. `environment` are further variables.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    process = context.Process(target=_run, args=(script, output, environment))
    process.start()
    process.join()
    return process.exitcode


def _run(script, output, environment):
    with output.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ.update(environment)
    sys.argv = [str(script)]
    sys.path.insert(0, str(script.parent))
    warnings.simplefilter("error")
    runpy.run_path(str(script), run_name="__main__")
