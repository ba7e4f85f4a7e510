"""Fixtures of all tests: the defaults of each test, and the samples of every layer."""

import contextlib
import importlib
import io
import os
import sys
from functools import lru_cache
from pathlib import Path
from unittest import mock

# two workers of one thread each: two of two threads each would wait for one another
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest

import minilstm
from minilstm import config
from minilstm.backend import set_backend, use_backend
from minilstm.checker import layer_classes
from minilstm.config import CellFile, cell_file
from minilstm.errors import ConfigError
from minilstm.experiments import action_experiments, many_runs
from minilstm.figures import style
from minilstm.files import write_file
from minilstm.layers.workspace import Fresh, use_workspace
from minilstm.runs.own_cell import read_cell
from minilstm.training import loop
from minilstm.training.progress import Progress

style.DPI = 75  # half of the usual: a fifth of the time of a page is that of its pixels

# the tests start hundreds of processes: only the first compiles the package
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# a process that a test starts, in whatever folder, imports the package that the test imports
paths = [str(Path(minilstm.__file__).parents[1]), os.environ.get("PYTHONPATH")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))


def pytest_addoption(parser):
    parser.addoption(
        "--cell", metavar="FILE:CLASS", help="try a cell of your own: tests/test_contracts.py"
    )


def pytest_configure(config):
    """Let the promises of test_contracts.py be tried on a cell of the user's own alone."""
    if text := config.getoption("--cell"):
        try:
            cells_to_try[:] = [read_cell(cell_file(text) or CellFile(text, ""))]
        except ConfigError as error:
            raise pytest.UsageError(f"--cell: {error}") from None


cells_to_try = []  # or those of the package


@pytest.fixture(autouse=True)
def numpy_float32_and_fresh_buffers():
    """Each test starts from the defaults, whatever the test before it chose."""
    set_backend("numpy", "float32")
    with use_workspace(Fresh()):
        yield


@pytest.fixture(scope="session")
def train_undrawn():
    """Train settings, {"model": {"layers": 2}, ...}, into a folder: pictures would take longer."""

    def trained(settings, out):
        with mock.patch.object(Progress, "draw", lambda run: None):
            loop.train(config.load(overrides=settings), out, quiet=True)

    return trained


@pytest.fixture(scope="session")
def tasks_here():
    """`with tasks_here():` runs the tasks of many_runs.py in this process; none is started."""

    def run_all(tasks, *_):
        for task in tasks:
            module, *arguments = task.words
            said = io.StringIO()
            with contextlib.redirect_stdout(said), use_backend("numpy", "float32"):
                assert importlib.import_module(module).main(arguments) == 0, task.name
            if task.output:
                write_file(task.output, said.getvalue())

    @contextlib.contextmanager
    def here():
        with (
            mock.patch.object(many_runs, "run_all", run_all),
            mock.patch.object(action_experiments, "run_all", run_all),
            mock.patch.object(Progress, "draw", lambda run: None),
        ):
            yield

    return here


@lru_cache
def every_sample():
    """(class, variant) of every sample in the package: found by the checker, not listed here."""
    with use_backend("numpy", "float64"):
        rng = np.random.default_rng(0)
        return [
            (cls, variant)
            for cls in cells_to_try or layer_classes()
            for variant in cls.samples(rng)
        ]


def pytest_generate_tests(metafunc):
    """A test that asks for `sample` runs once for every sample of every layer."""
    if "sample" in metafunc.fixturenames:
        names = [f"{cls.__name__} {variant}".strip() for cls, variant in every_sample()]
        metafunc.parametrize("sample", every_sample(), ids=names, indirect=True)


@pytest.fixture
def sample(request):
    """A layer with inputs, in float64, made anew for the test."""
    cls, variant = request.param
    with use_backend("numpy", "float64"):
        return cls.samples(np.random.default_rng(0))[variant]
