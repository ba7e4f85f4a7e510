"""The CuPy path: tests/on_cupy.py and the commands, on a GPU or on the real CuPy without one.

Without a GPU, the environment variable MINILSTM_EMULATED_CUDA names a folder with a program `run`.
It starts Python with an emulated CUDA driver and cuBLAS. CuPy compiles its kernels with the real
NVRTC, and the emulation executes them on the CPU. The emulation is not part of this repository.
"""

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from importlib import metadata
from pathlib import Path

import pytest

from minilstm.backend import use_backend
from minilstm.benchmark import gpu
from minilstm.errors import BackendError

ROOT = Path(__file__).parents[1]
EMULATED = {
    "cupy-cuda13x": "14.2.0",
    "nvidia-cuda-nvrtc": "13",
}  # the versions that the emulation supports
SMALL = "--frame-size 8 --digit-size 5 --past 3 --future 3 --hidden 4 --batch-size 4 --steps 2"


@functools.cache
def launcher():
    """Return the words before `python` that give it a device, or a reason to skip."""
    try:
        with use_backend("cupy"):
            return []
    except BackendError:
        pass
    folder = os.environ.get("MINILSTM_EMULATED_CUDA")
    if not folder:
        return "no GPU, and MINILSTM_EMULATED_CUDA is not set"
    try:
        found = {name: metadata.version(name) for name in EMULATED}
    except metadata.PackageNotFoundError:
        found = {}
    if not all(found.get(name, "").startswith(version) for name, version in EMULATED.items()):
        return "no GPU, and for the emulation " + " and ".join(
            f"{name}=={version}.*" if version.isdigit() else f"{name}=={version}"
            for name, version in EMULATED.items()
        ) + " are not installed"  # fmt: skip
    return [str(Path(folder, "run"))]


@contextlib.contextmanager
def compiling_alone():
    """Wait until no other test uses the emulation's cache of kernels.

    The emulation writes its cache without a lock. So one process could load a kernel that another
    one still writes. A call inside another one waits for ever.
    """
    import fcntl  # not on Windows

    lock = Path(tempfile.gettempdir(), f"minilstm-emulation-{os.getuid()}.lock")
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def on_device(*words, cwd=None):
    """Run `python words` on a device; return the finished process."""
    if isinstance(launcher(), str):
        pytest.skip(launcher())
    python = [*launcher(), sys.executable, *map(str, words)]
    environment = os.environ | {"PYTEST_ADDOPTS": ""}
    with compiling_alone() if launcher() else contextlib.nullcontext():
        return subprocess.run(python, capture_output=True, text=True, cwd=cwd, env=environment)


def pytest_on_device(tmp_path, *words):
    """Run tests/on_cupy.py. No test may fail; only tests of the emulation may be skipped."""
    emulation = ["-W", "ignore::ResourceWarning"]  # the emulation leaves files open
    results = tmp_path / "tests.xml"
    options = ["-q", "-n", "0", "-p", "no:cacheprovider", *emulation, f"--junitxml={results}"]
    done = on_device("-m", "pytest", ROOT / "tests" / "on_cupy.py", *options, *words, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    cases = list(ElementTree.parse(results).iter("testcase"))
    reasons = {skipped.get("message", "") for case in cases for skipped in case.iter("skipped")}
    allowed = ("only the emulation", "the emulation need not", "PyTorch is not installed")
    assert all(any(text in reason for text in allowed) for reason in reasons), reasons
    return len(cases)


def test_gradients_steps_runs_and_checkpoints_on_the_device(tmp_path):
    assert pytest_on_device(tmp_path) > 100


@pytest.mark.slow
def test_every_gradient_agrees_with_differences_on_the_device(tmp_path):
    assert pytest_on_device(tmp_path, "-m", "slow") > 30


@pytest.mark.slow
def test_bench_gpu_runs_from_its_comparison_of_results_to_its_table(tmp_path):
    """CuPy is on the emulated GPU, PyTorch on the CPU. The times mean nothing."""
    pytest.importorskip("torch", reason="torch is not installed: an optional witness")
    if launcher() == []:
        pytest.skip("a real GPU runs `python -m minilstm.bench gpu` itself")
    words = [ROOT / "tests" / "harness" / "bench_gpu.py", "--quick", "--only", "1x512"]
    done = on_device(*words, "--json", tmp_path / "found.json", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert row["launches"] == 2 and row["products"] > 50
    assert {f"{name} / ours" for name in gpu.CONTENDERS} == set(row["ratios"])
    assert "| 1x512, tf32 |" in done.stdout


def in_any_order(*words):
    """Run tests/harness/any_order.py; return its status and the last line of each order."""
    if launcher() == []:
        pytest.skip("the order of a real GPU can't be chosen")
    if isinstance(launcher(), str):
        pytest.skip(launcher())
    command = [sys.executable, ROOT / "tests" / "harness" / "any_order.py", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    lines = [line for line in done.stdout.splitlines() if line.startswith("order ")]
    assert lines, done.stdout + done.stderr
    return done.returncode, lines


SOME = "same_time or after_an_error or (pair_of and composite)"


def test_results_are_the_same_in_any_order_that_streams_allow():
    status, lines = in_any_order("--orders", "1", "-k", SOME)
    assert status == 0, lines


@pytest.mark.slow
def test_all_results_are_the_same_in_any_order_that_streams_allow():
    status, lines = in_any_order("--orders", "6")
    assert status == 0 and len(lines) == 6, lines


@pytest.mark.slow
def test_a_lost_wait_of_a_stream_is_noticed():
    status, lines = in_any_order("--orders", "3", "--lose", "8", "-k", SOME)
    assert status == 1 and all("failed" in line for line in lines), lines


@pytest.mark.slow
def test_kills_lose_nothing_while_a_thread_writes_checkpoints():
    words = "--backend cupy --kills 12 --steps 30 --every 12 --jobs 1".split()
    done = on_device(ROOT / "tests" / "harness" / "kill.py", *words, cwd=ROOT)
    assert done.returncode == 0 and "0 failures" in done.stdout, done.stdout + done.stderr


def test_the_commands_train_resume_and_evaluate_on_the_device(tmp_path):
    """Each command is a process of its own, and draws its pictures."""
    for words, said in (
        (f"train {SMALL} --backend cupy --out run", "on cupy in float32"),
        ("train --resume run --extend-to 4", "resumed   after step 2"),
        ("evaluate run --sequences 10 --backend cupy", "10 sequences, nats per frame"),
        (
            "classify --init-from run --frame-size 8 --length 6 --window 4 --labels 2 --test 1 "
            "--validation 1 --steps 2 --backend cupy",
            "clips of 18 classes, not used in training",
        ),
    ):
        module, *rest = words.split()
        done = on_device("-m", f"minilstm.{module}", *rest, cwd=tmp_path)
        assert done.returncode == 0 and said in done.stdout, (words, done.stdout, done.stderr)
        assert "error" not in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "run" / "prediction.gif").stat().st_size > 0


def test_the_doctor_finds_a_device_well(tmp_path):
    done = on_device("-m", "minilstm.doctor", "--backend", "cupy", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    names = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("ok ")]
    expected = "python numpy BLAS threads step import driver device cuBLAS NVRTC kernel".split()
    assert names == [*expected, "gradients", "parity", "graphs"]
    assert "GB/s" in done.stdout and "GFLOP/s" in done.stdout
